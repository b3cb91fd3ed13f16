"""Layer 6: what KubeRay's operator refuses though its CRDs take it: `controllers/ray/utils/validation.go` of v1.7.0,
with its feature gates as they are by default. An object that breaks a rule stays as it is, with no pod and one event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.manifests.crds import defaulted, definition
from tests.manifests.documents import Document, Rendered, ray_cluster, title
from tests.manifests.words import dns_1035, dns_label, labels, schedule

#: constant.go: room for what the operator appends.
LONGEST = {"RayCluster": 53, "RayService": 47, "RayJob": 47, "RayCronJob": 36}
_UPGRADES = {
    "RayService": ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"),
    "RayCluster": ("Recreate", "None"),
}
_START_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_V2 = "RAY_enable_autoscaler_v2"
_FT, _NAMESPACE = "ray.io/ft-enabled", "ray.io/external-storage-namespace"
_TIMEOUT = "ray.io/initializing-timeout"
_DURATION = r"(?=.*[1-9])(\d+(\.\d+)?(ns|us|ms|s|m|h))+|[1-9]\d*"
_QUEUE = "kueue.x-k8s.io/queue-name"
_DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def faults(rendered: Rendered) -> list[str]:
    """Of every Ray resource, as the API server completes it."""
    return [
        f"{title(document)}: {fault}"
        for document in map(_completed, rendered.of(*LONGEST))
        for fault in (*_metadata(document), *_KINDS[document["kind"]](document))
    ]


def _completed(document: Document) -> Document:
    found = definition(document["apiVersion"], document["kind"])
    whole: Document = defaulted(document, found.schema) if found else document
    return whole


def _metadata(document: Document) -> Iterator[str]:
    kind, name = document["kind"], document["metadata"]["name"]
    fault = dns_1035(name, LONGEST[kind])
    if fault:
        yield f"metadata.name: {fault} (the operator appends to it)"
    given = (document["metadata"].get("annotations") or {}).get(_TIMEOUT)
    if kind == "RayService" and given and not re.fullmatch(_DURATION, given):
        yield f"metadata.annotations.{_TIMEOUT}: {given!r} is neither seconds nor like 30m"


def _service(document: Document) -> Iterator[str]:
    spec, path = document["spec"], "spec.rayClusterConfig"
    yield from _cluster(document, path)
    if (spec["rayClusterConfig"].get("headGroupSpec", {}).get("headService") or {}).get("metadata", {}).get("name"):
        yield f"{path}.headGroupSpec.headService.metadata.name: must not be set"
    strategy = spec.get("upgradeStrategy") or {}
    yield from _upgrade("RayService", strategy)
    if (spec.get("rayClusterDeletionDelaySeconds") or 0) < 0:
        yield "spec.rayClusterDeletionDelaySeconds: must not be negative"
    if strategy.get("type") == "NewClusterWithIncrementalUpgrade":
        yield from _incremental(spec["rayClusterConfig"], strategy.get("clusterUpgradeOptions"))
    elif strategy.get("clusterUpgradeOptions"):
        yield f"spec.upgradeStrategy.clusterUpgradeOptions: have no effect with type {strategy.get('type')}"


def _upgrade(kind: str, strategy: Mapping[str, Any]) -> Iterator[str]:
    given, allowed = strategy.get("type"), _UPGRADES[kind]
    if given is not None and given not in allowed:
        yield f"spec.upgradeStrategy.type: {given!r} is none of {', '.join(allowed)}"


def _incremental(cluster: Mapping[str, Any], options: Mapping[str, Any] | None) -> Iterator[str]:
    path = "spec.upgradeStrategy.clusterUpgradeOptions"
    if not cluster.get("enableInTreeAutoscaling"):
        yield "spec.rayClusterConfig.enableInTreeAutoscaling: an incremental upgrade needs it"
    if not options:
        yield f"{path}: an incremental upgrade needs them"
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent")
    if not 0 <= surge <= 100:
        yield f"{path}.maxSurgePercent: {surge} is not within 0 and 100"
    if step is None or not 0 <= step <= min(100, surge):
        yield f"{path}.stepSizePercent: {step} is not within 0 and maxSurgePercent ({surge})"
    if (options.get("intervalSeconds") or 0) <= 0:
        yield f"{path}.intervalSeconds: must be above 0"
    if not options.get("gatewayClassName"):
        yield f"{path}.gatewayClassName: is missing"


def _job(document: Document, spec: Mapping[str, Any] | None = None) -> Iterator[str]:
    given = spec or document["spec"]
    yield from _deletion(given)
    selector = given.get("clusterSelector")
    if given.get("suspend") and (not given.get("shutdownAfterJobFinishes") or selector):
        yield "spec.suspend: needs shutdownAfterJobFinishes, and no clusterSelector"
    if bool(given.get("rayClusterSpec")) == bool(selector):
        yield "spec: exactly one of rayClusterSpec and clusterSelector must be given"
    mode = given.get("submissionMode", "K8sJobMode")
    if (selector or mode == "InteractiveMode") and (given.get("backoffLimit") or 0) > 0:
        yield "spec.backoffLimit: goes neither with clusterSelector nor with InteractiveMode"
    if mode == "SidecarMode" and any(given.get(field) for field in ("submitterPodTemplate", "submitterConfig")):
        yield "spec: SidecarMode takes neither submitterPodTemplate nor submitterConfig"
    if mode == "K8sJobMode" and not given.get("submitterPodTemplate"):
        yield "spec.submitterPodTemplate: is missing: the operator's own pod is refused by Pod Security restricted"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if given.get(field) is not None and given[field] <= 0:
            yield f"spec.{field}: must be above 0"
    for field in ("backoffLimit", "ttlSecondsAfterFinished"):
        if (given.get(field) or 0) < 0:
            yield f"spec.{field}: must not be negative"
    try:
        yaml.safe_load(given.get("runtimeEnvYAML") or "")
    except yaml.YAMLError as error:
        yield f"spec.runtimeEnvYAML: is no YAML: {error}"
    if spec is None and _QUEUE in (document["metadata"].get("labels") or {}):
        yield from _queued(given, document["metadata"].get("annotations") or {})
    if given.get("rayClusterSpec"):
        yield from _cluster(document, "spec.rayClusterSpec", given["rayClusterSpec"])


def _queued(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> Iterator[str]:
    """What Kueue 0.19 asks of a RayJob in a queue."""
    if not spec.get("shutdownAfterJobFinishes") or spec.get("clusterSelector"):
        yield "spec: in a queue of Kueue it needs shutdownAfterJobFinishes, and no clusterSelector"
    autoscaled = (spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling")
    if autoscaled and annotations.get("kueue.x-k8s.io/elastic-job") != "true":
        yield 'metadata.annotations: with autoscaling, Kueue needs kueue.x-k8s.io/elastic-job: "true"'


def _deletion(spec: Mapping[str, Any]) -> Iterator[str]:
    shutdown, strategy = spec.get("shutdownAfterJobFinishes"), spec.get("deletionStrategy")
    if not shutdown and (spec.get("ttlSecondsAfterFinished") or 0) > 0:
        yield "spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"
    if strategy is None:
        return
    rules, legacy = strategy.get("deletionRules") or [], {"onSuccess", "onFailure"} & strategy.keys()
    if rules and (shutdown or legacy):
        yield "spec.deletionStrategy.deletionRules: exclude shutdownAfterJobFinishes, onSuccess and onFailure"
    if not rules and len(legacy) < 2:
        yield "spec.deletionStrategy: needs deletionRules, or both onSuccess and onFailure"
    if shutdown and any((strategy.get(one) or {}).get("policy") == "DeleteNone" for one in legacy):
        yield "spec.deletionStrategy: DeleteNone contradicts shutdownAfterJobFinishes"
    autoscaled = (spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling")
    policies = [one["policy"] for one in rules] + [(strategy.get(one) or {}).get("policy") for one in legacy]
    if autoscaled and "DeleteWorkers" in policies:
        yield "spec.deletionStrategy: DeleteWorkers does not go with autoscaling"
    yield from _rules(rules)


def _rules(rules: list[Mapping[str, Any]]) -> Iterator[str]:
    waits: dict[tuple[str, str], dict[str, int]] = {}
    for i, rule in enumerate(rules):
        condition = rule["condition"]
        named = [field for field in ("jobStatus", "jobDeploymentStatus") if condition.get(field)]
        if len(named) != 1:
            yield f"spec.deletionStrategy.deletionRules.{i}: exactly one of jobStatus and jobDeploymentStatus"
            continue
        of_condition = waits.setdefault((named[0], condition[named[0]]), {})
        if rule["policy"] in of_condition:
            yield f"spec.deletionStrategy.deletionRules.{i}: {rule['policy']} is there twice for {condition[named[0]]}"
        of_condition[rule["policy"]] = condition.get("ttlSeconds", 0)
    for (_, status), seconds in waits.items():
        order = [seconds[policy] for policy in _DELETION_ORDER if policy in seconds]
        if order != sorted(order) or any(one < 0 for one in order):
            yield f"spec.deletionStrategy.deletionRules: {status}: workers go first, then the cluster, then the job"


def _cron_job(document: Document) -> Iterator[str]:
    spec = document["spec"]
    fault = schedule(spec["schedule"])
    if fault or "TZ" in spec["schedule"]:
        yield f"spec.schedule: {fault or 'takes no TZ: use timeZone'}"
    yield from _job(document, spec["jobTemplate"])


def _bare(document: Document) -> Iterator[str]:
    yield from _upgrade("RayCluster", document["spec"].get("upgradeStrategy") or {})
    yield from _cluster(document, "spec")


_KINDS = {"RayService": _service, "RayJob": _job, "RayCronJob": _cron_job, "RayCluster": _bare}


def _cluster(document: Document, path: str, cluster: Mapping[str, Any] | None = None) -> Iterator[str]:
    spec = cluster if cluster is not None else (ray_cluster(document) or {})
    annotations = document["metadata"].get("annotations") or {}
    if (spec.get("authOptions") or {}).get("enableK8sTokenAuth") and document["kind"] != "RayCluster":
        yield f"{path}.authOptions.enableK8sTokenAuth: is refused for {document['kind']}"
    for fault in (*_groups(spec), *_fault_tolerance(spec, annotations), *_autoscaler(spec), *_access(spec)):
        yield f"{path}.{fault}"


def _groups(spec: Mapping[str, Any]) -> Iterator[str]:
    head, workers = spec.get("headGroupSpec") or {}, spec.get("workerGroupSpecs") or []
    v2 = (spec.get("autoscalerOptions") or {}).get("version") == "v2" or _value(spec, _V2) in ("1", "true")
    for name, group in [("headGroupSpec", head), *((f"workerGroupSpecs.{one['groupName']}", one) for one in workers)]:
        start, resources = group.get("rayStartParams") or {}, group.get("resources") or {}
        if not ((group.get("template") or {}).get("spec") or {}).get("containers"):
            yield f"{name}.template: needs a container"
        if resources and (both := [one for one in _START_RESOURCES if start.get(one)]):
            yield f"{name}: resources and rayStartParams ({', '.join(both)}) exclude each other: keep one of them"
        if "labels" in start:
            yield f"{name}.rayStartParams.labels: is refused: use labels of the group"
        yield from (f"{name}.labels: {fault}" for fault in labels(group.get("labels") or {}))
    for group in workers:
        yield from (f"workerGroupSpecs.{group['groupName']}.{fault}" for fault in _worker(spec, group, v2=v2))
    names = [one["groupName"] for one in workers]
    if len(set(names)) < len(names):
        yield f"workerGroupSpecs: groups of one name: {', '.join(names)}"


def _worker(spec: Mapping[str, Any], group: Mapping[str, Any], *, v2: bool) -> Iterator[str]:
    autoscaled = spec.get("enableInTreeAutoscaling")
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if not autoscaled and (least is None or most is None):
        yield "minReplicas, maxReplicas: must be set where nothing scales the group"
    if (least or 0) < 0 or (most or 0) < 0 or (most is not None and (least or 0) > most):
        yield f"minReplicas: {least} must be at least 0 and at most maxReplicas ({most})"
    if group.get("suspend") and autoscaled:
        yield "suspend: does not go with autoscaling"
    if (group.get("idleTimeoutSeconds") or 0) < 0:
        yield "idleTimeoutSeconds: must not be negative"
    for field in ("idleTimeoutSeconds", "priority"):
        if group.get(field) and not v2:
            yield f"{field}: needs autoscalerOptions.version v2, said explicitly"
    if group.get("priority") and _version(spec) < (2, 56):
        yield f"priority: needs rayVersion 2.56 or later, not {spec.get('rayVersion')}"
    fault = dns_label(group["groupName"])
    if fault:
        yield f"groupName: {fault} (it becomes a part of pods' names)"


def _fault_tolerance(spec: Mapping[str, Any], annotations: Mapping[str, str]) -> Iterator[str]:
    options, variables = spec.get("gcsFaultToleranceOptions"), _variables(spec)
    start = (spec.get("headGroupSpec") or {}).get("rayStartParams") or {}
    if annotations.get(_FT) and options is not None:
        yield f"gcsFaultToleranceOptions: exclude the annotation {_FT}"
    if options is None:
        if "RAY_REDIS_ADDRESS" in variables and annotations.get(_FT, "").lower() != "true":
            yield "headGroupSpec: RAY_REDIS_ADDRESS is set without gcsFaultToleranceOptions"
    else:
        for name in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
            if name in variables:
                yield f"headGroupSpec: {name} is set beside gcsFaultToleranceOptions: put it there"
        if start.get("redis-password"):
            yield "headGroupSpec.rayStartParams.redis-password: put it into gcsFaultToleranceOptions"
        if annotations.get(_NAMESPACE):
            yield f"gcsFaultToleranceOptions: exclude the annotation {_NAMESPACE}"
        if options.get("backend") == "rocksdb":
            yield "gcsFaultToleranceOptions.backend: rocksdb needs a feature gate that is off by default"
        elif options.get("storage"):
            yield "gcsFaultToleranceOptions.storage: is for the backend rocksdb only"
    if start.get("redis-username") or "REDIS_USERNAME" in variables:
        yield "headGroupSpec: put redis' user name into gcsFaultToleranceOptions.redisUsername"


def _autoscaler(spec: Mapping[str, Any]) -> Iterator[str]:
    options, switch = spec.get("autoscalerOptions") or {}, _value(spec, _V2)
    if not spec.get("enableInTreeAutoscaling"):
        if switch in ("1", "true"):
            yield f"headGroupSpec: {_V2} is set and enableInTreeAutoscaling is not"
        return
    if options.get("version") and switch is not None:
        yield f"autoscalerOptions.version: {_V2} is set beside it on the head: keep one"
    if (options.get("idleTimeoutSeconds") or 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds: must not be negative"
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in {one["name"] for one in options.get("env") or ()}:
        yield "autoscalerOptions.env: KUBERAY_GEN_AUTOSCALER_START_CMD is the operator's"
    if options.get("version") == "v2":
        for name, group in _all(spec):
            policy = ((group.get("template") or {}).get("spec") or {}).get("restartPolicy")
            if policy not in (None, "", "Never"):
                yield f"{name}.template.spec.restartPolicy: {policy} must be Never, or not be set, with autoscaler v2"


def _access(spec: Mapping[str, Any]) -> Iterator[str]:
    options = spec.get("authOptions") or {}
    if options.get("mode") == "token" and _version(spec) < (2, 52):
        yield f"authOptions.mode: token needs rayVersion 2.52 or later, not {spec.get('rayVersion')}"
    if options.get("enableK8sTokenAuth") and options.get("mode") != "token":
        yield "authOptions.enableK8sTokenAuth: needs the mode token"
    for field in ("networkPolicy", "tlsOptions", "historyServerOptions"):
        if spec.get(field) is not None:
            yield f"{field}: needs a feature gate that is off by default"


def _all(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "headGroupSpec", spec.get("headGroupSpec") or {}
    yield from ((f"workerGroupSpecs.{one['groupName']}", one) for one in spec.get("workerGroupSpecs") or ())


def _variables(spec: Mapping[str, Any]) -> dict[str, Any]:
    head = ((spec.get("headGroupSpec") or {}).get("template") or {}).get("spec") or {}
    return {one["name"]: one.get("value") for one in ((head.get("containers") or [{}])[0].get("env") or ())}


def _value(spec: Mapping[str, Any], name: str) -> str | None:
    found: str | None = _variables(spec).get(name)
    return found


def _version(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """(0,) for none, and for what is none."""
    found = re.match(r"(\d+)\.(\d+)", spec.get("rayVersion") or "")
    return tuple(map(int, found.groups())) if found else (0,)
