"""One look at the serving side, from outside of it: who serves, and which GPU nodes are up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from serving.cluster.connection import Cluster
from serving.cluster.fit import GPU
from serving.cluster.gpu_types import AWS, AZURE, GKE, PRESENT, PRODUCT
from serving.cluster.look import listed
from serving.cluster.objects import PART_OF, Json
from serving.cluster.quantities import asked, number
from serving.cluster.status import metrics, replicas
from serving.cluster.waits import condition
from serving.errors import AnchorageError, ClusterRefused, NotFound, Unavailable

_METRICS_S = 5.0
#: Karpenter's GPU nodes of ours.
_POOL = ("anchorage.dev/pool", "gpu")
_GPU_LABELS = (AWS, AZURE, GKE, PRODUCT)


@dataclass(frozen=True, slots=True)
class Node:
    """`ours`: it has a GPU pod of ours on it, or is of our own pool. `gpu_type`: as `anchorage plan` names it."""

    gpus: int
    ours: bool
    gpu_type: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Names of what serves, by deployment, and how many are wanted, where that is known.

    `unsure`: deployments whose replicas may be left out of one look though they are there. `nodes`: with GPUs, by name;
    None where they may not be seen. `missing`: what could not be looked at, and why.
    """

    ready: Mapping[str, frozenset[str]] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()
    nodes: Mapping[str, Node] | None = None
    missing: Sequence[str] = ()


Looking: TypeAlias = Callable[[], Look]


def of_cluster(cluster: Cluster, namespace: str) -> Looking:
    """Ray Serve's deployments by their own metrics, Ray's pods by group, Deployments and StatefulSets by name.

    A look raises ClusterUnavailable, ClusterRefused.
    """

    def look() -> Look:
        pods = [pod for pod in cluster.items(f"/api/v1/namespaces/{namespace}/pods") if _ours(pod)]
        ready, wanted = _groups(pods), _wanted(cluster, namespace)
        for group in wanted:
            ready.setdefault(group, frozenset())
        missing = []
        for thing in _controllers(cluster, namespace):
            name = str(thing["metadata"]["name"])
            wanted[name] = int((thing.get("spec") or {}).get("replicas", 1))
            ready.setdefault(name, frozenset(_owned(pods, name)))
        try:
            serving = _named(replicas(metrics(cluster, namespace)))
        except AnchorageError as error:
            serving = {}
            missing.append(f"replicas of Ray Serve: {error}")
        nodes = _nodes(cluster, pods)
        if nodes is None:
            missing.append("GPU nodes: they may not be listed")
        return Look({**ready, **serving}, wanted, frozenset(serving), nodes, missing)

    return look


def of_server(url: str, api_key: str = "") -> Looking:
    """By its own metrics. A look raises Unavailable."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    # Kept: to make one takes 20 ms of CPU, beside the load.
    client = httpx.Client(headers=headers, timeout=_METRICS_S)

    def look() -> Look:
        try:
            answer = client.get(f"{url.rstrip('/')}/metrics")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{url}/metrics: {error}") from error
        serving = _named(replicas(answer.text)) if answer.status_code == 200 else {}
        missing = [] if any(serving.values()) else [f"replicas: {url}/metrics does not tell them"]
        return Look(serving, {}, frozenset(serving), None, missing)

    return look


def _named(found: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    """What every laptop has none of is left out: a server without Ray names no replicas."""
    return {name: frozenset(each) for name, each in found.items()} if any(found.values()) else {}


def _ours(pod: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(PART_OF) == "anchorage" and labels.get("app.kubernetes.io/component") != "loadtest"


def _ready(pod: Json) -> bool:
    return condition(pod, "Ready").get("status") == "True" and not pod["metadata"].get("deletionTimestamp")


def _groups(pods: Sequence[Json]) -> dict[str, frozenset[str]]:
    """Ready pods of the serving Ray cluster: `pods cpu`, `pods gpu`."""
    found: dict[str, set[str]] = {}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        if labels.get("ray.io/group") and labels.get("app.kubernetes.io/component") == "serving":
            names = found.setdefault(f"pods {labels['ray.io/group']}", set())
            if _ready(pod):
                names.add(str(pod["metadata"]["name"]))
    return {name: frozenset(each) for name, each in found.items()}


def _wanted(cluster: Cluster, namespace: str) -> dict[str, int]:
    """By Ray's autoscaler, which writes it into the cluster."""
    found: dict[str, int] = {}
    for thing in listed(cluster, f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters"):
        owners = thing["metadata"].get("ownerReferences") or []
        if any(owner.get("kind") == "RayService" for owner in owners):
            for group in (thing.get("spec") or {}).get("workerGroupSpecs") or []:
                name = f"pods {group['groupName']}"
                found[name] = found.get(name, 0) + int(group.get("replicas") or 0)
    return found


def _controllers(cluster: Cluster, namespace: str) -> Iterator[Json]:
    for plural in ("deployments", "statefulsets"):
        for thing in listed(cluster, f"/apis/apps/v1/namespaces/{namespace}/{plural}"):
            if (thing["metadata"].get("labels") or {}).get(PART_OF) == "anchorage":
                yield thing


def _owned(pods: Sequence[Json], name: str) -> Iterator[str]:
    """Pods of a StatefulSet, or of a Deployment through its ReplicaSet."""
    for pod in pods:
        owners = {str(owner.get("name")) for owner in pod["metadata"].get("ownerReferences") or []}
        if _ready(pod) and (name in owners or name in {owner.rpartition("-")[0] for owner in owners}):
            yield str(pod["metadata"]["name"])


def _nodes(cluster: Cluster, pods: Sequence[Json]) -> dict[str, Node] | None:
    try:
        nodes = cluster.items("/api/v1/nodes")
    except (ClusterRefused, NotFound):
        return None
    used = {(pod.get("spec") or {}).get("nodeName") for pod in pods if asked(pod.get("spec") or {}).get(GPU)}
    found = {}
    for node in nodes:
        name, labels = str(node["metadata"]["name"]), node["metadata"].get("labels") or {}
        gpus = int(number(((node.get("status") or {}).get("allocatable") or {}).get(GPU, 0)))
        ours = name in used or labels.get(_POOL[0]) == _POOL[1]
        if gpus or ours or PRESENT in labels:
            found[name] = Node(gpus, ours, _type(labels))
    return found


def _type(labels: Mapping[str, str]) -> str:
    """Empty where no label tells it, or tells two apart only by what is in another one."""
    for label in _GPU_LABELS:
        names = [name for name, values in label.values.items() if labels.get(label.key) in values]
        if len(names) == 1:
            return names[0]
    return ""
