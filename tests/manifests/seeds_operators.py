"""Faults that only an operator refuses: KubeRay's, Milvus's, Kueue."""

from __future__ import annotations

from tests.manifests.seeding import CPU, HEAD, INCREMENTAL, MILVUS, Seed, at, put

OPERATORS = [
    Seed("operators", "upgrade-type", at("upgradeStrategy.type", "BlueGreen"), "'BlueGreen' is none of NewCluster"),
    Seed("operators", "name", lambda s: s.one("RayService")["metadata"].update(name="a" * 48), "at most 47"),
    Seed("operators", "job-name", lambda s: s.one("RayJob")["metadata"].update(name="a" * 48), "at most 47"),
    Seed(
        "operators",
        "timeout",
        lambda s: s.one("RayService")["metadata"].update(annotations={"ray.io/initializing-timeout": "soon"}),
        "neither seconds nor",
    ),
    Seed("operators", "min-max", at(f"{CPU}.minReplicas", 99), "minReplicas: 99 must be at least 0 and at most"),
    Seed(
        "operators",
        "resources-twice",
        lambda s: s.group("cpu").update(rayStartParams={"num-cpus": "2"}, resources={"CPU": "2"}),
        "exclude each other",
    ),
    Seed("operators", "labels", at(f"{CPU}.rayStartParams.labels", "a=b"), "rayStartParams.labels: is refused"),
    Seed("operators", "restart", at(f"{CPU}.template.spec.restartPolicy", "Always"), "Always must be Never"),
    Seed(
        "operators",
        "v2-by-variable",
        lambda s: s.container("head").setdefault("env", []).append({"name": "RAY_enable_autoscaler_v2", "value": "1"}),
        "is set beside it on the head",
    ),
    Seed("operators", "v2-unsaid", lambda s: s.cluster["autoscalerOptions"].pop("version"), "said explicitly"),
    Seed("operators", "auth", at("rayClusterConfig.rayVersion", ""), "token needs rayVersion 2.52"),
    Seed(
        "operators",
        "k8s-auth",
        at("rayClusterConfig.authOptions.enableK8sTokenAuth", True),
        "is refused for RayService",
    ),
    Seed(
        "operators",
        "gate",
        at("rayClusterConfig.networkPolicy", {"mode": "DenyAll"}),
        "networkPolicy: needs a feature gate",
    ),
    Seed(
        "operators",
        "redis-address",
        lambda s: (
            s.container("head").setdefault("env", []).append({"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"})
        ),
        "RAY_REDIS_ADDRESS is set",
    ),
    Seed(
        "operators", "rocksdb", at("rayClusterConfig.gcsFaultToleranceOptions", {"backend": "rocksdb"}), "rocksdb needs"
    ),
    Seed(
        "operators", "head-service", at(f"{HEAD}.headService", {"metadata": {"name": "x"}}), "headService.metadata.name"
    ),
    Seed("operators", "no-container", at(f"{CPU}.template.spec.containers", []), "needs a container"),
    Seed("operators", "group-name", at(f"{CPU}.groupName", "CPU_1"), "'CPU_1' is no DNS label"),
    Seed(
        "operators",
        "step",
        at("upgradeStrategy.clusterUpgradeOptions.stepSizePercent", 80),
        "stepSizePercent: 80 is not within",
        INCREMENTAL,
    ),
    Seed(
        "operators",
        "no-options",
        lambda s: s.service["upgradeStrategy"].pop("clusterUpgradeOptions"),
        "an incremental upgrade needs them",
        INCREMENTAL,
    ),
    Seed(
        "operators",
        "ttl",
        lambda s: s.one("RayJob")["spec"].update(shutdownAfterJobFinishes=False),
        "needs shutdownAfter",
    ),
    Seed(
        "operators",
        "submitter",
        lambda s: s.one("RayJob")["spec"].pop("submitterPodTemplate"),
        "submitterPodTemplate: is",
    ),
    Seed(
        "operators",
        "deletion",
        lambda s: s.one("RayJob")["spec"].update(
            deletionStrategy={"deletionRules": [{"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED"}}]}
        ),
        "DeleteWorkers does not go with autoscaling",
    ),
    Seed(
        "operators",
        "queued",
        lambda s: s.one("RayJob")["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "q"}),
        "Kueue needs kueue.x-k8s.io/elastic-job",
    ),
    Seed(
        "operators",
        "stream",
        lambda s: s.one("Milvus")["spec"]["dependencies"].pop("msgStreamType"),
        "say woodpecker",
        MILVUS,
    ),
    Seed(
        "operators",
        "etcd-lost",
        lambda s: put(s.one("Milvus"), "spec.dependencies.etcd.inCluster.deletionPolicy", "Delete"),
        "must be Retain",
        MILVUS,
    ),
]
