"""Layer 7, the network: which pods may talk to which, computed from the NetworkPolicies of a set, as a CNI would."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.manifests.documents import Document, PodTemplate, Rendered, title
from tests.manifests.selectors import ports
from tests.manifests.words import selects

#: Addresses outside of the cluster that stand for what they are. Policies see the API server's own address and port,
#: not those of the Service `kubernetes`.
WEB, API_SERVER = "203.0.113.7", "10.0.0.2"


@dataclass(frozen=True)
class Flow:
    """One connection that must be possible: from pods to pods, by their labels, on a port."""

    name: str
    source: Mapping[str, str]
    target: Mapping[str, str]
    port: int


_SERVING = {"app.kubernetes.io/part-of": "anchorage", "app.kubernetes.io/component": "serving"}
_INGESTION = {"app.kubernetes.io/part-of": "anchorage", "app.kubernetes.io/component": "ingestion"}
_HEAD = {"ray.io/node-type": "head"}
_WORKER = {"ray.io/node-type": "worker"}
_MILVUS, _POSTGRES = {"app.kubernetes.io/name": "milvus"}, {"app.kubernetes.io/name": "postgres"}
_MASTER = {"app.kubernetes.io/component": "loadtest", "anchorage.dev/role": "master"}
#: Ray's own ports are many and any: these stand for them.
_GCS, _AGENT, _ANY = 6379, 52365, 41234
FLOWS = (
    *(
        Flow(f"Ray's {name} pods among each other", {**kind, **one}, {**kind, **other}, port)
        for name, kind in (("serving", _SERVING), ("ingestion", _INGESTION))
        for one in (_HEAD, _WORKER)
        for other in (_HEAD, _WORKER)
        for port in (_GCS, _AGENT, _ANY)
    ),
    Flow("Api to Milvus", {**_SERVING, **_WORKER}, _MILVUS, 19530),
    Flow("ingestion to Milvus", {**_INGESTION, **_HEAD}, _MILVUS, 19530),
    Flow("Api to PostgreSQL", {**_SERVING, **_WORKER}, _POSTGRES, 5432),
    Flow("ingestion to PostgreSQL", {**_INGESTION, **_HEAD}, _POSTGRES, 5432),
    Flow("head to Redis", {**_SERVING, **_HEAD}, {"app.kubernetes.io/component": "redis"}, 6379),
    Flow("Api to guard", {**_SERVING, **_WORKER}, {"app.kubernetes.io/component": "guard"}, 8080),
    Flow("load test to Api", {"app.kubernetes.io/component": "loadtest"}, {**_SERVING, "ray.io/group": "cpu"}, 8000),
    Flow("load test's workers to their master", {"anchorage.dev/role": "worker"}, _MASTER, 5557),
    Flow("Milvus to its object store", _MILVUS, {"app.kubernetes.io/component": "object-storage"}, 8333),
)
#: Component or role -> what its pods ask outside of the namespace: the API server, or the web.
OUTSIDE = {
    "head": (_HEAD, API_SERVER, 6443),
    "dispatch": ({"app.kubernetes.io/component": "dispatch"}, API_SERVER, 6443),
    "guard": ({"app.kubernetes.io/component": "guard"}, API_SERVER, 6443),
    "ingestion's sources": (_INGESTION | _WORKER, WEB, 443),
}
#: What no pod needs: a connection that must not be possible where both ends are there.
CLOSED = (
    Flow("PostgreSQL to Api", _POSTGRES, {**_SERVING, **_WORKER}, 8000),
    Flow("load test to Milvus", {"app.kubernetes.io/component": "loadtest"}, _MILVUS, 19530),
    Flow("Api to the load test", _SERVING, _MASTER, 5557),
)


def faults(rendered: Rendered) -> list[str]:
    """Connections that are needed and closed, or open and not needed."""
    policies, pods = rendered.of("NetworkPolicy"), rendered.pods()
    found = [f"{pod.where}: no NetworkPolicy denies by default" for pod in pods if not _denied(pod, policies)]
    told: dict[str, list[int]] = {}
    for flow in (*FLOWS, *CLOSED):
        for source in _with(pods, flow.source):
            for target in _with(pods, flow.target):
                for fault in between(flow, source, target, policies):
                    told.setdefault(fault, []).append(flow.port)
    found += [f"{fault} (port {', '.join(map(str, numbers))})" for fault, numbers in told.items()]
    for name, (labels, address, port) in OUTSIDE.items():
        for source in _with(pods, labels):
            if not leaves_to(source, rendered, address, port):
                found.append(f"{source.where}: {name} cannot reach {address}:{port}: open it in a NetworkPolicy")
    found += [f"{pod.where}: cannot ask DNS: open port 53" for pod in pods if not _resolves(pod, policies)]
    return list(dict.fromkeys(found))


def between(flow: Flow, source: PodTemplate, target: PodTemplate, policies: list[Document]) -> Iterator[str]:
    """What is wrong with one connection."""
    out = any(_takes(rule, "to", target, flow.port) for rule in _rules(source, policies, "Egress"))
    into = any(_takes(rule, "from", source, flow.port, target) for rule in _rules(target, policies, "Ingress"))
    where = f"{source.where} to {title(target.document)} {target.path}"
    if flow in CLOSED:
        if out and into:
            yield f"{where}: is open, and nobody needs it ({flow.name})"
    elif not out or not into:
        side = "egress" if not out else "ingress"
        yield f"{where}: {flow.name}: closed by {side}: open it in a NetworkPolicy"


def _with(pods: Iterable[PodTemplate], labels: Mapping[str, str]) -> list[PodTemplate]:
    return [pod for pod in pods if labels.items() <= pod.labels.items()]


def _denied(pod: PodTemplate, policies: list[Document]) -> bool:
    return all(any(True for _ in _policies(pod, policies, direction)) for direction in ("Ingress", "Egress"))


def _policies(pod: PodTemplate, policies: list[Document], direction: str) -> Iterator[Document]:
    for policy in policies:
        spec = policy["spec"]
        types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
        same = policy["metadata"].get("namespace") == pod.document["metadata"].get("namespace")
        if same and direction in types and selects(spec.get("podSelector"), pod.labels):
            yield policy


def _rules(pod: PodTemplate, policies: list[Document], direction: str) -> Iterator[Mapping[str, Any]]:
    """All that may let something through. A pod that no policy selects lets everything."""
    found = list(_policies(pod, policies, direction))
    if not found:
        yield {}
    for policy in found:
        yield from policy["spec"].get(direction.lower()) or ()


def _takes(rule: Mapping[str, Any], way: str, peer: PodTemplate, port: int, target: PodTemplate | None = None) -> bool:
    if not _port(rule, port, target or peer):
        return False
    peers = rule.get(way)
    return not peers or any(_peer(one, peer) for one in peers)


def _peer(peer: Mapping[str, Any], pod: PodTemplate) -> bool:
    """An ipBlock is not for pods: CNIs differ in whether it holds for them."""
    if "ipBlock" in peer:
        return False
    if peer.get("namespaceSelector"):
        space = {"kubernetes.io/metadata.name": pod.document["metadata"].get("namespace", "")}
        if not selects(peer["namespaceSelector"], space):
            return False
    return selects(peer.get("podSelector"), pod.labels)


def _port(rule: Mapping[str, Any], port: int, target: PodTemplate | None) -> bool:
    given = rule.get("ports")
    if not given:
        return True
    for one in given:
        if one.get("protocol", "TCP") != "TCP":
            continue
        wanted = one.get("port")
        if wanted is None:
            return True
        number = ports(target).get(wanted) if isinstance(wanted, str) and target else wanted
        if isinstance(number, int) and number <= port <= one.get("endPort", number):
            return True
    return False


def leaves_to(pod: PodTemplate, rendered: Rendered, address: str, port: int) -> bool:
    """Whether it may reach an address outside of the cluster."""
    return any(_leaves(rule, address, port) for rule in _rules(pod, rendered.of("NetworkPolicy"), "Egress"))


def _leaves(rule: Mapping[str, Any], address: str, port: int) -> bool:
    if not _port(rule, port, None):
        return False
    blocks = [peer["ipBlock"] for peer in rule.get("to") or () if "ipBlock" in peer]
    return not rule.get("to") or any(_within(block, address) for block in blocks)


def _within(block: Mapping[str, Any], address: str) -> bool:
    one = ipaddress.ip_address(address)
    outside = [ipaddress.ip_network(each) for each in block.get("except") or ()]
    return one in ipaddress.ip_network(block["cidr"]) and not any(one in each for each in outside)


def _resolves(pod: PodTemplate, policies: list[Document]) -> bool:
    for rule in _rules(pod, policies, "Egress"):
        given = rule.get("ports")
        if not given or any(one.get("protocol") == "UDP" and one.get("port") == 53 for one in given):
            return True
    return False
