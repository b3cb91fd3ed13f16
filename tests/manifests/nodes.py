"""Layer 7, nodes: what asks for a GPU gets to a GPU node, nothing else does, and node pools fit what asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.manifests.documents import GPU, Document, PodTemplate, Rendered, title
from tests.manifests.words import quantity

_GPU_TAINT = {"key": GPU, "effect": "NoSchedule"}
#: Labels that every node has, or that its cloud gives it: no pool needs to promise them.
_ANYWHERE = ("kubernetes.io/", "topology.kubernetes.io/", "node.kubernetes.io/")
_PROTECTED = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def faults(rendered: Rendered) -> list[str]:
    """Of pods and of Karpenter's pools."""
    pods, pools = rendered.pods(), rendered.of("NodePool")
    found = [f"{pod.where}: {fault}" for pod in pods for fault in (*_gpu(pod), *_head(pod))]
    if "onprem" not in rendered.name or "cluster-autoscaler" in rendered.name:  # else the nodes are there already
        found += [f"{pod.where}: {fault}" for pod in pods for fault in _from_zero(pod)]
    found += [f"{pod.where}: {fault}" for pod in pods for fault in _placed(pod, pools)] if pools else []
    found += _together(pods)
    for pool in pools:
        found += [f"{title(pool)}: {fault}" for fault in _pool(pool, rendered)]
    return found


def tolerates(pod: PodTemplate, taint: Mapping[str, Any]) -> bool:
    """As Kubernetes' scheduler."""
    return any(_tolerated(one, taint) for one in pod.spec.get("tolerations") or ())


def _tolerated(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def _gpu(pod: PodTemplate) -> Iterator[str]:
    if pod.gpus and not tolerates(pod, _GPU_TAINT):
        yield f"spec.tolerations: asks for a GPU and does not tolerate the taint {GPU}: it could never start"
    if not pod.gpus and tolerates(pod, _GPU_TAINT):
        yield f"spec.tolerations: asks for no GPU and tolerates the taint {GPU}: it would keep a GPU node alive"
    claims = {one["name"] for one in pod.spec.get("resourceClaims") or ()}
    used = {
        claim["name"]
        for one in pod.spec.get("containers") or ()
        for claim in (one.get("resources") or {}).get("claims") or ()
    }
    if unused := claims - used:
        yield f"spec.resourceClaims: {', '.join(sorted(unused))} are used by no container"
    if claims and pod.role == "worker" and not pod.gpus:
        yield "spec.resourceClaims: Ray does not see what a claim brings: set the group's resources {GPU: ...}"


def _from_zero(pod: PodTemplate) -> Iterator[str]:
    found = [key for key in _selected(pod) if key.startswith("nvidia.com/")]
    if found:
        yield f"spec: selects nodes by {', '.join(found)}, which comes only after a node: none would start from zero"


def _selected(pod: PodTemplate) -> Iterator[str]:
    """Labels of nodes that it must have."""
    yield from pod.spec.get("nodeSelector") or {}
    wanted = ((pod.spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in wanted.get("nodeSelectorTerms") or ():
        yield from (one["key"] for one in term.get("matchExpressions") or ())


def _head(pod: PodTemplate) -> Iterator[str]:
    """The head holds no work, so that it can be small and stay."""
    if pod.role != "head":
        return
    if pod.gpus:
        yield "spec: the head has a GPU: its node would never go"
    for key in ("num-cpus", "num-gpus"):
        if (pod.group.get("rayStartParams") or {}).get(key) != "0":
            yield f'rayStartParams.{key}: must be "0": the head must not hold replicas or tasks'
    annotations = (pod.template.get("metadata") or {}).get("annotations") or {}
    for key, value in _PROTECTED.items():
        if annotations.get(key) != value:
            yield f'metadata.annotations: {key} must be "{value}": the head is a single point'


def _most(document: Document, users: list[PodTemplate]) -> float:
    """GPUs at most. A RayService that is upgraded by a second cluster has two of them meanwhile."""
    strategy = (document["spec"].get("upgradeStrategy") or {}).get("type")
    clusters = 2 if document["kind"] == "RayService" and strategy == "NewCluster" else 1
    return clusters * sum(pod.gpus * pod.group.get("maxReplicas", 0) for pod in users if pod.document is document)


def _together(pods: list[PodTemplate]) -> Iterator[str]:
    """Whatever asks for a GPU goes to the same nodes: those that the limits and labels of this set are about."""
    wanted = {pod.where: dict(pod.spec.get("nodeSelector") or {}) for pod in pods if pod.gpus}
    first = next(iter(wanted.values()), {})
    for where, selector in wanted.items():
        if selector != first:
            yield f"{where}: spec.nodeSelector: {selector}, where others that ask for a GPU have {first}"


def _placed(pod: PodTemplate, pools: list[Document]) -> Iterator[str]:
    """Where a set has node pools, one of them takes the pod."""
    if pod.spec.get("resourceClaims") and pod.gpus:
        yield "spec.resourceClaims: Karpenter 1.14 does not see claims: no node would come (use the device plugin)"
    possible = [pool for pool in pools if all(tolerates(pod, taint) for taint in _taints(pool))]
    if not possible:
        yield "spec.tolerations: tolerates the taints of no NodePool of this set"
        return
    wanted = pod.spec.get("nodeSelector") or {}
    if not any(_offers(pool, wanted) for pool in possible):
        yield f"spec.nodeSelector: {wanted} is what no NodePool that it tolerates has"


def _taints(pool: Document) -> list[Mapping[str, Any]]:
    """Those that stay. `startupTaints` go by themselves."""
    spec = pool["spec"]["template"]["spec"]
    return [one for one in spec.get("taints") or () if one.get("effect") != "PreferNoSchedule"]


def _offers(pool: Document, wanted: Mapping[str, str]) -> bool:
    template = pool["spec"]["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    named = {one["key"]: one for one in template["spec"].get("requirements") or ()}
    for key, value in wanted.items():
        if key in labels or key not in named:
            if labels.get(key, value if key.startswith(_ANYWHERE) else None) != value:
                return False
            continue
        one = named[key]
        if one["operator"] == "In" and value not in one["values"]:
            return False
    return True


def _pool(pool: Document, rendered: Rendered) -> Iterator[str]:
    spec, taints = pool["spec"], _taints(pool)
    users = [pod for pod in rendered.pods() if taints and all(tolerates(pod, taint) for taint in taints)]
    if taints and not users:
        yield f"spec.template.spec.taints: no pod of this set tolerates {', '.join(one['key'] for one in taints)}"
    gpu = any(taint["key"] == GPU for taint in taints)
    if not gpu:
        return
    limit = quantity((spec.get("limits") or {}).get(GPU, ""))
    if limit is None:
        yield f"spec.limits: {GPU} is missing: it is the cap on cost"
        return
    asked = {title(one): _most(one, users) for one in rendered.of("RayService", "RayJob")}
    if sum(asked.values()) > limit:
        said = ", ".join(f"{name} may ask for {most:g}" for name, most in asked.items() if most)
        yield f"spec.limits: {GPU} {limit}: {said} (two clusters in an upgrade): pods would stay pending"
    policy = spec["disruption"].get("consolidationPolicy", "WhenEmptyOrUnderutilized")
    if policy != "WhenEmpty":
        yield f"spec.disruption.consolidationPolicy: {policy} moves a GPU pod that serves: WhenEmpty"
