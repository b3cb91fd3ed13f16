"""What there is of a deployment, what it does, and what it waits for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from serving.cluster.connection import Cluster, Json
from serving.cluster.fit import GPU
from serving.cluster.kinds import Kinds
from serving.cluster.look import listed, look, reasons
from serving.cluster.objects import PART_OF, Identity
from serving.cluster.quantities import asked, number
from serving.cluster.waits import Seen, condition, time_of
from serving.errors import AnchorageError

#: What we look for, wherever it came from: `anchorage deploy`, or kubectl.
_LOOKED_FOR = (
    ("ray.io/v1", "RayService"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("milvus.io/v1beta1", "Milvus"),
    ("cert-manager.io/v1", "Certificate"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
)
#: A metric that every replica of a deployment has, once.
_COUNTED = {
    "Api": "anchorage_requests_running",
    "Embedder": "anchorage_embedder_passes_total",
    "Ingestor": "anchorage_operations_waiting",
    "Llm": "anchorage_engine_requests",
}
_Sample: TypeAlias = tuple[str, Mapping[str, Any], float]
_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} ([0-9.eE+-]+)$", re.MULTILINE)
_METRICS_S = 5.0


def status(cluster: Cluster, kinds: Kinds, namespace: str) -> Json:
    """As `anchorage status --cluster --json` prints it. Raises as Cluster."""
    workloads = _workloads(cluster, kinds, namespace)
    seen = look(cluster, kinds, namespace, workloads)
    now = datetime.now(UTC)
    waiting = reasons(cluster, namespace, seen)
    pods = [pod for pod in seen.pods if _ours(pod)]
    blocked = {each.what for each in waiting if each.blocks}
    return {
        "ready": bool(workloads) and not blocked,
        "server": cluster.name,
        "namespace": namespace,
        "workloads": [{"name": str(who), "ready": str(who) not in blocked} for who in workloads],
        "deployments": _deployments(seen),
        "pods": [_pod(pod, now) for pod in pods],
        "gpu_nodes": _gpu_nodes(cluster, pods, now),
        "load": _load(cluster, namespace),
        "waiting": [
            {"what": each.what, "reason": each.reason, "blocks": each.blocks, "since_s": _rounded(each.seconds(now))}
            for each in waiting
        ],
    }


def _workloads(cluster: Cluster, kinds: Kinds, namespace: str) -> list[Identity]:
    found: list[Identity] = []
    for api_version, name in _LOOKED_FOR:
        kind = kinds.find(api_version, name)
        things = _labelled(cluster, kind.path(namespace)) if kind else []
        found += [Identity(api_version, name, namespace, str(thing["metadata"]["name"])) for thing in things]
    return found


def _labelled(cluster: Cluster, path: str) -> list[Json]:
    # What an operator made of something else is not looked at beside it.
    return [thing for thing in listed(cluster, path) if _ours(thing) and not thing["metadata"].get("ownerReferences")]


def _ours(thing: Json) -> bool:
    labels = thing["metadata"].get("labels") or {}
    return labels.get(PART_OF) == "anchorage" or "ray.io/cluster" in labels


def _deployments(seen: Seen) -> Json:
    """Of Ray Serve: {name: {"status", "message"}}, as the RayService has them."""
    found: Json = {}
    for thing in seen.workloads:
        for which in ("activeServiceStatus", "pendingServiceStatus"):
            applications = ((thing.get("status") or {}).get(which) or {}).get("applicationStatuses") or {}
            for application in applications.values():
                for name, told in (application.get("serveDeploymentStatuses") or {}).items():
                    found.setdefault(name, {"status": told.get("status"), "message": told.get("message") or ""})
    return found


def _pod(pod: Json, now: datetime) -> Json:
    metadata, told = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    made = time_of(metadata.get("creationTimestamp"))
    statuses = told.get("containerStatuses") or []
    return {
        "name": metadata["name"],
        "component": labels.get("app.kubernetes.io/component", ""),
        "group": labels.get("ray.io/group", ""),
        "phase": "Terminating" if metadata.get("deletionTimestamp") else told.get("phase", "Unknown"),
        "ready": condition(pod, "Ready").get("status") == "True",
        "node": (pod.get("spec") or {}).get("nodeName"),
        "gpus": int(asked(pod.get("spec") or {}).get(GPU, 0)),
        "restarts": sum(int(each.get("restartCount") or 0) for each in statuses),
        "age_s": _rounded((now - made).total_seconds() if made else None),
    }


def _gpu_nodes(cluster: Cluster, pods: Sequence[Json], now: datetime) -> list[Json] | None:
    """Nodes with GPUs, each with our pods on it. None where this user may not look at nodes."""
    try:
        nodes = cluster.items("/api/v1/nodes")
    except AnchorageError:
        return None
    found = []
    for node in nodes:
        gpus = number(((node.get("status") or {}).get("allocatable") or {}).get(GPU, 0))
        name = node["metadata"]["name"]
        on_it = [pod for pod in pods if (pod.get("spec") or {}).get("nodeName") == name]
        wanted = sum(asked(pod["spec"]).get(GPU, 0) for pod in on_it)
        if gpus or wanted:
            made = time_of(node["metadata"].get("creationTimestamp"))
            found.append(
                {
                    "name": name,
                    "gpus": int(gpus),
                    "used": int(wanted),
                    "ready": condition(node, "Ready").get("status") == "True",
                    "age_s": _rounded((now - made).total_seconds() if made else None),
                    "pods": [pod["metadata"]["name"] for pod in on_it if asked(pod["spec"]).get(GPU)],
                }
            )
    return found


def _load(cluster: Cluster, namespace: str) -> Json:
    """Replicas, and requests that wait or are worked on, by the deployment's own metrics. `reason`: why not."""
    try:
        text = metrics(cluster, namespace)
    except AnchorageError as error:
        return {"replicas": None, "reason": f"its metrics could not be read: {error}"}
    samples = _samples(text)

    def total(name: str) -> float:
        return sum(value for each, _, value in samples if each == name)

    return {
        "replicas": {deployment: len(names) for deployment, names in _replicas(samples).items()},
        "requests_running": total("anchorage_requests_running"),
        "requests_queued": total("anchorage_requests_queued"),
        "engine_running": total("anchorage_engine_requests"),
        "uploads_waiting": total("anchorage_operations_waiting"),
        "reason": "",
    }


def metrics(cluster: Cluster, namespace: str) -> str:
    """The page of the deployment's own `/metrics`. Raises as `Cluster.text`."""
    return cluster.text(f"/api/v1/namespaces/{namespace}/services/anchorage:serve/proxy/metrics", silence_s=_METRICS_S)


def replicas(text: str) -> dict[str, set[str]]:
    """Names of the replicas by deployment of Ray Serve, as our own `/metrics` has them; none for one that sleeps."""
    return _replicas(_samples(text))


def _replicas(samples: Sequence[_Sample]) -> dict[str, set[str]]:
    return {
        deployment: {str(labels.get("replica")) for each, labels, _ in samples if each == metric}
        for deployment, metric in _COUNTED.items()
    }


def _samples(text: str) -> list[_Sample]:
    return [(name, _labels(labels), float(value)) for name, labels, value in _SAMPLE.findall(text)]


def _labels(text: str) -> Mapping[str, Any]:
    return dict(re.findall(r'(\w+)="([^"]*)"', text))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds), 1)
