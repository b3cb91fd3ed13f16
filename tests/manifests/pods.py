"""Layer 4: every pod template as the pod that is made of it, those within custom resources above all: valid for
Kubernetes, allowed by Pod Security `restricted`, with limits, with probes, labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.manifests import restricted
from tests.manifests.core import template_faults
from tests.manifests.documents import PodTemplate, Rendered, containers

LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of")
#: By which OpenCost knows who pays: on the pods of every Ray cluster, where GPUs are.
COST = ("app", "team", "owner")
#: Containers of operators, which cannot be given what they lack: probes.
_NO_PROBES = {"autoscaler"}
#: Kinds whose pods run to an end: nobody waits for them to be ready.
_ENDING = {"Job", "CronJob", "RayJob", "PodTemplate"}


def faults(rendered: Rendered) -> list[str]:
    """Of all pods. Held to `restricted` whether their namespace enforces it or not, but for a privileged one."""
    free = {
        one["metadata"]["name"]
        for one in rendered.of("Namespace")
        if (one["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce") == "privileged"
    }
    return [f"{pod.where}: {fault}" for pod in rendered.pods() for fault in _pod(pod, free)]


def _pod(pod: PodTemplate, free: set[str]) -> Iterator[str]:
    known = template_faults(pod.template)
    yield from known
    if known:
        return
    if pod.document["metadata"].get("namespace") not in free:
        annotations = (pod.template.get("metadata") or {}).get("annotations")
        for fault in restricted.faults(pod.spec, annotations):
            yield f"spec: {fault} (Pod Security restricted)"
    yield from _labelled(pod)
    for container in containers(pod.spec):
        yield from (f"spec: {container['name']}: {fault}" for fault in _container(container))
    for container in pod.spec.get("containers") or ():
        yield from (f"spec: {container['name']}: {fault}" for fault in _probes(pod, container))


def _labelled(pod: PodTemplate) -> Iterator[str]:
    given = (pod.template.get("metadata") or {}).get("labels") or {}
    wanted = (*LABELS, *(COST if pod.role in ("head", "worker") else ()))
    if missing := [label for label in wanted if label not in given]:
        yield f"metadata.labels: {', '.join(missing)} missing"


def _container(container: dict[str, Any]) -> Iterator[str]:
    resources = container.get("resources") or {}
    for side in ("requests", "limits"):
        if missing := {"cpu", "memory"} - (resources.get(side) or {}).keys():
            yield f"resources.{side}: {', '.join(sorted(missing))} missing"
    for variable in container.get("env") or ():
        secret = any(word in variable["name"] for word in ("PASSWORD", "TOKEN", "SECRET", "_KEYS", "CATALOG_URL"))
        if secret and variable.get("value") and "$(" not in variable["value"]:
            yield f"env.{variable['name']}: take it from a Secret (valueFrom.secretKeyRef)"


def _probes(pod: PodTemplate, container: dict[str, Any]) -> Iterator[str]:
    """What lives long tells alive from ready."""
    if pod.document["kind"] in _ENDING or pod.role == "milvus" or container["name"] in _NO_PROBES:
        return
    missing = [name for name in ("livenessProbe", "readinessProbe") if not container.get(name)]
    if missing:
        yield f"{' and '.join(missing)} missing"
    elif _question(container["livenessProbe"]) == _question(container["readinessProbe"]) and pod.role != "head":
        yield "livenessProbe and readinessProbe ask the same: what is busy would be killed for it"


def _question(probe: dict[str, Any]) -> Any:
    return {key: probe.get(key) for key in ("exec", "grpc", "httpGet", "tcpSocket")}
