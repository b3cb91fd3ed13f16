"""Which of our overlays suits a cluster, by what it says about itself."""

from __future__ import annotations

from serving.cluster.connection import Cluster
from serving.errors import ClusterRefused

_BY_VERSION = (("-eks-", "eks"), ("-gke.", "gke"))
_BY_LABEL = (
    ("eks.amazonaws.com/", "eks"),
    ("cloud.google.com/gke-", "gke"),
    ("kubernetes.azure.com/", "aks"),
    ("minikube.k8s.io/", "local"),
)
_BY_PROVIDER = (("aws://", "eks"), ("gce://", "gke"), ("azure://", "aks"), ("kind://", "local"), ("k3s://", "local"))
#: Where nothing tells: the smallest one.
FALLBACK = "local"


def overlay_for(cluster: Cluster) -> tuple[str, str]:
    """(overlay, why). Raises ClusterUnavailable, ClusterRefused (401)."""
    version = str(cluster.get("/version", patience_s=5.0).get("gitVersion", ""))
    for part, overlay in _BY_VERSION:
        if part in version:
            return overlay, f"Kubernetes {version}"
    try:
        nodes = cluster.items("/api/v1/nodes")
    except ClusterRefused as refused:
        if refused.status == 401:
            raise
        return FALLBACK, "you may not list nodes"
    for node in nodes:
        provider = str((node.get("spec") or {}).get("providerID") or "")
        for start, overlay in _BY_PROVIDER:
            if provider.startswith(start):
                return overlay, f"a node's provider is {provider.partition('://')[0]}"
        for label in node["metadata"].get("labels") or {}:
            for start, overlay in _BY_LABEL:
                if label.startswith(start):
                    return overlay, f"a node is labelled {label}"
    return FALLBACK, "nothing tells another one"
