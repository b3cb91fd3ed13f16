"""Faults between objects: names, selectors, nodes, sizes, times, flows."""

from __future__ import annotations

from typing import Any

from tests.manifests.seeding import (
    CPU,
    DRA,
    EDGES,
    GOOGLE,
    GPU,
    HEAD,
    KUEUE,
    LOADTEST,
    MILVUS,
    OF_CPU,
    Seed,
    Set,
    at,
    put,
)

NAMES = [
    Seed("crossing", "head-token", at(f"{HEAD}.template.spec.automountServiceAccountToken", False), "leave it on"),
    Seed("crossing", "token", at(f"{CPU}.template.spec.automountServiceAccountToken", True), "has no rights in this"),
    Seed(
        "crossing",
        "address",
        lambda s: _config(s).update(ANCHORAGE_INDEX__MILVUS_URI="http://milvu:19530"),
        "no Service",
    ),
    Seed("crossing", "address-port", lambda s: _config(s).update(X="http://milvus:19531"), "has only 19530"),
    Seed("crossing", "config-map", at(f"{OF_CPU}.envFrom.0.configMapRef.name", "settings"), "no ConfigMap is named"),
    Seed("crossing", "secret", lambda s: _secret(s, name="anchorage-x"), "the Secret anchorage-x .* is in no README"),
    Seed("crossing", "secret-key", lambda s: _secret(s, key="catalogue"), "its key catalogue is in no README"),
    Seed("crossing", "account", at(f"{CPU}.template.spec.serviceAccountName", "nobody"), "no ServiceAccount is named"),
    Seed(
        "crossing", "priority", at(f"{GPU}.template.spec.priorityClassName", "high"), "no PriorityClass is named 'high'"
    ),
    Seed(
        "crossing",
        "claim",
        lambda s: s.pod("cpu")["volumes"].append({"name": "m", "persistentVolumeClaim": {"claimName": "models"}}),
        "no PersistentVolumeClaim is named 'models'",
    ),
    Seed(
        "crossing", "role", lambda s: s.one("RoleBinding")["roleRef"].update(name="admin"), "no Role is named 'admin'"
    ),
    Seed("crossing", "gateway", lambda s: s.documents.remove(s.one("Gateway")), "no Gateway is named", EDGES),
    Seed(
        "crossing",
        "backend",
        lambda s: put(s.one("HTTPRoute", "anchorage"), "spec.rules.0.backendRefs.0.name", "anchorage-serve-svc"),
        "no Service is named 'anchorage-serve-svc'",
        EDGES,
    ),
    Seed("crossing", "queue", lambda s: s.documents.remove(s.one("ClusterQueue")), "no ClusterQueue is named", KUEUE),
    Seed(
        "crossing",
        "claim-template",
        lambda s: s.documents.remove(s.one("ResourceClaimTemplate")),
        "no ResourceClaimTemplate is named",
        DRA,
    ),
    Seed("crossing", "namespace", lambda s: s.one("Service")["metadata"].pop("namespace"), "None is not in this set"),
    Seed(
        "crossing",
        "enforce",
        lambda s: s.one("Namespace")["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce"),
        "not restricted",
    ),
    Seed("crossing", "labels", lambda s: s.one("PriorityClass")["metadata"].pop("labels"), "part-of.* missing"),
]

SELECTORS = [
    Seed(
        "crossing",
        "google-timeouts",
        lambda s: put(s.one("HTTPRoute", "anchorage"), "spec.rules.0.timeouts", {"request": "0s"}),
        "GKE refuses the route",
        GOOGLE,
    ),
    Seed("crossing", "google-redirect", lambda s: _redirect(s).pop("statusCode"), "by 301 and 302 alone", GOOGLE),
    Seed(
        "crossing",
        "google-limit",
        lambda s: s.documents.remove(s.one("GCPBackendPolicy")),
        "answers end after 30 s",
        GOOGLE,
    ),
    Seed(
        "crossing",
        "google-health",
        lambda s: s.documents.remove(s.one("HealthCheckPolicy")),
        "Google asks /",
        GOOGLE,
    ),
    Seed("crossing", "head-in-service", at("excludeHeadPodFromServeSvc", False), "the head holds no replica"),
    Seed(
        "crossing",
        "stream-cut",
        lambda s: put(s.one("HTTPRoute", "anchorage"), "spec.rules.0.timeouts", {"request": "30s"}),
        "may cut a stream",
        EDGES,
    ),
    Seed(
        "crossing",
        "service-selector",
        lambda s: s.one("Service", "postgres")["spec"].update(selector={"app": "postgre"}),
        "selects no pod of this set",
    ),
    Seed(
        "crossing",
        "service-port",
        lambda s: put(s.one("Service", "postgres"), "spec.ports.0.targetPort", 5433),
        "5433 is no port of the pods",
    ),
    Seed(
        "crossing", "serve-port", at("serveService.spec.ports.0.targetPort", "http"), "'http' is no port of any worker"
    ),
    Seed("crossing", "through-gpu", at("serveService.spec.ports.0.targetPort", 8000), "reaches the GPU group gpu"),
    Seed(
        "crossing",
        "budget-selector",
        lambda s: put(_serving_budget(s), "selector.matchLabels", {"ray.io/group": "cpus"}),
        "selects no pod of this set",
    ),
    Seed(
        "crossing",
        "budget-percent",
        lambda s: _serving_budget(s).update(minAvailable="50%"),
        "only a whole minAvailable works",
    ),
    Seed("crossing", "budget-stuck", lambda s: _serving_budget(s).update(minAvailable=2), "could ever be drained"),
    Seed(
        "crossing",
        "spread",
        at(f"{CPU}.template.spec.topologySpreadConstraints.0.labelSelector", {"matchLabels": {"a": "b"}}),
        "does not select this pod",
    ),
    Seed(
        "crossing",
        "hpa",
        lambda s: s.add(
            "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {maxReplicas: 3, "
            "scaleTargetRef: {apiVersion: ray.io/v1, kind: RayCluster, name: anchorage}}}"
        ),
        "is scaled by Ray",
    ),
    Seed(
        "crossing",
        "keda",
        lambda s: s.add(
            "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: k}, spec: {triggers: [], "
            "scaleTargetRef: {apiVersion: ray.io/v1, kind: RayService, name: anchorage}}}"
        ),
        "is scaled by Ray",
    ),
    Seed(
        "crossing",
        "ingress",
        lambda s: s.add(
            "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {rules: [{http: {paths: "
            "[{path: /, pathType: Prefix, backend: {service: {name: anchorage, port: {number: 8000}}}}]}}]}}"
        ),
        "the Service anchorage has no port 8000",
    ),
]

NODES = [
    Seed("crossing", "no-toleration", lambda s: s.pod("gpu").pop("tolerations"), "does not tolerate the taint"),
    Seed(
        "crossing",
        "cpu-on-gpu",
        at(f"{CPU}.template.spec.tolerations", [{"operator": "Exists"}]),
        "asks for no GPU and tolerates",
    ),
    Seed(
        "crossing",
        "head-gpu",
        at(f"{HEAD}.template.spec.containers.0.resources.limits.nvidia~com/gpu", "1"),
        "head has",
    ),
    Seed("crossing", "head-work", at(f"{HEAD}.rayStartParams.num-cpus", "4"), 'num-cpus: must be "0"'),
    Seed("crossing", "head-evicted", at(f"{HEAD}.template.metadata.annotations", {}), "the head is a single point"),
    Seed(
        "crossing",
        "taint",
        lambda s: put(_pool(s), "template.spec.taints.0", {"key": "gpu", "value": "yes", "effect": "NoSchedule"}),
        "no pod of this set tolerates gpu",
    ),
    Seed("crossing", "limit", lambda s: put(_pool(s), "limits.nvidia~com/gpu", "11"), "may ask for 4.* may ask for 8"),
    Seed("crossing", "no-limit", lambda s: _pool(s).update(limits={"cpu": "10"}), "it is the cap on cost"),
    Seed(
        "crossing",
        "consolidated",
        lambda s: put(_pool(s), "disruption.consolidationPolicy", "WhenEmptyOrUnderutilized"),
        "moves a GPU pod that serves",
    ),
    Seed("crossing", "node-selector", at(f"{GPU}.template.spec.nodeSelector", {"pool": "x"}), "no NodePool that it"),
    Seed("crossing", "apart", lambda s: _embed(s).pop("nodeSelector"), "where others that ask for a GPU have"),
    Seed("crossing", "claim-unseen", lambda s: s.group("gpu").pop("resources"), "Ray does not see what a claim", DRA),
    Seed(
        "crossing",
        "product-label",
        at(f"{GPU}.template.spec.nodeSelector", {"nvidia.com/gpu.product": "L4"}),
        "after a",
    ),
    Seed("crossing", "karpenter-claims", lambda s: _claims(s), "Karpenter 1.14 does not see claims"),
]

SIZES = [
    Seed("crossing", "ray-stop", at(f"{OF_CPU}.lifecycle.preStop", {"exec": {"command": ["ray stop"]}}), "`ray stop`"),
    Seed("crossing", "replicas", lambda s: s.settings("llm", max_replicas=9), "llm may ask for 9 GPUs"),
    Seed("crossing", "ranks", lambda s: s.settings("llm", engine_args={"tensor_parallel_size": 2}), "need one pod"),
    Seed("crossing", "device", lambda s: s.settings("llm", device="auto"), "say gpu"),
    Seed("crossing", "no-llm", lambda s: s.serve(_without_llm), "no LLM asks for them"),
    Seed("crossing", "plane", lambda s: s.settings("api", max_replicas=99), "all but the LLM may ask for"),
    Seed("crossing", "zero", at(f"{CPU}.minReplicas", 0), "the Api is always up"),
    Seed(
        "crossing",
        "plane-resource",
        lambda s: s.group("cpu")["resources"].pop("cpu_plane"),
        "must be on the CPU groups",
    ),
    Seed("crossing", "plane-off", lambda s: s.settings("scaling", cpu_plane=False), "would land on GPU nodes"),
    Seed("crossing", "deadline", lambda s: s.settings("api", deadline_s=900), "an answer may take 900 s"),
    Seed("crossing", "grace", at(f"{GPU}.template.spec.terminationGracePeriodSeconds", 30), "take longer"),
    Seed("crossing", "old-cluster", at("rayClusterDeletionDelaySeconds", 60), "the old cluster still answers"),
    Seed("crossing", "drain", lambda s: _config(s).pop("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"), "not '330'"),
    Seed("crossing", "variable", lambda s: _config(s).update(ANCHORAGE_INDEX__MILVUS="x"), "is no setting"),
    Seed("crossing", "variable-value", lambda s: _config(s).update(ANCHORAGE_API__PORT="http"), "api.port"),
]

COMMANDS = [
    Seed("crossing", "flag", lambda s: _guard(s)["args"].append("--namespaces"), "No such option"),
    Seed("crossing", "command", lambda s: _guard(s).update(args=["gard"]), "No such command 'gard'"),
    Seed("crossing", "entrypoint", lambda s: _entrypoint(s, " --misspelt"), "spec.entrypoint: .*No such option"),
    Seed(
        "crossing",
        "guard-port",
        lambda s: _guard(s)["args"].extend(["--port", "9090"]),
        r"listens on 9090, not on \[8080",
    ),
]

FLOWS = [
    Seed("crossing", "open-namespace", lambda s: _drop(s, "anchorage-default-deny"), "no NetworkPolicy denies"),
    Seed("crossing", "no-dns", lambda s: _drop(s, "anchorage-dns"), "cannot ask DNS"),
    Seed("crossing", "no-index", lambda s: _drop(s, "anchorage-index"), "Api to Milvus: closed by egress"),
    Seed(
        "crossing", "no-ray", lambda s: _drop(s, "anchorage-serving-cluster"), "Ray's serving pods .* closed by egress"
    ),
    Seed("crossing", "no-api-server", lambda s: _drop(s, "anchorage-api-server-head"), "head cannot reach"),
    Seed("crossing", "milvus-closed", lambda s: _drop(s, "milvus"), "closed by ingress", MILVUS),
    Seed("crossing", "no-reports", lambda s: _drop(s, "anchorage-loadtest-master"), "master: closed by in", LOADTEST),
    Seed("crossing", "no-workers", lambda s: _drop(s, "anchorage-loadtest-workers"), "master: closed by eg", LOADTEST),
]


def _secret(given: Set, **values: str) -> None:
    variable = next(one for one in given.container("cpu")["env"] if one["name"] == "ANCHORAGE_INDEX__CATALOG_URL")
    variable["valueFrom"]["secretKeyRef"].update(values)


def _serving_budget(given: Set) -> Any:
    return given.one("PodDisruptionBudget", "anchorage-serving")["spec"]


def _pool(given: Set) -> Any:
    return given.one("NodePool", "anchorage-gpu")["spec"]


def _redirect(given: Set) -> Any:
    return given.one("HTTPRoute", "anchorage-redirect")["spec"]["rules"][0]["filters"][0]["requestRedirect"]


def _embed(given: Set) -> Any:
    return given.one("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]


def _claims(given: Set) -> None:
    for side in given.container("gpu")["resources"].values():
        side.pop("nvidia.com/gpu", None)
    given.container("gpu")["resources"]["claims"] = [{"name": "gpu"}]
    given.pod("gpu")["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "anchorage-gpu"}]
    given.group("gpu").update(rayStartParams={}, resources={"GPU": "1", "CPU": "4"})


def _guard(given: Set) -> Any:
    return given.one("Deployment", "anchorage-guard")["spec"]["template"]["spec"]["containers"][0]


def _entrypoint(given: Set, more: str) -> None:
    given.one("RayJob")["spec"]["entrypoint"] += more


def _config(given: Set) -> Any:
    settings = [one for one in given.documents if one["metadata"]["name"].startswith("anchorage-settings")]
    return settings[0]["data"]


def _without_llm(config: Any) -> None:
    del config["applications"][0]["args"]["llm"]


def _drop(given: Set, name: str) -> None:
    given.documents.remove(given.one("NetworkPolicy", name))
