"""What an object is called, where it belongs, and whose it is: pure functions over plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

#: Our field manager, and the value of the label that marks what we applied.
MANAGER = "anchorage"
MANAGED_BY = "app.kubernetes.io/managed-by"
#: The namespace of the installation: what is cluster-wide says which one it belongs to.
INSTANCE = "app.kubernetes.io/instance"
PART_OF = "app.kubernetes.io/part-of"

#: What the others need comes first; custom resources, which operators act on, last. Taken away in reverse.
_ORDER = (
    "Namespace",
    "PriorityClass",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "ServiceAccount",
    "Secret",
    "ConfigMap",
    "PersistentVolumeClaim",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "PodDisruptionBudget",
    "DaemonSet",
    "StatefulSet",
    "Deployment",
    "Job",
    "CronJob",
)
#: Custom resources that others wait for, and those that others do not need.
_EARLY_GROUPS = ("karpenter.sh", "kueue.x-k8s.io", "resource.k8s.io", "cert-manager.io", "milvus.io")

#: Kinds without a namespace that our manifests have; where the server can be asked, it decides.
CLUSTER_WIDE = frozenset(
    {
        "Namespace",
        "PriorityClass",
        "ClusterRole",
        "ClusterRoleBinding",
        "StorageClass",
        "CustomResourceDefinition",
        "DeviceClass",
        "RuntimeClass",
        "GatewayClass",
        "ClusterIssuer",
        "NodePool",
        "EC2NodeClass",
        "ClusterQueue",
        "ResourceFlavor",
        "WorkloadPriorityClass",
        "AdmissionCheck",
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One object. `namespace` is empty where it has none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @property
    def group(self) -> str:
        return self.api_version.partition("/")[0] if "/" in self.api_version else ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def identity(thing: Mapping[str, Any]) -> Identity:
    metadata = thing.get("metadata") or {}
    return Identity(
        str(thing.get("apiVersion", "")),
        str(thing.get("kind", "")),
        str(metadata.get("namespace") or ""),
        str(metadata.get("name", "")),
    )


def in_order(things: Iterable[Json]) -> list[Json]:
    """As they are to be applied; among equals, by name, so that each run is the same."""
    return sorted(things, key=lambda thing: (_rank(identity(thing)), identity(thing)))


def _rank(who: Identity) -> int:
    if who.kind in _ORDER:
        return _ORDER.index(who.kind)
    if who.group in _EARLY_GROUPS:
        # Between what is only looked up and what starts pods.
        return _ORDER.index("Service")
    return len(_ORDER) + (1 if who.group == "ray.io" else 0)


def pod_templates(thing: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    """Every pod template in an object, with its path: of workloads, and inside custom resources."""
    yield from _templates(thing, "")


def _templates(value: object, path: str) -> Iterator[tuple[str, Json]]:
    if isinstance(value, Mapping):
        spec = value.get("spec")
        if path.lower().endswith("template") and isinstance(spec, Mapping) and "containers" in spec:
            yield path, dict(value)
            return
        for key, inner in value.items():
            yield from _templates(inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _templates(inner, f"{path}[{number}]")


def secret_references(things: Iterable[Json]) -> dict[tuple[str, str], bool]:
    """(Secret, key) that pods of these need; True: they start without it. `key` is empty where all keys are meant."""
    found: dict[tuple[str, str], bool] = {}

    def note(name: object, key: object, optional: object) -> None:
        if isinstance(name, str) and name:
            place = (name, str(key or ""))
            found[place] = found.get(place, True) and optional is True

    def look(value: object) -> None:
        if isinstance(value, Mapping):
            for kind in ("secretKeyRef", "secretRef"):
                reference = value.get(kind)
                if isinstance(reference, Mapping):
                    note(reference.get("name"), reference.get("key"), reference.get("optional"))
                elif isinstance(reference, str):  # of a Milvus's storage
                    note(reference, "", False)
            secret = value.get("secret")
            if isinstance(secret, Mapping) and ("secretName" in secret or ("name" in secret and "items" in secret)):
                note(secret.get("secretName") or secret.get("name"), "", secret.get("optional"))
            options = value.get("authOptions")
            if isinstance(options, Mapping) and options.get("mode") == "token":
                note(options.get("secretName"), "auth_token", False)
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    for thing in things:
        look(thing)
    return found


def content(thing: Mapping[str, Any]) -> Json:
    """What a person would compare: without status and what the server keeps about it."""
    kept = {key: value for key, value in thing.items() if key != "status"}
    metadata = dict(kept.get("metadata") or {})
    for own in ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"):
        metadata.pop(own, None)
    return {**kept, "metadata": metadata}


def is_ours(thing: Mapping[str, Any], instance: str) -> bool:
    """Applied by us for this installation; not what an operator made of it and labelled alike."""
    metadata = thing.get("metadata") or {}
    labels = metadata.get("labels") or {}
    if labels.get(MANAGED_BY) != MANAGER or labels.get(INSTANCE) != instance:
        return False
    return any(entry.get("manager") == MANAGER for entry in metadata.get("managedFields") or [])
