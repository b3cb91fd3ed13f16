"""Layer 7, names: whatever one object names is in the same render, or is documented as the user's to make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.manifests import selectors
from tests.manifests.builtin import is_builtin
from tests.manifests.crds import definition
from tests.manifests.documents import Document, PodTemplate, Rendered, containers, title
from tests.manifests.pods import ENFORCE
from tests.manifests.rendering import MANIFESTS, leaves

#: Kinds of Kubernetes that no namespace holds.
_CLUSTER_WIDE = {
    "Namespace",
    "PriorityClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "StorageClass",
    "DeviceClass",
    "PersistentVolume",
    "CustomResourceDefinition",
}
_URL = re.compile(r"(https?)://([a-z][a-z0-9-]*)(?::(\d+))?(?=[/\s'\"]|$)")
_ADDRESS = re.compile(r"([a-z][a-z0-9-]*):(\d+)")
#: Services that the component `external-data` is in place of.
_DATA = {"milvus", "postgres"}
_BUILT_IN_ACCOUNTS = {"default"}
_SYSTEM = "system-"


@dataclass(frozen=True)
class Reference:
    """One name. `key`: of a Secret or a ConfigMap."""

    kind: str
    name: str
    path: str
    key: str | None = None
    optional: bool = False


def faults(rendered: Rendered) -> list[str]:
    """Names that nothing has, and places where things are."""
    found = []
    for pod in rendered.pods():
        told = [*_token(pod, rendered), *(fault for one in _of_pod(pod) for fault in _found(one, rendered))]
        found += [f"{pod.where}: {fault}" for fault in told]
    for document in rendered.documents:
        found += [f"{title(document)}: {fault}" for fault in _place(document, rendered)]
        for one in _of_document(document):
            found += [f"{title(document)}: {fault}" for fault in _found(one, rendered)]
    found += _addresses(rendered)
    return list(dict.fromkeys(found))


def _addresses(rendered: Rendered) -> Iterator[str]:
    """A host without a dot is a Service of the set, but where the data is said to be elsewhere."""
    there = selectors.services(rendered)
    outside = _DATA if rendered.named("NetworkPolicy", "anchorage-external-data") else set()
    for document in rendered.documents:
        for path, value in leaves(document):
            for host, port in _hosts(path, value):
                where = f"{title(document)}: {'.'.join(map(str, path))}: {host}:{port}"
                ports = {one["port"] for one in there.get(host, {}).get("ports") or ()}
                if host in there and port not in ports:
                    yield f"{where}: the Service has only {', '.join(map(str, sorted(ports)))}"
                elif host not in there and host not in outside:
                    yield f"{where}: no Service is named {host!r} in this set"


def _hosts(path: tuple[str | int, ...], value: Any) -> Iterator[tuple[str, int]]:
    if not isinstance(value, str):
        return
    for scheme, host, port in _URL.findall(value):
        yield host, int(port or (443 if scheme == "https" else 80))
    if path[-1] in ("redisAddress", "endpoint") and (found := _ADDRESS.fullmatch(value)):
        yield found[1], int(found[2])


def _found(wanted: Reference, rendered: Rendered) -> Iterator[str]:
    there = rendered.named(wanted.kind, wanted.name)
    if there is not None:
        keys = {**(there.get("data") or {}), **(there.get("stringData") or {}), **(there.get("binaryData") or {})}
        if wanted.kind == "ConfigMap" and wanted.key and wanted.key not in keys and not wanted.optional:
            yield f"{wanted.path}: ConfigMap {wanted.name} has no key {wanted.key!r}, only {', '.join(sorted(keys))}"
        return
    if wanted.kind == "Secret":
        made = {one["spec"]["secretName"] for one in rendered.of("Certificate")}
        if wanted.name not in made and not _documented(wanted.name, wanted.key):
            what = f"the Secret {wanted.name}" + (f" with its key {wanted.key}" if wanted.key else "")
            yield f"{wanted.path}: {what} is in no README's table: one row needs both in backticks"
    elif not wanted.optional:
        yield f"{wanted.path}: no {wanted.kind} is named {wanted.name!r} in this set"


@cache
def _documented(name: str, key: str | None) -> bool:
    lines = [line for path in MANIFESTS.rglob("README.md") for line in path.read_text().splitlines()]
    return any(f"`{name}`" in line and (key is None or f"`{key}`" in line) for line in lines)


def _token(pod: PodTemplate, rendered: Rendered) -> Iterator[str]:
    """A token of the Kubernetes API only where there are rights that it is for."""
    account = pod.spec.get("serviceAccountName") or "default"
    own = rendered.named("ServiceAccount", account) or {}
    mounted = pod.spec.get("automountServiceAccountToken", own.get("automountServiceAccountToken", True))
    if pod.role == "milvus":
        return
    if pod.role == "head":
        if not mounted:
            yield "spec.automountServiceAccountToken: Ray's autoscaler in the head asks the Kubernetes API: leave it on"
        return
    subjects = [one for binding in rendered.of("RoleBinding") for one in binding.get("subjects") or ()]
    bound = account in {one["name"] for one in subjects if one["kind"] == "ServiceAccount"}
    if mounted and not bound:
        yield f"spec.automountServiceAccountToken: must be false: {account} has no rights in this set"
    if bound and not mounted:
        yield f"spec.automountServiceAccountToken: is off, and the rights of {account} are of no use"


def _of_pod(pod: PodTemplate) -> Iterator[Reference]:
    spec = pod.spec
    account = spec.get("serviceAccountName")
    if account and account not in _BUILT_IN_ACCOUNTS:
        yield Reference("ServiceAccount", account, "spec.serviceAccountName")
    priority = spec.get("priorityClassName")
    if priority and not priority.startswith(_SYSTEM):
        yield Reference("PriorityClass", priority, "spec.priorityClassName")
    for one in spec.get("imagePullSecrets") or ():
        yield Reference("Secret", one["name"], "spec.imagePullSecrets")
    for one in spec.get("resourceClaims") or ():
        if one.get("resourceClaimTemplateName"):
            yield Reference("ResourceClaimTemplate", one["resourceClaimTemplateName"], "spec.resourceClaims")
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume)
    for container in containers(spec):
        yield from _of_container(container)


def _of_volume(volume: Mapping[str, Any]) -> Iterator[Reference]:
    path = f"spec.volumes.{volume['name']}"
    sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
    for source in sources:
        if config := source.get("configMap"):
            yield from _keys("ConfigMap", config.get("name", ""), path, config)
        if secret := source.get("secret"):
            yield from _keys("Secret", secret.get("secretName") or secret.get("name", ""), path, secret)
    if claim := volume.get("persistentVolumeClaim"):
        yield Reference("PersistentVolumeClaim", claim["claimName"], path)


def _keys(kind: str, name: str, path: str, source: Mapping[str, Any]) -> Iterator[Reference]:
    optional = bool(source.get("optional"))
    items = source.get("items") or ()
    yield from (Reference(kind, name, path, one["key"], optional) for one in items)
    if not items:
        yield Reference(kind, name, path, None, optional)


def _of_container(container: Mapping[str, Any]) -> Iterator[Reference]:
    for variable in container.get("env") or ():
        path = f"spec.{container['name']}.env.{variable['name']}"
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if given := (variable.get("valueFrom") or {}).get(field):
                yield Reference(kind, given["name"], path, given["key"], bool(given.get("optional")))
    for source in container.get("envFrom") or ():
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if given := source.get(field):
                path = f"spec.{container['name']}.envFrom"
                yield Reference(kind, given["name"], path, None, bool(given.get("optional")))


def _of_document(document: Document) -> Iterator[Reference]:
    kind, spec = document["kind"], document.get("spec") or {}
    queue = (document["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
    if queue:
        yield Reference("LocalQueue", queue, "metadata.labels")
    if kind in ("RoleBinding", "ClusterRoleBinding"):
        role = document["roleRef"]
        if role["kind"] == "Role":
            yield Reference("Role", role["name"], "roleRef")
        for subject in document.get("subjects") or ():
            if subject["kind"] == "ServiceAccount" and subject["name"] not in _BUILT_IN_ACCOUNTS:
                yield Reference("ServiceAccount", subject["name"], "subjects")
    if kind in _MORE:
        yield from _MORE[kind](spec)


def _ray(spec: Mapping[str, Any]) -> Iterator[Reference]:
    cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec") or spec
    if name := (cluster.get("authOptions") or {}).get("secretName"):
        yield Reference("Secret", name, "authOptions.secretName", "auth_token")
    redis = (cluster.get("gcsFaultToleranceOptions") or {}).get("redisPassword") or {}
    if given := (redis.get("valueFrom") or {}).get("secretKeyRef"):
        yield Reference("Secret", given["name"], "gcsFaultToleranceOptions.redisPassword", given["key"])


def _milvus(spec: Mapping[str, Any]) -> Iterator[Reference]:
    storage = (spec.get("dependencies") or {}).get("storage") or {}
    if storage.get("secretRef"):
        for key in ("accesskey", "secretkey"):
            yield Reference("Secret", storage["secretRef"], "spec.dependencies.storage.secretRef", key)


def _ingress(spec: Mapping[str, Any]) -> Iterator[Reference]:
    for one in spec.get("tls") or ():
        if one.get("secretName"):
            yield Reference("Secret", one["secretName"], "spec.tls")


def _gateway(spec: Mapping[str, Any]) -> Iterator[Reference]:
    for listener in spec.get("listeners") or ():
        for one in (listener.get("tls") or {}).get("certificateRefs") or ():
            yield Reference("Secret", one["name"], f"spec.listeners.{listener['name']}.tls")


def _route(spec: Mapping[str, Any]) -> Iterator[Reference]:
    for parent in spec.get("parentRefs") or ():
        if parent.get("kind", "Gateway") == "Gateway" and "namespace" not in parent:
            yield Reference("Gateway", parent["name"], "spec.parentRefs")


def _local_queue(spec: Mapping[str, Any]) -> Iterator[Reference]:
    yield Reference("ClusterQueue", spec["clusterQueue"], "spec.clusterQueue")


def _cluster_queue(spec: Mapping[str, Any]) -> Iterator[Reference]:
    for group in spec.get("resourceGroups") or ():
        for flavor in group["flavors"]:
            yield Reference("ResourceFlavor", flavor["name"], "spec.resourceGroups")


def _buffer(spec: Mapping[str, Any]) -> Iterator[Reference]:
    if given := spec.get("podTemplateRef"):
        yield Reference("PodTemplate", given["name"], "spec.podTemplateRef")


_MORE = {
    "RayService": _ray,
    "RayJob": _ray,
    "RayCluster": _ray,
    "Milvus": _milvus,
    "Ingress": _ingress,
    "Gateway": _gateway,
    "HTTPRoute": _route,
    "LocalQueue": _local_queue,
    "ClusterQueue": _cluster_queue,
    "CapacityBuffer": _buffer,
}


def _place(document: Document, rendered: Rendered) -> Iterator[str]:
    """In a namespace that is in the render and is restricted, labelled.

    kustomize puts a namespace on custom kinds that have none, too; the API server takes it off again.
    """
    spaces = {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in rendered.of("Namespace")}
    space = document["metadata"].get("namespace")
    if namespaced(document) and space not in spaces:
        yield f"metadata.namespace: {space!r} is not in this set: set `namespace:` in the overlay's kustomization"
    if document["kind"] == "Namespace":
        yield from _level(document, rendered)
    labels = document["metadata"].get("labels") or {}
    wanted = ["name", "part-of", "managed-by"] + ([] if document["kind"] == "Namespace" else ["component"])
    missing = [f"app.kubernetes.io/{one}" for one in wanted if f"app.kubernetes.io/{one}" not in labels]
    if missing:
        yield f"metadata.labels: {', '.join(missing)} missing"


def _level(document: Document, rendered: Rendered) -> Iterator[str]:
    """`restricted`; where the operator of Milvus has pods, which cannot meet it, `baseline` with warnings."""
    name, labels = document["metadata"]["name"], document["metadata"].get("labels") or {}
    with_milvus = any(one["metadata"].get("namespace") == name for one in rendered.of("Milvus"))
    enforced = labels.get(ENFORCE)
    if enforced != "restricted" and not (with_milvus and enforced == "baseline"):
        yield f"metadata.labels: {ENFORCE} is {enforced!r}, not restricted"
    for mode in ("warn", "audit"):
        if labels.get(f"pod-security.kubernetes.io/{mode}") != "restricted":
            yield f"metadata.labels: pod-security.kubernetes.io/{mode} must be restricted"


def namespaced(document: Document) -> bool:
    """Whether its kind lives in namespaces."""
    if is_builtin(document):
        return document["kind"] not in _CLUSTER_WIDE
    found = definition(document["apiVersion"], document["kind"])
    return found.namespaced if found else True
