"""What is seen of the serving side while a load is held, and what its GPUs cost."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli_on_cluster import Where, looking
from loadtest.cluster_look import Look, Node
from loadtest.cluster_watch import Watched, watching
from loadtest.cost import cost
from loadtest.record import Record
from loadtest.report import page as report_of
from loadtest.run import Run, Sample, Study
from loadtest.scaling import Around, around
from serving.errors import ConfigurationError
from tests.cluster.apiserver import Fault, Server
from tests.cluster.conftest import kubeconfig, server
from tests.cluster.operators import pod, wait_for

from .test_report import Read

__all__ = ["kubeconfig", "server"]

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
METRICS = """anchorage_requests_running{pool="answer",replica="a"} 1
anchorage_requests_running{pool="answer",replica="b"} 0
anchorage_embedder_passes_total{replica="c"} 7
"""
START = 1_800_000_000.0


def node(name: str, gpus: int, **labels: str) -> dict[str, Any]:
    metadata = {
        "name": name,
        "labels": {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()},
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "status": {"allocatable": {"nvidia.com/gpu": str(gpus)}},
    }


def gpu_pod(name: str, where: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/part-of": "anchorage",
        "app.kubernetes.io/component": "serving",
        "ray.io/group": "gpu",
    }
    return pod(name, node=where, status=READY, labels=labels)


def run_from(start: float, **more: Any) -> Run:
    return Run({}, 60.0, started_at=datetime.fromtimestamp(start, UTC).isoformat(), **more)


def seen(watched: Watched) -> Run:
    """By a run that began at START."""
    run = run_from(START)
    watched.into([run])
    return run


def told(run: Run) -> list[tuple[float, str, str]]:
    return [(event["t_s"], event["what"], event["detail"]) for event in run.events]


@pytest.fixture
def deployment(server: Server) -> Server:
    """Two replicas of the Api, a GPU pod that is wanted twice, its node; and somebody else's GPU node."""
    server.metrics = METRICS
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage"}})
    server.put(node("mine", 1, **{"karpenter.k8s.aws__instance-gpu-name": "l4"}))
    server.put(node("theirs", 8))
    server.put(gpu_pod("gpu-1", "mine"))
    groups = [{"groupName": "gpu", "replicas": 2}]
    metadata = {"name": "anchorage-x", "namespace": "anchorage", "ownerReferences": [{"kind": "RayService"}]}
    server.put(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": {"workerGroupSpecs": groups}}
    )
    labels = {"app.kubernetes.io/part-of": "anchorage"}
    guard = {"name": "anchorage-guard", "namespace": "anchorage", "labels": labels}
    server.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": guard, "spec": {"replicas": 2}})
    owned = [{"kind": "ReplicaSet", "name": "anchorage-guard-7d9f"}]
    server.put(pod("guard-1", node="cpu", status=READY, labels=labels, ownerReferences=owned))
    return server


def test_a_cluster_is_seen_while_it_scales(deployment: Server, kubeconfig: Path) -> None:
    """Replicas and pods by deployment, our GPU nodes alone, what is wanted; what changes is an event."""
    look = looking(Where(cluster=True, kubeconfig=str(kubeconfig)), "")
    began = time.time()
    with watching(look, every_s=0.05) as watched:
        wait_for(lambda: watched.looks, "a look")
        deployment.put(node("second", 1, **{"karpenter.k8s.aws__instance-gpu-name": "l4"}))
        deployment.put(gpu_pod("gpu-2", "second"))
        wait_for(lambda: len(watched.looks[-1][1].ready["pods gpu"]) == 2, "the second pod")
        deployment.drop(("Pod", "anchorage", "gpu-1"))
        wait_for(lambda: len(watched.looks[-1][1].ready["pods gpu"]) == 1, "the loss of the first")
    ended = time.time()
    run = run_from(began - 10)
    watched.into([run])
    first, last = run.samples[0], run.samples[-1]
    assert first.by_deployment == {
        "pods gpu": 1,
        "anchorage-guard": 1,
        "Api": 2,
        "Embedder": 1,
        "Ingestor": 0,
        "Llm": 0,
    }
    assert first.wanted == {"pods gpu": 2, "anchorage-guard": 2}
    # The first node is there after its pod has gone, and is paid for.
    assert [(one.gpu_nodes, one.gpus) for one in (first, last)] == [(1, 1), (2, 2)]
    assert {(what, detail) for _, what, detail in told(run)} == {
        ("GPU node appeared", "second"),
        ("replica gained", "pods gpu: gpu-2"),
        ("replica lost", "pods gpu: gpu-1"),
    }
    assert watched.gpu_type == "L4"
    assert all(9.9 < one.t_s < 10.1 + ended - began for one in run.samples)


def test_a_failing_api_server_disturbs_nobody(deployment: Server, kubeconfig: Path) -> None:
    """Samples are missing, and that is said; what may not be seen is not taken for nothing."""
    deployment.faults = [Fault("GET .*/pods", status=403, reason="Forbidden", message="no pods for you", times=2)]
    deployment.denied = {("list", "nodes")}
    look = looking(Where(cluster=True, kubeconfig=str(kubeconfig)), "")
    with watching(look, every_s=0.05) as watched:
        wait_for(lambda: len(watched.looks) > 1, "two looks")
    run = seen(watched)
    assert {one.gpus for one in run.samples} == {None}
    details = [detail for _, what, detail in told(run) if what == "not seen"]
    assert any("no pods for you (looks: 2)" in detail for detail in details)
    assert any("GPU nodes: they may not be listed" in detail for detail in details)
    assert cost(Study([run])) is None


def test_an_answer_that_is_no_answer_is_missing() -> None:
    """Whatever a look raises, the load goes on."""

    def look() -> Look:
        raise ValueError("no such thing")

    with watching(look, every_s=0.01) as watched:
        wait_for(lambda: watched.missing, "a look that failed")
    assert [*watched.missing] == ["ValueError: no such thing"]


@contextmanager
def page(text: str) -> Iterator[str]:
    """A server whose /metrics are these."""

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("text", "replicas", "missing"),
    [
        (METRICS, {"Api": 2, "Embedder": 1, "Ingestor": 0, "Llm": 0}, False),
        ("python_info 1\n", {}, True),
    ],
)
def test_a_server_without_a_cluster_is_seen_by_its_metrics(text: str, replicas: dict[str, int], missing: bool) -> None:
    """Where they have replicas; of GPUs nothing is known."""
    with page(text) as url:
        look = looking(Where(), url)()
        assert {name: len(each) for name, each in look.ready.items()} == replicas
        assert (look.nodes, bool(look.missing)) == (None, missing)
    with watching(looking(Where(), url), every_s=0.05) as watched:
        wait_for(lambda: watched.missing, "a server that is gone")


def test_a_replica_left_out_of_one_page_was_not_lost() -> None:
    """A busy replica may not say its metrics in time; one that stays away is lost when it went."""
    watched = Watched()
    for second in range(60):
        names = {"a", "b", *(() if 20 <= second < 24 else ("slow",)), *(("gone",) if second < 30 else ())}
        watched.take(START + second, Look({"Llm": frozenset(names)}, unsure=frozenset({"Llm"})))
    run = seen(watched)
    assert told(run) == [(30.0, "replica lost", "Llm: gone")]
    assert [one.by_deployment["Llm"] for one in run.samples] == [4] * 30 + [3] * 30


def test_samples_belong_to_the_run_that_had_begun() -> None:
    """One watch over the levels of a sweep: each look is in one run, the first has what was before it."""
    watched = Watched()
    for second in range(0, 100, 10):
        watched.take(START + second, Look({"pods gpu": frozenset({"a"} if second < 70 else {"a", "b"})}))
    levels = [run_from(START + 20), run_from(START + 60)]
    watched.into(levels)
    assert [one.t_s for one in levels[0].samples] == [-20, -10, 0, 10, 20, 30]
    assert [one.t_s for one in levels[1].samples] == [0, 10, 20, 30]
    assert (told(levels[0]), told(levels[1])) == ([], [(10.0, "replica gained", "pods gpu: b")])


def test_errors_during_scale_events_are_counted() -> None:
    """Of requests that were under way near one; events that are no scaling do not count."""
    run = run_from(
        START, events=[{"t_s": 30.0, "what": "replica lost", "detail": ""}, {"t_s": 3.0, "what": "not seen"}]
    )
    for second in range(60):
        run.add(Record("stream", float(second), total_s=1.0, error="reset" if second in (5, 31, 32) else None))
    run.load = {"kind": "open", "arrivals": "constant:1", "rate": 1.0}
    found = around(run)
    # From 27 (ends at 28, two seconds before) to 45 (fifteen after).
    assert found == Around(1, 19, 2, 41, 1)
    assert found.said() == "Of 19 requests that were under way while something scaled 2 failed, of the other 41 1."
    assert found.said() in Read(report_of(Study([run]))).text
    run.events = []
    assert around(run).said() == ""


def studied(samples: list[Sample], answers: int = 500, failed: int = 0) -> Study:
    run = run_from(START, samples=samples)
    for number in range(answers + failed):
        run.add(Record("stream", number / 100, error=None if number < answers else "reset"))
    return Study([run])


def test_gpu_minutes_are_the_integral_of_what_was_up() -> None:
    """One GPU for 60 s, four for 30 s, before and after the load as well; the price by the hour."""
    samples = [Sample(t_s, gpus=gpus) for t_s, gpus in ((-30.0, 1), (0.0, 1), (30.0, 4), (60.0, 0), (90.0, 0))]
    samples.insert(2, Sample(15.0, gpus=None))
    found = cost(studied(samples, answers=500, failed=100), "L4")
    assert found is not None
    assert (found["gpu"], found["gpu_hour"], found["gpu_minutes"], found["answers"]) == ("L4", 0.805, 3.0, 500)
    assert found["per_1000_answers"] == pytest.approx(3 / 60 * 0.805 * 2)
    assert "assumption" in found["note"]
    assert "from 30 s before the load until 30 s after it" in found["note"]
    given = cost(studied(samples), "L4", 2.0)
    assert given is not None
    assert (given["gpu_hour"], given["per_1000_answers"]) == (2.0, pytest.approx(0.2))
    other = cost(studied(samples), "MI300X-of-ours", 2.0)
    assert other is not None
    assert (other["gpu"], other["per_1000_answers"]) == ("MI300X-of-ours", pytest.approx(0.2))


def test_what_has_no_gpu_costs_no_gpu() -> None:
    """Not 0.00: it is said. Neither does one without a price, or without an answer, have a cost."""
    none = cost(studied([Sample(0.0, gpus=0), Sample(60.0, gpus=0)]))
    assert none is not None
    assert (none["per_1000_answers"], none["gpu_minutes"], "no GPU" in none["note"]) == (None, 0, True)
    up = [Sample(0.0, gpus=1), Sample(60.0, gpus=1)]
    unknown = cost(studied(up))
    assert unknown is not None
    assert (unknown["per_1000_answers"], unknown["gpu_minutes"], "--gpu" in unknown["note"]) == (None, 1.0, True)
    silent = cost(studied(up, answers=0), "L4")
    assert silent is not None
    assert silent["per_1000_answers"] is None
    assert cost(studied([])) is None


@pytest.mark.parametrize(("gpu", "price", "says"), [("L5", None, "There are: T4"), ("L4", 0.0, "above 0")])
def test_prices_that_are_none_are_refused(gpu: str, price: float | None, says: str) -> None:
    """A type that nobody knows needs a price of its own."""
    with pytest.raises(ConfigurationError, match=says):
        cost(studied([Sample(0.0, gpus=1)]), gpu, price)


def test_a_node_is_paid_for_from_its_first_minute() -> None:
    """Before its GPUs are known, before our pod is on it, and after it has gone."""
    watched = Watched()
    for second, nodes in (
        (0, {}),
        (10, {"n": Node(0, False)}),
        (20, {"n": Node(2, True, "H100")}),
        (30, {"n": Node(2, False)}),
    ):
        watched.take(START + second, Look(nodes=nodes))
    run = seen(watched)
    assert [one.gpus for one in run.samples] == [0, 2, 2, 2]
    assert told(run) == [(10.0, "GPU node appeared", "n")]
    assert watched.gpu_type == "H100"
