"""Is there room for it: quotas and limits of the namespace, storage, GPUs, now or when a node autoscaler makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serving.cluster.connection import Cluster, Json
from serving.cluster.findings import Finding, error, warning
from serving.cluster.fit import GPU, gpu_group
from serving.cluster.kinds import Kinds
from serving.cluster.objects import pod_templates
from serving.cluster.quantities import asked, first_pods, number, storage
from serving.cluster.tailor import shape
from serving.errors import ClusterRefused, NotFound

#: Of a node's disk: the kubelet evicts when a tenth is left (`nodefs.available`).
_USABLE = 0.9
#: What says that nodes come by themselves, by the labels of the nodes that are there: (prefix, who, what it needs).
_CLOUDS = (
    ("cloud.google.com/gke-", "GKE", "a node pool with GPUs that may grow from zero, or node auto-provisioning"),
    ("eks.amazonaws.com/", "EKS", "the component `karpenter`, or a node group with GPUs that may grow from zero"),
    ("kubernetes.azure.com/", "AKS", "a node pool with GPUs that may grow from zero, or node auto-provisioning"),
)


def quotas(cluster: Cluster, kinds: Kinds, namespace: str, things: Sequence[Json]) -> Iterator[Finding]:
    """What the pods of the start ask for, against what each ResourceQuota leaves; LimitRanges against containers."""
    wanted = _start(things)
    for quota in cluster.items(f"/api/v1/namespaces/{namespace}/resourcequotas"):
        spec, status = quota.get("spec") or {}, quota.get("status") or {}
        hard, used = status.get("hard") or spec.get("hard") or {}, status.get("used") or {}
        partial = bool(spec.get("scopes") or spec.get("scopeSelector"))
        for name, amount in wanted.items():
            if name not in hard:
                continue
            left = number(hard[name]) - number(used.get(name, 0))
            if amount > left:
                what = (
                    f"The quota {quota['metadata']['name']} leaves {left:g} of {name}, and the start needs {amount:g}."
                )
                yield (warning if partial else error)(what, "Ask for a larger quota, or choose smaller resources.")
        yield from _gpu_quota(quota["metadata"]["name"], hard, things)
    for limits in cluster.items(f"/api/v1/namespaces/{namespace}/limitranges"):
        yield from _limits(limits, things)


def _start(things: Sequence[Json]) -> dict[str, float]:
    """By the names that quotas have for it."""
    total: dict[str, float] = {}

    def add(name: str, amount: float) -> None:
        total[name] = total.get(name, 0.0) + amount

    for thing in things:
        for _, spec, count in first_pods(thing):
            add("pods", count)
            for name, amount in asked(spec).items():
                add(f"requests.{name}", count * amount)
                if name in ("cpu", "memory"):
                    add(name, count * amount)
            for name, amount in asked(spec, "limits").items():
                if "/" not in name:
                    add(f"limits.{name}", count * amount)
        for _, _, size in storage(thing):
            add("requests.storage", size)
            add("persistentvolumeclaims", 1)
    return total


def _gpu_quota(quota: str, hard: Json, things: Sequence[Json]) -> Iterator[Finding]:
    wanted = shape(things)
    limit = hard.get(f"requests.{GPU}")
    if limit is not None and number(limit) < wanted.gpus * wanted.replicas:
        yield warning(
            f"The quota {quota} allows {number(limit):g} GPUs; {wanted.replicas} replicas of the LLM with "
            f"{wanted.gpus} each would need {wanted.gpus * wanted.replicas}.",
            "More replicas than it allows stay pending: lower --max-replicas, or ask for a larger quota.",
        )


def _limits(limits: Json, things: Sequence[Json]) -> Iterator[Finding]:
    name = limits["metadata"]["name"]
    for item in (limits.get("spec") or {}).get("limits") or []:
        if item.get("type") != "Container":
            continue
        for thing in things:
            for path, template in pod_templates(thing):
                for container in template["spec"]["containers"]:
                    resources = container.get("resources") or {}
                    for kind, largest in (item.get("max") or {}).items():
                        told = (resources.get("limits") or {}).get(kind)
                        if told is not None and number(told) > number(largest):
                            where = f"{thing['kind']}/{thing['metadata']['name']} {path} {container['name']}"
                            yield error(
                                f"The LimitRange {name} allows {kind} {largest} a container; {where} has {told}.",
                                "Ask for a larger limit, or choose smaller resources in an overlay of your own.",
                            )


def volumes(cluster: Cluster, kinds: Kinds, namespace: str, things: Sequence[Json]) -> Iterator[Finding]:
    """Storage classes that volumes name, and a default one where they name none."""
    claims = [claim for thing in things for claim in storage(thing)]
    if not claims:
        return
    classes = cluster.items("/apis/storage.k8s.io/v1/storageclasses")
    names = {each["metadata"]["name"] for each in classes}
    default = any(
        (each["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true"
        for each in classes
    )
    unnamed = sorted({name for name, chosen, _ in claims if chosen is None})
    if unnamed and not default:
        yield warning(
            f"The cluster has no default storage class: {', '.join(unnamed)} will wait for a volume.",
            "Mark one: kubectl annotate storageclass NAME storageclass.kubernetes.io/is-default-class=true; "
            + (f"there is {', '.join(sorted(names))}." if names else "there is none at all: install a provisioner."),
        )
    for chosen in sorted({chosen for _, chosen, _ in claims if chosen and chosen not in names}):
        yield warning(f"There is no storage class {chosen!r}, which volumes ask for.", "Install it, or name another.")


def gpus(cluster: Cluster, kinds: Kinds, namespace: str, things: Sequence[Json]) -> Iterator[Finding]:
    """Nodes with GPUs, or somebody who makes them."""
    wanted = shape(things)
    if not wanted.gpus:
        return
    if any(
        thing.get("kind") == "NodePool" and GPU in ((thing.get("spec") or {}).get("limits") or {}) for thing in things
    ):
        return
    try:
        nodes = cluster.items("/api/v1/nodes")
    except ClusterRefused as refused:
        if refused.status == 401:
            raise
        yield warning("Whether there are GPUs cannot be seen: you may not list nodes.")
        return
    most = max((number(((node.get("status") or {}).get("allocatable") or {}).get(GPU, 0)) for node in nodes), default=0)
    if most >= wanted.gpus or _node_pools(cluster, kinds):
        return
    if most:
        yield warning(
            f"A replica of the LLM asks for {wanted.gpus} GPUs on one node; the largest node has {most:g}.",
            "Choose fewer with --gpus, or add larger nodes.",
        )
        return
    labels = {label for node in nodes for label in (node["metadata"].get("labels") or {})}
    for prefix, cloud, needed in _CLOUDS:
        if any(label.startswith(prefix) for label in labels):
            yield warning(f"No node has a GPU now. On {cloud} they come with {needed}.")
            return
    yield warning(
        "No node has a GPU, and nothing was found that would make one: the LLM will wait; search and extractive "
        "answers work meanwhile.",
        "Add nodes with GPUs and the device plugin (manifests/infrastructure), or a node autoscaler.",
    )


def disks(cluster: Cluster, kinds: Kinds, namespace: str, things: Sequence[Json]) -> Iterator[Finding]:
    """Whether a new GPU node's disk holds what a GPU pod asks for: Karpenter starts none that does not."""
    groups = [group for thing in things if (group := gpu_group(thing)) is not None]
    needed = max((asked(group["template"]["spec"]).get("ephemeral-storage", 0.0) for group in groups), default=0.0)
    kind = kinds.find("karpenter.k8s.aws/v1", "EC2NodeClass")
    classes = {
        str(thing["spec"]["template"]["spec"]["nodeClassRef"]["name"])
        for thing in things
        if thing.get("kind") == "NodePool" and GPU in (thing["spec"].get("limits") or {})
    }
    if not needed or kind is None or not classes:
        return
    for live in cluster.items(kind.path("")):
        mapped = (live.get("spec") or {}).get("blockDeviceMappings") or []
        sizes = [number((each.get("ebs") or {}).get("volumeSize", 0)) for each in mapped]
        if live["metadata"]["name"] in classes and sizes and needed > max(sizes) * _USABLE:
            yield warning(
                f"A GPU pod asks for {needed / 2**30:.0f} GiB of disk; nodes of the EC2NodeClass "
                f"{live['metadata']['name']} have {max(sizes) / 2**30:.0f} GiB, a tenth kept free: none will come.",
                "Raise its volumeSize (manifests/infrastructure, karpenter), or keep the weights off the disk: --with "
                "weights-shared-volume or weights-object-storage.",
            )


def _node_pools(cluster: Cluster, kinds: Kinds) -> bool:
    """Karpenter's, or the Cluster Autoscaler's own word that it runs."""
    try:
        kind = kinds.find("karpenter.sh/v1", "NodePool")
        if kind is not None and cluster.items(kind.path("")):
            return True
        return cluster.find("/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status") is not None
    except (ClusterRefused, NotFound):
        return False
