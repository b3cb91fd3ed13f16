"""Layer 7, selectors and ports: whatever selects pods finds some, and finds the port that it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.manifests.documents import Document, PodTemplate, Rendered, title
from tests.manifests.words import selects

_GATEWAY = "gateway.networking.k8s.io/gateway-name"
_RAY = ("RayCluster", "RayService", "RayJob")


def faults(rendered: Rendered) -> list[str]:
    """Of one set, in which each of these must find what it names."""
    found = []
    for document in rendered.documents:
        if document["kind"] in _KINDS:
            found += [f"{title(document)}: {fault}" for fault in _KINDS[document["kind"]](document, rendered)]
    for pod in rendered.pods():
        found += [f"{pod.where}: {fault}" for fault in _spread(pod)]
    return found


def matched(rendered: Rendered, selector: Mapping[str, Any] | None, namespace: str | None) -> list[PodTemplate]:
    """Pods of one namespace by a label selector."""
    return [
        pod
        for pod in rendered.pods()
        if pod.document["metadata"].get("namespace") == namespace and selects(selector, pod.labels)
    ]


def ports(pod: PodTemplate) -> dict[str | int, int]:
    """Numbers by name and by number, of all containers."""
    given = [port for container in pod.spec.get("containers") or () for port in container.get("ports") or ()]
    found: dict[str | int, int] = {port["containerPort"]: port["containerPort"] for port in given}
    return found | {port["name"]: port["containerPort"] for port in given if "name" in port}


def services(rendered: Rendered) -> dict[str, Mapping[str, Any]]:
    """Specs by name, with what KubeRay and the Milvus operator will make."""
    found = {one["metadata"]["name"]: one["spec"] for one in rendered.of("Service")}
    for one in rendered.of("RayService"):
        own = one["spec"].get("serveService") or {}
        name = (own.get("metadata") or {}).get("name") or f"{one['metadata']['name']}-serve-svc"
        usual = {"ports": [{"name": "serve", "port": 8000, "targetPort": 8000}]}
        found.setdefault(name, {**usual, **(own.get("spec") or {})})
    for one in rendered.of("Milvus"):
        found.setdefault(f"{one['metadata']['name']}-milvus", {"ports": [{"name": "milvus", "port": 19530}]})
    return found


def _service(document: Document, rendered: Rendered) -> Iterator[str]:
    spec = document["spec"]
    if not spec.get("selector"):
        return
    found = matched(rendered, {"matchLabels": spec["selector"]}, document["metadata"].get("namespace"))
    # What the operators say only when there are pods: which Ray cluster of a RayService is the active one.
    if not found:
        yield f"spec.selector: {spec['selector']} selects no pod of this set"
    for port in spec.get("ports") or () if found else ():
        target = port.get("targetPort", port["port"])
        if not any(target in ports(pod) for pod in found) and not _unsaid(found):
            yield f"spec.ports: {target!r} is no port of the pods it selects ({', '.join(pod.path for pod in found)})"


def _unsaid(found: list[PodTemplate]) -> bool:
    """The operator of Milvus gives its containers their ports."""
    return all(pod.role == "milvus" for pod in found)


def _ray_service(document: Document, rendered: Rendered) -> Iterator[str]:
    """Clients reach pods that serve; never through a GPU pod, which goes away with its node."""
    if not document["spec"].get("excludeHeadPodFromServeSvc"):
        yield "spec.excludeHeadPodFromServeSvc: must be true: the head holds no replica and may go"
    own = (document["spec"].get("serveService") or {}).get("spec") or {}
    mine = [pod for pod in rendered.pods() if pod.document is document and pod.role == "worker"]
    for port in own.get("ports") or ():
        target = port.get("targetPort", port["port"])
        reached = [pod for pod in mine if target in ports(pod)]
        if not reached:
            yield f"spec.serveService.spec.ports: {target!r} is no port of any worker"
        for pod in mine:
            gpu = any(
                "nvidia.com/gpu" in ((c.get("resources") or {}).get("limits") or {}) for c in pod.spec["containers"]
            )
            if gpu and (isinstance(target, int) or pod in reached):
                yield f"spec.serveService: reaches the GPU group {pod.group['groupName']}: streams end with its node"


def _budget(document: Document, rendered: Rendered) -> Iterator[str]:
    spec = document["spec"]
    found = matched(rendered, spec.get("selector"), document["metadata"].get("namespace"))
    if not found:
        yield f"spec.selector: {spec.get('selector')} selects no pod of this set"
    for pod in found:
        least = spec.get("minAvailable")
        if pod.role in ("head", "worker") and not isinstance(least, int):
            yield "spec: for pods of a Ray cluster only a whole minAvailable works: Kubernetes cannot read its size"
        there = _replicas(pod)
        if isinstance(least, int) and there is not None and least >= there:
            yield f"spec.minAvailable: {least} of {there} pods ({pod.path}): no node of theirs could ever be drained"


def _replicas(pod: PodTemplate) -> int | None:
    spec = pod.document.get("spec") or {}
    if pod.role == "worker":
        least: int = pod.group.get("minReplicas", 0)
        return least
    if pod.role == "head":
        return 1
    given: int | None = spec.get("replicas", 1) if pod.document["kind"] in ("Deployment", "StatefulSet") else None
    return given


def _route(document: Document, rendered: Rendered) -> Iterator[str]:
    google = any(one["spec"]["gatewayClassName"].startswith("gke-") for one in rendered.of("Gateway"))
    for i, rule in enumerate(document["spec"].get("rules") or ()):
        limit = (rule.get("timeouts") or {}).get("request")
        if google:
            yield from (f"spec.rules.{i}{fault}" for fault in _of_google(rule, rendered))
        elif rule.get("backendRefs") and limit != "0s":
            yield f"spec.rules.{i}.timeouts.request: {limit} may cut a stream: 0s (the Api has its own deadline)"
        for backend in rule.get("backendRefs") or ():
            if backend.get("kind", "Service") == "Service":
                yield from _backend(rendered, f"spec.rules.{i}", backend["name"], backend.get("port"))


def _of_google(rule: Mapping[str, Any], rendered: Rendered) -> Iterator[str]:
    """GKE's controller refuses what its load balancer does not have, and cuts and asks what it is not told."""
    if "timeouts" in rule:
        yield ".timeouts: GKE refuses the route: the limits are in a GCPBackendPolicy"
    for one in rule.get("filters") or ():
        if (one.get("requestRedirect") or {}).get("statusCode") not in (301, 302):
            yield ".filters: GKE redirects by 301 and 302 alone"
    for kind, why in (("GCPBackendPolicy", "answers end after 30 s"), ("HealthCheckPolicy", "Google asks /")):
        told = {one["spec"]["targetRef"]["name"] for one in rendered.of(kind)}
        for backend in rule.get("backendRefs") or ():
            if backend["name"] not in told:
                yield f".backendRefs: the Service {backend['name']} has no {kind}: {why}"


def _ingress(document: Document, rendered: Rendered) -> Iterator[str]:
    for rule in document["spec"].get("rules") or ():
        for path in (rule.get("http") or {}).get("paths") or ():
            service = path["backend"].get("service") or {}
            port = service.get("port") or {}
            yield from _backend(rendered, "spec.rules", service.get("name", ""), port.get("number") or port.get("name"))


def _backend(rendered: Rendered, path: str, name: str, port: int | str | None) -> Iterator[str]:
    spec = services(rendered).get(name)
    if spec is None:
        yield f"{path}: no Service is named {name!r} in this set"
    elif port not in {value for one in spec["ports"] for value in (one["port"], one.get("name"))}:
        yield f"{path}: the Service {name} has no port {port!r}"


def _scaler(document: Document, rendered: Rendered) -> Iterator[str]:
    target = document["spec"].get("scaleTargetRef") or {}
    if target.get("kind") in _RAY:
        yield f"spec.scaleTargetRef: {target['kind']} {target['name']} is scaled by Ray: two would fight over it"
    elif rendered.named(target.get("kind", ""), target.get("name", "")) is None:
        yield f"spec.scaleTargetRef: no {target.get('kind')} is named {target.get('name')!r} in this set"


def _spread(pod: PodTemplate) -> Iterator[str]:
    for one in pod.spec.get("topologySpreadConstraints") or ():
        if not selects(one.get("labelSelector"), pod.labels):
            yield f"spec.topologySpreadConstraints: {one['topologyKey']}: its labelSelector does not select this pod"


_KINDS = {
    "Service": _service,
    "RayService": _ray_service,
    "PodDisruptionBudget": _budget,
    "HTTPRoute": _route,
    "Ingress": _ingress,
    "HorizontalPodAutoscaler": _scaler,
    "ScaledObject": _scaler,
}


def optional(rendered: Rendered) -> dict[str, bool]:
    """Selectors that may find nothing in one set, because what they are for is a component of another: policies and
    monitors. By object (and peer), whether they find a pod here. Pods that a gateway's controller makes are nowhere.
    """
    found: dict[str, bool] = {}
    for document in rendered.of("NetworkPolicy", "PodMonitor"):
        spec, space = document["spec"], document["metadata"].get("namespace")
        selected = matched(rendered, spec.get("podSelector") or spec.get("selector"), space)
        found[f"{title(document)}: its selector"] = bool(selected) or _of_a_gateway(spec.get("podSelector"))
        for path, peer in _peers(spec):
            key = f"{title(document)}: {path}"
            found[key] = bool(matched(rendered, peer["podSelector"], space)) or _of_a_gateway(peer["podSelector"])
        for endpoint in spec.get("podMetricsEndpoints") or ():
            port = endpoint.get("port") or endpoint.get("portNumber")
            key = f"{title(document)}: the port {port!r}"
            found[key] = any(port in ports(pod) for pod in selected) or (bool(selected) and _unsaid(selected))
    return found


def _of_a_gateway(selector: Mapping[str, Any] | None) -> bool:
    return _GATEWAY in {one["key"] for one in (selector or {}).get("matchExpressions") or ()}


def _peers(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those within the namespace."""
    for direction, way in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or ()):
            for j, peer in enumerate(rule.get(way) or ()):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield f"{direction}.{i}.{way}.{j}", peer
