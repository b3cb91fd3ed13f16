"""Faults in documents: what rendering, the schemas of Kubernetes and the CRDs must refuse."""

from __future__ import annotations

from typing import Any

from tests.manifests.seeding import CPU, DRA, EDGES, KUEUE, MILVUS, OF_CPU, OF_GPU, Seed, Set, at, put

RENDERING = [
    Seed("rendering", "twice", lambda s: s.documents.append(dict(s.one("Service"))), "is there 2 times"),
    Seed("rendering", "latest", at(f"{OF_CPU}.image", "ghcr.io/a/b:latest"), "has no version"),
    Seed("rendering", "no-tag", at(f"{OF_CPU}.image", "localhost:5000/a/b"), "has no version"),
    Seed("rendering", "placeholder", at(f"{OF_CPU}.env.0.value", "CHANGE-ME"), "was to be filled in"),
    Seed(
        "rendering",
        "secret",
        lambda s: s.add("{apiVersion: v1, kind: Secret, metadata: {name: p}, stringData: {a: b}}"),
        "Secret/p: holds values",
    ),
]

CORE = [
    Seed("core", "unknown-field", lambda s: s.postgres["template"]["spec"].update(nodeSelectr={}), "nodeSelectr"),
    Seed("core", "wrong-type", lambda s: s.postgres.update(replicas="1"), "'1' is not of type"),
    Seed(
        "core", "old-api", lambda s: s.one("PodDisruptionBudget").update(apiVersion="policy/v1beta1"), "has no policy"
    ),
    Seed(
        "core",
        "quantity",
        lambda s: put(s.postgres, "template.spec.containers.0.resources.limits.memory", "8GiB"),
        "'8GiB' is no quantity",
    ),
    Seed(
        "core",
        "pull-policy",
        lambda s: put(s.postgres, "template.spec.containers.0.imagePullPolicy", "Sometimes"),
        "'Sometimes' is none of Always, IfNotPresent, Never",
    ),
    Seed(
        "core",
        "selector",
        lambda s: put(s.postgres, "selector.matchLabels", {"a": "b"}),
        "does not select the labels of spec.template",
    ),
    Seed("core", "name", lambda s: s.one("Service")["metadata"].update(name="My_Service"), "no DNS-1035 label"),
    Seed("core", "name-1035", lambda s: s.one("Service")["metadata"].update(name="1st"), "no DNS-1035 label"),
    Seed("core", "cron-name", lambda s: s.one("CronJob")["metadata"].update(name="a" * 53), "more than 52 characters"),
    Seed("core", "schedule", lambda s: s.one("CronJob")["spec"].update(schedule="61 * * * *"), "not within 0 and 59"),
    Seed("core", "label", lambda s: s.one("Namespace")["metadata"]["labels"].update(a=True), "True is not of type"),
    Seed("core", "label-value", lambda s: s.one("Namespace")["metadata"]["labels"].update(a="b c"), "'b c' must be"),
    Seed(
        "core",
        "subject",
        lambda s: s.one("RoleBinding")["subjects"][0].pop("namespace"),
        "a ServiceAccount needs its namespace",
    ),
    Seed("core", "cidr", lambda s: put(_policy(s, "ipBlock"), "ipBlock", {"cidr": "10.0.0.1/8"}), "has host bits set"),
    Seed(
        "core",
        "mount",
        lambda s: put(s.postgres, "template.spec.containers.0.volumeMounts.0.name", "dta"),
        "no volume is named 'dta'",
    ),
    Seed(
        "core",
        "same-port",
        lambda s: s.postgres["template"]["spec"]["containers"][0]["ports"].append({"containerPort": 5432}),
        "two entries of containerPort 5432, protocol TCP",
    ),
    Seed(
        "core",
        "request",
        lambda s: put(s.postgres, "template.spec.containers.0.resources.requests.memory", "1Ti"),
        "is more than its limit",
    ),
    Seed(
        "core",
        "budget",
        lambda s: s.one("PodDisruptionBudget")["spec"].update(maxUnavailable=1, minAvailable=1),
        "exactly one of minAvailable and maxUnavailable",
    ),
    Seed("core", "wildcard", lambda s: put(s.one("Role")["rules"][0], "verbs", ["*"]), r"'\*' in verbs"),
    Seed(
        "core",
        "dra-1.33",
        lambda s: s.one("ResourceClaimTemplate").update(apiVersion="resource.k8s.io/v1beta9"),
        "has no resource.k8s.io/v1beta9",
        DRA,
    ),
]


def _policy(given: Set, peer: str) -> Any:
    """The first peer of a NetworkPolicy that has this."""
    for document in given.documents:
        if document["kind"] == "NetworkPolicy":
            for rule in document["spec"].get("egress") or ():
                for one in rule.get("to") or ():
                    if peer in one:
                        return one
    raise AssertionError(peer)


CUSTOM = [
    Seed("custom", "misplaced", at("rayClusterConfig.maxReplicas", 3), "maxReplicas"),
    Seed("custom", "misspelt-kind", lambda s: s.one("RayService").update(kind="RayServise"), "no CRD serves"),
    Seed("custom", "wrong-type", at(f"{CPU}.maxReplicas", "8"), "'8' is not of type 'integer'"),
    Seed("custom", "enum", at("rayClusterConfig.autoscalerOptions.upscalingMode", "Fast"), "'Fast' is not one of"),
    Seed("custom", "quantity", at(f"{OF_GPU}.resources.limits.memory", "24GiB"), "'24GiB' does not match"),
    Seed(
        "custom",
        "list-keys",
        lambda s: s.container("cpu")["env"].append(dict(s.container("cpu")["env"][0])),
        "two entries of name",
    ),
    Seed(
        "custom",
        "cel-budget",
        lambda s: put(s.one("NodePool")["spec"], "disruption.budgets", [{"nodes": "1", "schedule": "@daily"}]),
        "'schedule' must be set with 'duration'",
    ),
    Seed(
        "custom",
        "cel-requirement",
        lambda s: put(
            s.one("NodePool")["spec"],
            "template.spec.requirements.0",
            {"key": "karpenter.sh/custom", "operator": "In", "values": ["x"]},
        ),
        'label domain "karpenter.sh" is restricted',
    ),
    Seed(
        "custom",
        "cel-route",
        lambda s: s.one("HTTPRoute", "anchorage")["spec"]["rules"][0]["backendRefs"][0].pop("port"),
        "Must have port for Service reference",
        EDGES,
    ),
    Seed("custom", "metadata", lambda s: s.one("NodePool")["metadata"].update(label={}), "'label' was unexpected"),
    Seed("custom", "milvus", lambda s: s.one("Milvus")["spec"].update(mod="cluster"), "'mod' was unexpected", MILVUS),
    Seed(
        "custom",
        "old-version",
        lambda s: s.one("LocalQueue").update(apiVersion="kueue.x-k8s.io/v1beta1"),
        "write kueue.x-k8s.io/v1beta2",
        KUEUE,
    ),
    Seed("custom", "replaced-list", lambda s: s.group("gpu").pop("template"), "'template' is a required property"),
    Seed(
        "custom",
        "null",
        lambda s: s.group("gpu").update(groupName=None),
        "'groupName' is a required property",
    ),
]
