"""Kubernetes quantities as numbers, and what pods ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from serving.cluster.objects import Json, identity

_SUFFIXES = {
    "": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(r"^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i|)$")


def number(quantity: object) -> float:
    """`250m` is 0.25, `1Gi` is 2^30. Raises ValueError."""
    found = _QUANTITY.match(str(quantity).strip())
    if found is None:
        raise ValueError(f"{quantity!r} is no quantity")
    return float(found[1]) * _SUFFIXES[found[2]]


def asked(spec: Mapping[str, object], what: str = "requests") -> dict[str, float]:
    """Of one pod: the sum over its containers, or its largest init container where that is more."""
    total: dict[str, float] = {}
    for container in _list(spec.get("containers")):
        for name, amount in _amounts(container, what):
            total[name] = total.get(name, 0.0) + amount
    for container in _list(spec.get("initContainers")):
        for name, amount in _amounts(container, what):
            total[name] = max(total.get(name, 0.0), amount)
    return total


def first_pods(thing: Json) -> Iterator[tuple[str, Json, int]]:
    """(name, pod spec, how many) of the pods that an object starts with. Ray's groups from zero have none."""
    spec, who = thing.get("spec") or {}, identity(thing)
    if who.kind in ("Deployment", "StatefulSet"):
        yield str(who), spec["template"]["spec"], int(spec.get("replicas", 1))
    elif who.kind == "Job":
        yield str(who), spec["template"]["spec"], int(spec.get("parallelism", 1))
    elif who.kind in ("RayService", "RayCluster", "RayJob") and not spec.get("suspend"):
        cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec
        yield f"{who} head", cluster["headGroupSpec"]["template"]["spec"], 1
        for group in cluster.get("workerGroupSpecs") or []:
            count = max(int(group.get("minReplicas") or 0), int(group.get("replicas") or 0))
            yield f"{who} {group['groupName']}", group["template"]["spec"], count


def storage(thing: Json) -> Iterator[tuple[str, str | None, float]]:
    """(name, storage class, bytes) of the volumes that an object claims. None: the cluster's default class."""
    spec, who = thing.get("spec") or {}, identity(thing)
    if who.kind == "PersistentVolumeClaim":
        yield who.name, spec.get("storageClassName"), _claimed(spec)
    elif who.kind == "StatefulSet":
        for claim in spec.get("volumeClaimTemplates") or []:
            for ordinal in range(int(spec.get("replicas", 1))):
                name = f"{claim['metadata']['name']}-{who.name}-{ordinal}"
                yield name, claim["spec"].get("storageClassName"), _claimed(claim["spec"])


def _claimed(spec: Json) -> float:
    return number(((spec.get("resources") or {}).get("requests") or {}).get("storage", 0))


def _amounts(container: Json, what: str) -> Iterator[tuple[str, float]]:
    resources = container.get("resources") or {}
    # A limit without a request is the request.
    told = {**(resources.get("limits") or {}), **(resources.get("requests") or {})} if what == "requests" else (
        resources.get("limits") or {}
    )  # fmt: skip
    for name, amount in told.items():
        yield str(name), number(amount)


def _list(value: object) -> Sequence[Json]:
    return value if isinstance(value, list) else []
