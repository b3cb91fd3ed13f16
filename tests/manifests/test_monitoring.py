"""Scraping, alerts and dashboards: what they ask for is exported and reached, and somebody knows what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry

from serving.cli import build
from serving.cluster.guard_metrics import GuardMetrics
from serving.settings import Settings
from serving.telemetry import Telemetry
from tests.manifests.documents import pods
from tests.manifests.rendering import Offer, rendered

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "manifests" / "components" / "monitoring"
EVERYTHING = Offer("eks", ("monitoring",))
#: Not ours, by who exports them. Ray's were seen on the metrics page of a running Ray 2.60, vLLM's in its source.
FOREIGN = {
    "Ray": {
        "ray_serve_deployment_status",
        "ray_serve_deployment_replica_healthy",
        "ray_serve_deployment_replica_starts_total",
        "ray_serve_autoscaling_target_replicas",
        "ray_node_mem_used",
        "autoscaler_active_nodes",
        "autoscaler_pending_nodes",
    },
    "vLLM": {"vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting"},
    "KubeRay": {"kuberay_job_deployment_status"},
    "Milvus": {"milvus_proxy_sq_latency"},
    "kube-state-metrics": {
        "kube_cronjob_status_last_successful_time",
        "kube_job_failed",
        "kube_node_status_allocatable",
        "kube_pod_container_resource_requests",
        "kube_pod_status_phase",
        "kube_pod_status_ready",
    },
    "kubelet": {
        "container_memory_working_set_bytes",
        "kubelet_volume_stats_available_bytes",
        "kubelet_volume_stats_capacity_bytes",
        "kubelet_volume_stats_used_bytes",
    },
    "DCGM": {"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"},
    "OpenCost": {"node_gpu_hourly_cost"},
}
#: Labels that are put to every series on the way.
ADDED = {"namespace", "pod", "job", "container", "endpoint", "replica", "ray_io_cluster", "ray_io_group"}
HANDWRITTEN = re.compile(r"# TYPE (anchorage_\w+) (\w+)")


@dataclass(frozen=True)
class Question:
    """One PromQL expression, and where it is."""

    where: str
    text: str


@cache
def exported() -> dict[str, set[str] | None]:
    """Our families by name without a counter's `_total`; their labels, None where they are written by hand."""
    found: dict[str, set[str] | None] = {}
    for registry in (Telemetry().registry, GuardMetrics(list, float).registry):
        found |= _registered(registry)
    for package in ("serving", "ingestion"):
        for path in (ROOT / package).rglob("*.py"):
            for name, kind in HANDWRITTEN.findall(path.read_text()):
                found.setdefault(name.removesuffix("_total") if kind == "counter" else name, None)
    return found


def _registered(registry: CollectorRegistry) -> dict[str, set[str] | None]:
    return {
        family.name: set(collector._labelnames)
        for collector in registry._collector_to_names
        for family in collector.describe()
    }


def questions() -> Iterator[Question]:
    for document in rendered(EVERYTHING).documents:
        if document["kind"] == "PrometheusRule":
            for group in document["spec"]["groups"]:
                yield from (Question(rule["alert"], rule["expr"]) for rule in group["rules"])
    for path in sorted(FOLDER.glob("dashboards/*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield Question(f"{path.stem}: {panel['title']}", target["expr"].replace("$namespace", "here"))


def faults(question: Question) -> list[str]:
    """Metrics and labels that nobody exports. Raises ValueError for what is no PromQL."""
    return [f"{question.where}: {fault}" for fault in dict.fromkeys(_read(promql_parser.parse(question.text), ()))]


def _read(node: Any, grouped: tuple[str, ...]) -> Iterator[str]:
    """`grouped`: the labels that an aggregation around the node keeps."""
    if isinstance(node, promql_parser.VectorSelector):
        asked = {matcher.name for matcher in node.matchers.matchers} | set(grouped)
        yield from _metric(node.name or "", asked - ADDED - {"le"})
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from _read(node.vector_selector, grouped)
    elif isinstance(node, promql_parser.AggregateExpr):
        assert node.modifier is None or node.modifier.type == promql_parser.AggModifierType.By
        yield from _read(node.expr, tuple(node.modifier.labels) if node.modifier else ())
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from _read(node.lhs, grouped)
        yield from _read(node.rhs, ())
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _read(argument, grouped)
    elif isinstance(node, promql_parser.ParenExpr | promql_parser.SubqueryExpr | promql_parser.UnaryExpr):
        yield from _read(node.expr, grouped)
    else:
        assert isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral), node


def _metric(name: str, asked: set[str]) -> Iterator[str]:
    family = re.sub(r"_(bucket|count|sum|total)$", "", name)
    if any({name, family} & names for names in FOREIGN.values()):
        return
    known = exported().get(family, exported().get(name, ...))
    if known is ...:
        yield f"nobody exports {name}"
    elif known is not None:
        yield from (f"{name} has no label {label}" for label in sorted(asked - known))


def test_alerts_and_dashboards_read_what_is_exported() -> None:
    """Each expression is PromQL; each metric is ours or of a named exporter, each label one that the metric has."""
    asked = list(questions())
    assert len(asked) > 60
    assert [fault for question in asked for fault in faults(question)] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rate(anchorage_request_total[5m])", "nobody exports anchorage_request_total"),
        ('anchorage_requests_queued{room="a"}', "anchorage_requests_queued has no label room"),
        ("anchorage_gpu_node", "nobody exports anchorage_gpu_node"),
        ("sum by (room) (anchorage_requests_queued)", "anchorage_requests_queued has no label room"),
    ],
)
def test_what_is_not_exported_is_found(text: str, fault: str) -> None:
    """A misspelt metric, a label that it has not."""
    assert faults(Question("here", text)) == [f"here: {fault}"]


def test_what_is_no_promql_is_found() -> None:
    """By a real parser."""
    with pytest.raises(ValueError, match="parenthesis"):
        faults(Question("here", "sum(rate(anchorage_requests_total[5m])"))


def test_each_alert_says_what_to_do() -> None:
    """Severity, summary, description, and a section of the runbook; no section is left over."""
    sections = {
        line.removeprefix("## ") for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("## ")
    }
    alerts = set()
    for path in FOLDER.glob("prometheusrule-*.yaml"):
        (group,) = yaml.safe_load(path.read_text())["spec"]["groups"]
        for rule in group["rules"]:
            alerts.add(rule["alert"])
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["for"]
            assert {"summary", "description", "runbook"} == rule["annotations"].keys()
            named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"]))
            assert named <= set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
            path_, _, anchor = rule["annotations"]["runbook"].partition("#")
            assert (ROOT / path_).is_file()
            assert anchor == rule["alert"].lower()
    assert alerts == sections


def test_the_runbook_names_what_there_is() -> None:
    """Settings, commands with their flags, components."""
    told = (FOLDER / "README.md").read_text()
    settings = re.findall(r"`(api|llm|embedder|scaling|retrieval)\.(\w+)", told)
    assert settings
    for group, field in settings:
        assert field in Settings.model_fields[group].annotation.model_fields, f"{group}.{field}"  # type: ignore[union-attr]
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    spoken = re.findall(r"`anchorage ([a-z]+)([^`]*)`", told)
    assert spoken
    for name, rest in spoken:
        flags = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= flags, name
    for component in re.findall(r"`((?:weights|milvus|gcs)-[\w-]+)`", told):
        assert (FOLDER.parent / component).is_dir(), component


def reached(monitor: str) -> list[tuple[str, str]]:
    """The pods of an offered set that a PodMonitor takes: name of the pod's part, port."""
    set_ = rendered(EVERYTHING)
    (found,) = [one for one in set_.documents if one["kind"] == "PodMonitor" and one["metadata"]["name"] == monitor]
    targets = []
    for document in set_.documents:
        for pod in pods(document):
            if not _selected(found["spec"]["selector"], pod.labels):
                continue
            ports = {port["name"] for one in pod.template["spec"]["containers"] for port in one.get("ports", ())}
            targets += [
                (pod.path, endpoint["port"])
                for endpoint in found["spec"]["podMetricsEndpoints"]
                if endpoint["port"] in ports
            ]
    return targets


def _selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    same = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return same and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


def test_our_page_is_read_once_a_cluster() -> None:
    """One target, the head's Serve proxy: each further one would count every replica again."""
    targets = reached("anchorage-answers")
    assert len(targets) == 1
    assert "headGroupSpec" in targets[0][0]
    assert targets[0][1] == "serve"


def test_each_ray_pod_is_read() -> None:
    """Head and workers of serving and of ingestion."""
    assert len(reached("anchorage-ray")) == 6


@pytest.mark.parametrize("monitor", ["anchorage-guard", "anchorage-milvus"])
def test_the_others_are_reached(monitor: str) -> None:
    """By a port that their pods have."""
    assert len(reached(monitor)) == 1


def test_dashboards_are_dashboards() -> None:
    """Ids that do not clash, panels that do not overlap, one data source variable."""
    uids = set()
    for path in FOLDER.glob("dashboards/*.json"):
        dashboard = json.loads(path.read_text())
        uids.add(dashboard["uid"])
        assert dashboard["uid"] == path.stem
        assert {one["name"] for one in dashboard["templating"]["list"]} == {"datasource", "namespace"}
        cells: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            grid = panel["gridPos"]
            own = {
                (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not own & cells, panel["title"]
            assert max(x for x, _ in own) < 24
            cells |= own
    (config,) = [one for one in rendered(EVERYTHING).documents if one["metadata"]["name"] == "anchorage-dashboards"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {Path(name).stem for name in config["data"]} == uids
