"""What an API server refuses of whole pods and of whole documents of core kinds, beyond their schemas.

After Kubernetes' `pkg/apis/*/validation`; the rules for names are those of each kind.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.manifests.documents import Document, containers
from tests.manifests.words import dns_1035, dns_label, dns_subdomain, label_value, schedule, selects

#: Kinds whose names are not DNS subdomains.
_NAMES: dict[str, Callable[[str], str | None]] = {
    "Service": dns_1035,
    "Namespace": dns_label,
    "Role": lambda name: None,
    "RoleBinding": lambda name: None,
    "ClusterRole": lambda name: None,
    "ClusterRoleBinding": lambda name: None,
}
#: Kinds whose names become labels of pods, or names of pods with something behind.
_LONGEST = {"Job": 63, "CronJob": 52, "StatefulSet": 52, "Deployment": 63}
#: The largest value that a user's PriorityClass may have.
_HIGHEST_PRIORITY = 10**9
_LEVELS = {"privileged", "baseline", "restricted"}


def name(document: Document) -> Iterator[str]:
    """Of any kind."""
    kind, given = document["kind"], document["metadata"].get("name")
    if not given:
        yield "metadata.name: is missing"
        return
    fault = _NAMES.get(kind, dns_subdomain)(given)
    if fault:
        yield f"metadata.name: {fault}"
    if len(given) > _LONGEST.get(kind, 253):
        yield f"metadata.name: {given!r} has more than {_LONGEST[kind]} characters"


def pod(spec: Mapping[str, Any]) -> Iterator[str]:
    """A pod's spec: names within it that must agree."""
    everything = list(containers(spec))
    for given, times in Counter(one["name"] for one in everything).items():
        yield from (f"containers: {fault}" for fault in [dns_label(given)] if fault)
        if times > 1:
            yield f"containers: {given!r} is there {times} times"
    volumes = {one["name"] for one in spec.get("volumes") or ()}
    claims = {one["name"] for one in spec.get("resourceClaims") or ()}
    for one in everything:
        yield from (f"{one['name']}: {fault}" for fault in _container(one, volumes, claims))
    for one in spec.get("topologySpreadConstraints") or ():
        if not one.get("labelSelector"):
            yield f"topologySpreadConstraints: {one['topologyKey']}: labelSelector is missing: it spreads nothing"
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        yield "terminationGracePeriodSeconds: must not be negative"


def _container(container: Mapping[str, Any], volumes: set[str], claims: set[str]) -> Iterator[str]:
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            yield f"volumeMounts: no volume is named {mount['name']!r}"
    for claim in (container.get("resources") or {}).get("claims") or ():
        if claim["name"] not in claims:
            yield f"resources.claims: {claim['name']!r} is none of the pod's resourceClaims"
    ports = [one["name"] for one in container.get("ports") or () if "name" in one]
    for given, times in Counter(ports).items():
        if times > 1:
            yield f"ports: {given!r} is there {times} times"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        given = container.get(probe) or {}
        wanted = (given.get("httpGet") or given.get("tcpSocket") or {}).get("port")
        if isinstance(wanted, str) and wanted not in ports:
            yield f"{probe}: no port is named {wanted!r}"
        if probe != "readinessProbe" and given.get("successThreshold", 1) != 1:
            yield f"{probe}: successThreshold must be 1"


def _selected(document: Document) -> Iterator[str]:
    spec = document["spec"]
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not spec["selector"].get("matchLabels") and not spec["selector"].get("matchExpressions"):
        yield "spec.selector: is empty"
    elif not selects(spec["selector"], labels):
        yield f"spec.selector: does not select the labels of spec.template ({labels})"
    if spec["template"]["spec"].get("restartPolicy", "Always") != "Always":
        yield "spec.template.spec.restartPolicy: must be Always"


def _deployment(document: Document) -> Iterator[str]:
    yield from _selected(document)
    strategy = document["spec"].get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    if strategy.get("type") == "Recreate" and rolling:
        yield "spec.strategy: Recreate takes no rollingUpdate"
    if all(str(rolling.get(field)) in ("0", "0%") for field in ("maxSurge", "maxUnavailable")):
        yield "spec.strategy.rollingUpdate: maxSurge and maxUnavailable must not both be 0"


def _job(document: Document, path: str = "spec", spec: Mapping[str, Any] | None = None) -> Iterator[str]:
    given = (spec or document["spec"])["template"]["spec"].get("restartPolicy")
    if given not in ("OnFailure", "Never"):
        yield f"{path}.template.spec.restartPolicy: {given!r} must be OnFailure or Never"


def _cron_job(document: Document) -> Iterator[str]:
    spec = document["spec"]
    yield from _job(document, "spec.jobTemplate.spec", spec["jobTemplate"]["spec"])
    yield from (f"spec.schedule: {fault}" for fault in [schedule(spec["schedule"])] if fault)


def _service(document: Document) -> Iterator[str]:
    spec = document["spec"]
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        yield "spec.ports: is empty"
    names = [one.get("name") for one in ports]
    if len(ports) > 1 and (None in names or len(set(names)) < len(names)):
        yield "spec.ports: each of several needs a name of its own"
    for one in ports:
        yield from (f"spec.ports: {fault}" for fault in [dns_label(one.get("name") or "x")] if fault)
        if not 1 <= one["port"] <= 65535:
            yield f"spec.ports: {one['port']} is no port"
        if one.get("nodePort") and spec.get("type") not in ("NodePort", "LoadBalancer"):
            yield f"spec.ports: a {spec.get('type', 'ClusterIP')} service takes no nodePort"


def _budget(document: Document) -> Iterator[str]:
    spec = document["spec"]
    if ("minAvailable" in spec) == ("maxUnavailable" in spec):
        yield "spec: exactly one of minAvailable and maxUnavailable must be given"
    for field in ("minAvailable", "maxUnavailable"):
        given = spec.get(field, 0)
        if isinstance(given, str) and not (given.endswith("%") and given[:-1].isdigit()):
            yield f"spec.{field}: {given!r} must be a number or a percentage"


def _network_policy(document: Document) -> Iterator[str]:
    spec = document["spec"]
    types = spec.get("policyTypes") or []
    if unknown := set(types) - {"Ingress", "Egress"}:
        yield f"spec.policyTypes: {sorted(unknown)} are neither Ingress nor Egress"
    for direction, way in (("Ingress", "from"), ("Egress", "to")):
        rules = spec.get(direction.lower()) or []
        if rules and types and direction not in types:
            yield f"spec.{direction.lower()}: has no effect: {direction} is not in policyTypes"
        for i, rule in enumerate(rules):
            for peer in rule.get(way) or ():
                yield from (f"spec.{direction.lower()}.{i}: {fault}" for fault in _peer(peer))
            for port in rule.get("ports") or ():
                if port.get("endPort") and port["endPort"] < (port.get("port") or 0):
                    yield f"spec.{direction.lower()}.{i}.ports: endPort is below port"


def _peer(peer: Mapping[str, Any]) -> Iterator[str]:
    block = peer.get("ipBlock")
    if not peer:
        yield "an empty peer is refused"
    if block is None:
        return
    if len(peer) > 1:
        yield "ipBlock excludes podSelector and namespaceSelector"
    try:
        whole = ipaddress.ip_network(block["cidr"])
        inner = [ipaddress.ip_network(one) for one in block.get("except") or ()]
    except ValueError as error:
        yield f"ipBlock: {error}"
        return
    for one in inner:
        if one.version != whole.version or not one.subnet_of(whole):  # type: ignore[arg-type]
            yield f"ipBlock.except: {one} is not within {whole}"


def _role(document: Document) -> Iterator[str]:
    for i, rule in enumerate(document.get("rules") or ()):
        if not rule.get("verbs"):
            yield f"rules.{i}.verbs: is empty"
        if not rule.get("nonResourceURLs") and (not rule.get("resources") or rule.get("apiGroups") is None):
            yield f"rules.{i}: needs apiGroups and resources"
        everything = [field for field in ("verbs", "resources", "apiGroups") if "*" in (rule.get(field) or ())]
        if everything:
            yield f"rules.{i}: '*' in {', '.join(everything)}: name what is needed and no more"


def _binding(document: Document) -> Iterator[str]:
    role = document["roleRef"]
    allowed = ("Role", "ClusterRole") if document["kind"] == "RoleBinding" else ("ClusterRole",)
    if role["kind"] not in allowed or role["apiGroup"] != "rbac.authorization.k8s.io":
        yield f"roleRef: {role['apiGroup']} {role['kind']} must be {' or '.join(allowed)} of rbac.authorization.k8s.io"
    for subject in document.get("subjects") or ():
        if subject["kind"] not in ("ServiceAccount", "User", "Group"):
            yield f"subjects: kind {subject['kind']!r} is unknown"
        if subject["kind"] == "ServiceAccount" and not subject.get("namespace"):
            yield f"subjects: {subject['name']}: a ServiceAccount needs its namespace"


def _claim(document: Document) -> Iterator[str]:
    spec = document["spec"]
    if "storage" not in ((spec.get("resources") or {}).get("requests") or {}):
        yield "spec.resources.requests.storage: is missing"
    modes = set(spec.get("accessModes") or ())
    if not modes or modes - {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}:
        yield f"spec.accessModes: {sorted(modes)} must be of ReadWriteOnce, ReadOnlyMany, ReadWriteMany"


def _priority(document: Document) -> Iterator[str]:
    if abs(document["value"]) > _HIGHEST_PRIORITY:
        yield f"value: {document['value']} is above {_HIGHEST_PRIORITY}"
    if document["metadata"]["name"].startswith("system-"):
        yield "metadata.name: system-... is reserved"


def _namespace(document: Document) -> Iterator[str]:
    for key, level in (document["metadata"].get("labels") or {}).items():
        prefix, _, mode = key.partition("/")
        if prefix != "pod-security.kubernetes.io":
            continue
        if mode in ("enforce", "audit", "warn") and level not in _LEVELS:
            yield f"metadata.labels: {key}: {level!r} is none of {', '.join(sorted(_LEVELS))}"
        if mode.removesuffix("-version") not in ("enforce", "audit", "warn"):
            yield f"metadata.labels: {key} is unknown"


def _ingress(document: Document) -> Iterator[str]:
    for rule in document["spec"].get("rules") or ():
        for one in (rule.get("http") or {}).get("paths") or ():
            if not str(one.get("path", "/")).startswith("/"):
                yield f"spec.rules: path {one['path']!r} must be absolute"


def _scaler(document: Document) -> Iterator[str]:
    spec = document["spec"]
    if spec.get("minReplicas", 1) > spec["maxReplicas"]:
        yield "spec.minReplicas: is above maxReplicas"


def _stateful_set(document: Document) -> Iterator[str]:
    yield from _selected(document)
    for claim in document["spec"].get("volumeClaimTemplates") or ():
        yield from (f"spec.volumeClaimTemplates: {fault}" for fault in _claim(claim))
    yield from filter(None, [label_value(document["spec"].get("serviceName") or "")])


KINDS: dict[str, Callable[[Document], Iterator[str]]] = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "DaemonSet": _selected,
    "ReplicaSet": _selected,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "PodDisruptionBudget": _budget,
    "NetworkPolicy": _network_policy,
    "Role": _role,
    "ClusterRole": _role,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "PersistentVolumeClaim": _claim,
    "PriorityClass": _priority,
    "Namespace": _namespace,
    "Ingress": _ingress,
    "HorizontalPodAutoscaler": _scaler,
}
