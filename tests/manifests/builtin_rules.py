"""What an API server refuses of pods and their parts though the schemas take it: Kubernetes' validation, by type.

After `pkg/apis/core/validation/validation.go` of Kubernetes. The schemas have neither enums nor patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.manifests.words import dns_label, label_key, label_value, labels, port_name, quantity

Rule = Callable[[Any], Iterator[str]]
_CORE = "io.k8s.api.core.v1."
_PULL = {"Always", "IfNotPresent", "Never"}
_PROTOCOLS = {"TCP", "UDP", "SCTP"}
_EFFECTS = {"", "NoSchedule", "PreferNoSchedule", "NoExecute"}
#: Type -> field -> what it may be.
ENUMS: dict[str, dict[str, set[str]]] = {
    f"{_CORE}Container": {
        "imagePullPolicy": _PULL,
        "terminationMessagePolicy": {"File", "FallbackToLogsOnError"},
        "restartPolicy": {"Always", "OnFailure", "Never"},
    },
    f"{_CORE}ContainerPort": {"protocol": _PROTOCOLS},
    f"{_CORE}ImageVolumeSource": {"pullPolicy": _PULL},
    f"{_CORE}HTTPGetAction": {"scheme": {"HTTP", "HTTPS"}},
    f"{_CORE}PodSpec": {
        "restartPolicy": {"Always", "OnFailure", "Never"},
        "dnsPolicy": {"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"},
        "preemptionPolicy": {"PreemptLowerPriority", "Never"},
    },
    f"{_CORE}PodSecurityContext": {
        "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
        "supplementalGroupsPolicy": {"Merge", "Strict"},
    },
    f"{_CORE}SeccompProfile": {"type": {"RuntimeDefault", "Localhost", "Unconfined"}},
    f"{_CORE}AppArmorProfile": {"type": {"RuntimeDefault", "Localhost", "Unconfined"}},
    f"{_CORE}SecurityContext": {"procMount": {"Default", "Unmasked"}},
    f"{_CORE}EmptyDirVolumeSource": {"medium": {"", "Memory", "HugePages"}},
    f"{_CORE}Toleration": {"operator": {"Exists", "Equal"}, "effect": _EFFECTS},
    f"{_CORE}TopologySpreadConstraint": {
        "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
        "nodeAffinityPolicy": {"Honor", "Ignore"},
        "nodeTaintsPolicy": {"Honor", "Ignore"},
    },
    f"{_CORE}NodeSelectorRequirement": {"operator": {"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"}},
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement": {
        "operator": {"In", "NotIn", "Exists", "DoesNotExist"}
    },
    f"{_CORE}ServiceSpec": {
        "type": {"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"},
        "sessionAffinity": {"None", "ClientIP"},
        "externalTrafficPolicy": {"Cluster", "Local"},
        "internalTrafficPolicy": {"Cluster", "Local"},
        "ipFamilyPolicy": {"SingleStack", "PreferDualStack", "RequireDualStack"},
    },
    f"{_CORE}ServicePort": {"protocol": _PROTOCOLS},
    f"{_CORE}PersistentVolumeClaimSpec": {"volumeMode": {"Filesystem", "Block"}},
    f"{_CORE}LimitRangeItem": {"type": {"Container", "Pod", "PersistentVolumeClaim"}},
    "io.k8s.api.apps.v1.DeploymentStrategy": {"type": {"Recreate", "RollingUpdate"}},
    "io.k8s.api.apps.v1.StatefulSetUpdateStrategy": {"type": {"OnDelete", "RollingUpdate"}},
    "io.k8s.api.apps.v1.StatefulSetSpec": {"podManagementPolicy": {"OrderedReady", "Parallel"}},
    "io.k8s.api.apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy": {
        "whenDeleted": {"Retain", "Delete"},
        "whenScaled": {"Retain", "Delete"},
    },
    "io.k8s.api.batch.v1.CronJobSpec": {"concurrencyPolicy": {"Allow", "Forbid", "Replace"}},
    "io.k8s.api.batch.v1.JobSpec": {"completionMode": {"NonIndexed", "Indexed"}},
    "io.k8s.api.networking.v1.NetworkPolicyPort": {"protocol": _PROTOCOLS},
    "io.k8s.api.networking.v1.HTTPIngressPath": {"pathType": {"Exact", "Prefix", "ImplementationSpecific"}},
    "io.k8s.api.policy.v1.PodDisruptionBudgetSpec": {"unhealthyPodEvictionPolicy": {"IfHealthyBudget", "AlwaysAllow"}},
    "io.k8s.api.scheduling.v1.PriorityClass": {"preemptionPolicy": {"PreemptLowerPriority", "Never"}},
    "io.k8s.api.storage.v1.StorageClass": {
        "reclaimPolicy": {"Delete", "Retain"},
        "volumeBindingMode": {"Immediate", "WaitForFirstConsumer"},
    },
    "io.k8s.api.resource.v1.ExactDeviceRequest": {"allocationMode": {"ExactCount", "All"}},
}


def enums(name: str, value: Any) -> Iterator[str]:
    """Fields of one type against the values that there are."""
    for field, allowed in ENUMS.get(name, {}).items():
        given = value.get(field)
        if given is not None and given not in allowed:
            yield f"{field}: {given!r} is none of {', '.join(sorted(filter(None, allowed)))}"


def _metadata(value: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"labels: {fault}" for fault in labels(value.get("labels") or {}))
    for key, one in (value.get("annotations") or {}).items():
        yield from (f"annotations: {fault}" for fault in [label_key(key.lower())] if fault)
        if not isinstance(one, str):
            yield f"annotations: {key}: {one!r} is no string: quote it"


def _selector(value: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"matchLabels: {fault}" for fault in labels(value.get("matchLabels") or {}))
    for one in value.get("matchExpressions") or ():
        named = one.get("operator") in ("In", "NotIn")
        if named is not bool(one.get("values")):
            yield f"matchExpressions: {one.get('key')}: values go with In and NotIn, and only with them"


def _quantity(value: Any) -> Iterator[str]:
    if value is not None and quantity(value) is None:
        yield f"{value!r} is no quantity: write 500m, 2, 8Gi"


def _resources(value: Mapping[str, Any]) -> Iterator[str]:
    limits, requests = value.get("limits") or {}, value.get("requests") or {}
    for name in {*limits, *requests}:
        limit, request = (quantity(side[name]) if name in side else None for side in (limits, requests))
        for side, given in (("limits", limits), ("requests", requests)):
            yield from (f"{side}: {fault}" for fault in _amount(name, given.get(name)))
        if limit is not None and request is not None and request > limit:
            yield f"requests: {name}: {requests[name]} is more than its limit {limits[name]}"
        if "/" in name and name in requests and limit != request:
            yield f"requests: {name}: must be what the limit is ({limits.get(name)}): it cannot be overcommitted"


def _amount(name: str, given: Any) -> Iterator[str]:
    amount = quantity(given) if given is not None else None
    if amount is None:
        return
    if amount < 0 or ("/" in name and amount != int(amount)):
        yield f"{name}: {given} must be {'a whole number' if '/' in name else 'positive'}"
    if name == "cpu" and str(given).endswith("i"):
        yield f"{name}: {given} counts bytes; a CPU is counted as 2 or 500m"
    if name in ("memory", "ephemeral-storage") and (str(given).endswith("m") or amount < 2**20):
        yield f"{name}: {given} is less than a mebibyte: write 512Mi"


def _variable(value: Mapping[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"[ -<>-~]+", value["name"]):
        yield f"name: {value['name']!r} cannot be a variable's"
    if value.get("value") and value.get("valueFrom"):
        yield f"{value['name']}: value and valueFrom exclude each other"


def _one_of(*fields: str) -> Rule:
    def rule(value: Mapping[str, Any]) -> Iterator[str]:
        given = [field for field in fields if value.get(field) is not None]
        if len(given) != 1:
            yield f"exactly one of {', '.join(fields)} must be given, not {', '.join(given) or 'none'}"

    return rule


def _volume(value: Mapping[str, Any]) -> Iterator[str]:
    sources = sorted(value.keys() - {"name"})
    if len(sources) != 1:
        yield f"{value['name']}: exactly one source must be given, not {', '.join(sources) or 'none'}"
    yield from filter(None, [dns_label(value["name"])])


def _mount(value: Mapping[str, Any]) -> Iterator[str]:
    if ":" in value["mountPath"] or not value["mountPath"].startswith("/"):
        yield f"mountPath: {value['mountPath']!r} must be absolute and without ':'"
    if value.get("subPath") and value.get("subPathExpr"):
        yield "subPath and subPathExpr exclude each other"
    if str(value.get("subPath", "")).startswith("/"):
        yield f"subPath: {value['subPath']!r} must be relative"


def _number(value: Any, what: str) -> Iterator[str]:
    if isinstance(value, int) and not 1 <= value <= 65535:
        yield f"{what}: {value} is no port: 1 to 65535"
    elif isinstance(value, str):
        yield from (f"{what}: {fault}" for fault in [port_name(value)] if fault)


def _container_port(value: Mapping[str, Any]) -> Iterator[str]:
    yield from _number(value.get("containerPort"), "containerPort")
    yield from (f"name: {fault}" for fault in [port_name(value["name"])] if fault) if "name" in value else ()


def _probe(value: Mapping[str, Any]) -> Iterator[str]:
    yield from _one_of("exec", "grpc", "httpGet", "tcpSocket")(value)
    for field in ("periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"):
        if value.get(field, 1) < 1:
            yield f"{field}: {value[field]} must be 1 or more"


def _toleration(value: Mapping[str, Any]) -> Iterator[str]:
    exists = value.get("operator") == "Exists"
    if exists and value.get("value"):
        yield "operator Exists takes no value"
    if not value.get("key") and not exists:
        yield "without a key, operator must be Exists"
    if value.get("key"):
        yield from filter(None, [label_key(value["key"]), label_value(value.get("value") or "")])


def _spread(value: Mapping[str, Any]) -> Iterator[str]:
    if value["maxSkew"] < 1:
        yield f"maxSkew: {value['maxSkew']} must be 1 or more"
    if value.get("minDomains") and value["whenUnsatisfiable"] != "DoNotSchedule":
        yield "minDomains goes only with DoNotSchedule"


def _config_keys(value: Mapping[str, Any]) -> Iterator[str]:
    for key in {**(value.get("data") or {}), **(value.get("binaryData") or {}), **(value.get("stringData") or {})}:
        if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
            yield f"data: {key!r} must be letters, digits, '-', '_' and '.'"
    if sum(len(str(one).encode()) for one in (value.get("data") or {}).values()) > 2**20:
        yield "data: more than 1 MiB"


RULES: dict[str, Rule] = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": _metadata,
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector": _selector,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": _quantity,
    f"{_CORE}ResourceRequirements": _resources,
    f"{_CORE}EnvVar": _variable,
    f"{_CORE}EnvVarSource": _one_of("configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"),
    f"{_CORE}Volume": _volume,
    f"{_CORE}VolumeMount": _mount,
    f"{_CORE}ContainerPort": _container_port,
    f"{_CORE}HTTPGetAction": lambda value: _number(value.get("port"), "port"),
    f"{_CORE}TCPSocketAction": lambda value: _number(value.get("port"), "port"),
    f"{_CORE}Probe": _probe,
    f"{_CORE}Toleration": _toleration,
    f"{_CORE}TopologySpreadConstraint": _spread,
    f"{_CORE}ConfigMap": _config_keys,
    f"{_CORE}Secret": _config_keys,
    "io.k8s.api.resource.v1.DeviceRequest": _one_of("exactly", "firstAvailable"),
    f"{_CORE}PodResourceClaim": _one_of("resourceClaimName", "resourceClaimTemplateName"),
}


def rules(name: str, value: Any) -> Iterator[str]:
    """What is wrong with a value of this type, beyond its schema. The value has passed the schema."""
    if name.startswith("list:"):
        yield from _duplicates(name.removeprefix("list:").split(","), value)
    elif value is not None:
        yield from enums(name, value) if isinstance(value, dict) else ()
        if name in RULES:
            yield from RULES[name](value)


def _duplicates(keys: list[str], items: list[Any]) -> Iterator[str]:
    """A server-side apply refuses two entries of one key. A port's protocol is TCP where it says none."""
    seen = set()
    for item in items:
        key = tuple(item.get(one, "TCP" if one == "protocol" else None) for one in keys)
        if key in seen:
            yield f"two entries of {', '.join(f'{k} {v}' for k, v in zip(keys, key, strict=True))}: keep one"
        seen.add(key)
