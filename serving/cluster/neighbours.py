"""Deployments of ours beside each other: what is cluster-wide is used by all, and belongs to one of them."""

from __future__ import annotations

from serving.cluster.connection import Cluster
from serving.cluster.kinds import Kind
from serving.cluster.objects import MANAGED_BY, MANAGER

#: What every deployment has; where no API server knows it, nothing of ours runs, and the Services tell who was here.
RAY_GROUP, RAY_VERSION, RAY_SERVICE = "ray.io", "ray.io/v1", "RayService"
_SERVICE = Kind("v1", "Service", "services", namespaced=True)


def living(cluster: Cluster, ray_service: Kind | None, namespace: str = "") -> set[str]:
    """The namespaces that have a deployment of ours: of all, or of one. Raises as Cluster.

    `ray_service`: None where the cluster does not know the kind. One that is being deleted is there until it is gone.
    """
    path = (ray_service or _SERVICE).path(namespace)
    listed = cluster.items(path, {"labelSelector": f"{MANAGED_BY}={MANAGER}"})
    return {str(thing["metadata"]["namespace"]) for thing in listed}
