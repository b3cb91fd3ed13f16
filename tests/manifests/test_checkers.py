"""The checks themselves, where a render does not show them: schemas, defaults, CEL, words, policies."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.manifests import cel, crds, custom, flows, rendering, restricted, serve_config
from tests.manifests.documents import Rendered
from tests.manifests.words import label_key, port_name, quantity, schedule, selects

_FUNCTIONS = re.compile(r"\.(\w+)\(")


def test_quantities_are_read_as_kubernetes_does() -> None:
    """Binary and decimal suffixes, exponents; and what is none."""
    assert quantity("1.5Gi") == 1.5 * 2**30
    assert [quantity(one) for one in ("500m", "1e3", 2, "0.5")] == [0.5, 1000, 2, 0.5]
    assert [one for one in ("8GiB", "8 Gi", "Gi", "1.2.3", "", "1KB") if quantity(one) is not None] == []


def test_words_are_what_kubernetes_takes() -> None:
    """Keys with a prefix, names of ports, schedules."""
    assert [label_key(key) for key in ("a", "a.b/c_d.e", "app.kubernetes.io/name")] == [None] * 3
    assert all(label_key(key) for key in ("", "/a", "a/", "A.b/c", "-a", "a" * 64, "a b"))
    assert port_name("dash-metrics") is None
    assert all(map(port_name, ("metrics-of-the-head", "Http", "a--b", "8080")))
    assert [schedule(text) for text in ("17 2 * * *", "*/5 0-6,22 1 1-12/2 7", "@daily")] == [None] * 3
    assert all(map(schedule, ("* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "*/0 * * * *", "@nightly")))


def test_selectors_select() -> None:
    """Both forms together, and the empty one, which takes everything."""
    labels = {"a": "1", "b": "2"}
    both = {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "3"]}]}
    assert selects(both, labels)
    assert selects({}, labels)
    assert not selects({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, labels)
    assert selects({"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}, labels)


def test_nulls_go_and_defaults_come() -> None:
    """As the API server completes an object before it looks at it."""
    schema = {
        "type": "object",
        "properties": {
            "least": {"type": "integer", "default": 1},
            "name": {"type": "string"},
            "maybe": {"type": "string", "nullable": True},
            "inner": {"type": "object", "default": {}, "properties": {"deep": {"type": "integer", "default": 2}}},
        },
    }
    assert crds.defaulted({"name": None, "least": None, "maybe": None}, schema) == {
        "least": 1,
        "maybe": None,
        "inner": {"deep": 2},
    }


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}]}, ["25%", 3], [1.5, {}]),
        ({"type": "string", "nullable": True, "enum": ["a"]}, [None, "a"], ["b"]),
        ({"type": "integer", "format": "int32"}, [2**31 - 1], [2**31, "1"]),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, [{"a": "b"}, {}], [{"b": 1}, {"a": 1}]),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, [{"any": {"thing": 1}}], [[]]),
        (
            {"type": "array", "x-kubernetes-preserve-unknown-fields": True, "items": {"type": "object"}},
            [[{"any": {"thing": 1}}]],
            [["a"]],
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, [{"a": "b"}], [{"a": 1}]),
        ({"type": "string", "pattern": "^(?i)(abort|warn)?$"}, ["ABORT", ""], ["stop"]),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [{"a": 1}],
            [{}, {"a": 1, "b": 1}],
        ),
        (
            {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True},
            [{"apiVersion": "v1", "kind": "Pod", "spec": {}}],
            [{"kind": "Pod"}],
        ),
    ],
)
def test_schemas_mean_what_kubernetes_means(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    """The words that JSON Schema does not have, and closed objects everywhere but within conditions."""
    checker = jsonschema.Draft202012Validator(crds.converted(schema))
    assert [value for value in good if not checker.is_valid(value)] == []
    assert [value for value in bad if checker.is_valid(value)] == []


def test_every_rule_of_the_crds_is_understood() -> None:
    """All are compiled, and use no function that CEL would have to be given and is not."""
    crds.required()
    added = {"find", "split"}
    own = {"all", "exists", "exists_one", "filter", "map", "size", "matches", "contains", "startsWith", "endsWith"}
    rules = [rule for path in crds.folders() for rule in _rules(crds.load(path)["spec"])]
    assert len(rules) > 400
    for rule in rules:
        cel.program(rule)
        unknown = set(_FUNCTIONS.findall(rule)) - own - added
        assert not unknown or "oldSelf" in rule, rule


def _rules(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = value.get("x-kubernetes-validations")
        found = [one["rule"] for one in own] if isinstance(own, list) else []
        return found + [rule for below in value.values() for rule in _rules(below)]
    return [rule for below in value for rule in _rules(below)] if isinstance(value, list) else []


def test_rules_see_values_as_their_schema_says() -> None:
    """Doubles, names that CEL reserves, maps whose keys are no names; a rule that fails is a fault."""
    schema = {
        "type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.share <= 0.5", "message": "too much"},
            {"rule": "self.__namespace__ == 'a' && self.max__dash__size > 1"},
            {"rule": "self.labels.all(key, key.split('/')[0].size() < 9)"},
            {"rule": "self.missing == 1"},
            {"rule": "self == oldSelf", "message": "immutable"},
        ],
        "properties": {
            "share": {"type": "number"},
            "namespace": {"type": "string"},
            "max-size": {"type": "integer"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    value = {"share": 1, "namespace": "a", "max-size": 2, "labels": {"in/x": "y"}}
    first, second = cel.faults(value, schema)
    assert "too much" in first
    assert "cannot be evaluated" in second


def test_what_an_official_sample_leaves_out_is_given() -> None:
    """minReplicas and maxReplicas are required and have defaults; a null is as if nothing was said."""
    crds.required()
    whole = rendering.rendered(rendering.Offer("eks"))
    service = copy.deepcopy(whole.of("RayService")[0])
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    del group["minReplicas"], group["maxReplicas"]
    group["template"]["spec"]["containers"][0]["command"] = None
    assert custom.document_faults(service) == ()


def test_duplicate_keys_are_refused() -> None:
    """YAML libraries take the last one, silently."""
    with pytest.raises(rendering.CannotRender, match="twice"):
        rendering.parsed("a: {b: 1, c: 2, b: 3}")
    assert rendering.parsed("a: &x {b: 1}\nc: {<<: *x, d: 2}") == [{"a": {"b": 1}, "c": {"b": 1, "d": 2}}]


def test_a_broken_overlay_says_what_is_broken(tmp_path: Path) -> None:
    """kustomize's own words."""
    (tmp_path / "kustomization.yaml").write_text("resources: [nothing.yaml]")
    with pytest.raises(rendering.CannotRender, match=r"nothing\.yaml"):
        rendering.kustomize(tmp_path)


def test_a_plain_pod_is_not_restricted() -> None:
    """Everything that must be said, is asked for; and one that says it, passes."""
    told = restricted.faults({"containers": [{"name": "a"}]})
    assert [re.sub(r".*securityContext\.(\w+).*", r"\1", one) for one in told] == [
        "allowPrivilegeEscalation",
        "capabilities",
        "runAsNonRoot",
        "seccompProfile",
    ]
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    volumes = [{"name": "m", "image": {"reference": "a:1"}}, {"name": "s", "emptyDir": {}}]
    spec = {"securityContext": pod, "volumes": volumes, "containers": [{"name": "a", "securityContext": context}]}
    assert restricted.faults(spec) == []


def test_policies_let_through_what_they_name() -> None:
    """By labels and ports, a pod that no policy selects lets everything; a denied one nothing."""
    pods = [_pod("a", 80), _pod("b", 81)]
    deny = _policy("deny", {}, policyTypes=["Ingress", "Egress"])
    flow = flows.Flow("a to b", {"is": "a"}, {"is": "b"}, 81)

    def closed(*policies: dict[str, Any]) -> list[str]:
        set_ = Rendered("x", (*pods, *policies))
        source, target = set_.pods()
        return list(flows.between(flow, source, target, list(policies)))

    assert closed() == []
    assert "egress" in closed(deny)[0]
    out = _policy("out", {"is": "a"}, policyTypes=["Egress"], egress=[{"to": [_peer("b")], "ports": [{"port": 81}]}])
    assert "ingress" in closed(deny, out)[0]
    into = _policy("in", {"is": "b"}, policyTypes=["Ingress"], ingress=[{"from": [_peer("a")]}])
    assert closed(deny, out, into) == []
    out["spec"]["egress"][0]["ports"] = [{"port": "web"}, {"port": 70, "endPort": 80}]
    assert closed(deny, out, into)


def _peer(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"is": name}}}


def _pod(name: str, port: int) -> dict[str, Any]:
    container = {"name": name, "ports": [{"containerPort": port}]}
    metadata = {"name": name, "labels": {"is": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def _policy(name: str, selector: dict[str, str], **spec: Any) -> dict[str, Any]:
    whole = {"podSelector": {"matchLabels": selector}, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": whole}


def test_variables_of_a_container_are_found() -> None:
    """Its own before those of a ConfigMap; of secrets nothing is known."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"A": "1", "B": "2", "k": "3"},
    }
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}}],
        "env": [
            {"name": "A", "value": "own"},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
    }
    found = serve_config.variables(container, Rendered("x", (config,)))
    assert found == {"A": "own", "B": "2", "k": "3", "D": "3"}
