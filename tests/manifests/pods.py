"""Layer 4: every pod template as the pod that is made of it, those within custom resources above all: valid for
Kubernetes, allowed by Pod Security `restricted`, with limits, with probes, labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.manifests import restricted
from tests.manifests.builtin import template_faults
from tests.manifests.documents import PodTemplate, Rendered, containers

LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of")
#: By which OpenCost knows who pays: on the pods of every Ray cluster, where GPUs are.
COST = ("app", "team", "owner")
ENFORCE = "pod-security.kubernetes.io/enforce"
#: Containers of operators, which cannot be given what they lack: probes.
_NO_PROBES = {"autoscaler"}
#: Kinds whose pods run to an end: nobody waits for them to be ready.
_ENDING = {"Job", "CronJob", "RayJob", "PodTemplate"}


def faults(rendered: Rendered) -> list[str]:
    """Of all pods. Held to `restricted` whether their namespace enforces it or not, but for what cannot be helped."""
    return [f"{pod.where}: {fault}" for pod in rendered.pods() for fault in _pod(pod, rendered)]


def _pod(pod: PodTemplate, rendered: Rendered) -> Iterator[str]:
    known = template_faults(pod.template)
    yield from known
    if known:
        return
    space = pod.document["metadata"].get("namespace")
    annotations = (pod.template.get("metadata") or {}).get("annotations")
    # The operator of Milvus writes an init container that only `baseline` takes, and nothing can change it.
    helpless = "config: " if pod.role == "milvus" and level(rendered, space) == "baseline" else "-"
    for fault in restricted.faults(pod.spec, annotations):
        if not fault.startswith(helpless):
            yield f"spec: {fault} (Pod Security restricted)"
    yield from _labelled(pod)
    usual = _usual(rendered, space)
    for container in containers(pod.spec):
        yield from (f"spec: {container['name']}: {fault}" for fault in _container(container, usual))
    for container in pod.spec.get("containers") or ():
        yield from (f"spec: {container['name']}: {fault}" for fault in _probes(pod, container))


def level(rendered: Rendered, space: str | None) -> str | None:
    """The Pod Security Standard that a namespace enforces."""
    found = rendered.named("Namespace", space or "")
    given: str | None = ((found or {"metadata": {}})["metadata"].get("labels") or {}).get(ENFORCE)
    return given


def _usual(rendered: Rendered, space: str | None) -> dict[str, Any]:
    """What a LimitRange gives to containers that say nothing."""
    for one in rendered.of("LimitRange"):
        for item in one["spec"]["limits"]:
            if one["metadata"].get("namespace") == space and item["type"] == "Container":
                return {"requests": item.get("defaultRequest"), "limits": item.get("default")}
    return {}


def _labelled(pod: PodTemplate) -> Iterator[str]:
    given = (pod.template.get("metadata") or {}).get("labels") or {}
    wanted = (*LABELS, *(COST if pod.role in ("head", "worker") else ()))
    if missing := [label for label in wanted if label not in given]:
        yield f"metadata.labels: {', '.join(missing)} missing"


def _container(container: dict[str, Any], usual: dict[str, Any]) -> Iterator[str]:
    resources = container.get("resources") or usual
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
