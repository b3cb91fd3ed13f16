"""`anchorage guard`: pods that load are left alone, those that serve are let go, and both is measured."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.cluster.guard_http import serving
from serving.cluster.guard_watch import Guard
from serving.cluster.kubeconfig import connect
from tests.cluster.apiserver import Fault, Server
from tests.cluster.operators import ago, pod, wait_for

PROTECTED = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "mine": "stays",
}


@pytest.fixture
def said() -> list[str]:
    """What the guard writes to its log."""
    return []


@pytest.fixture
def ask(server: Server, kubeconfig: Path, said: list[str]) -> Iterator[Callable[[str], httpx.Response]]:
    """The guard at work, asked over HTTP."""
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage"}})
    guard = Guard(connect(str(kubeconfig), patience_s=0.2), "anchorage", said.append, look_s=0.1)
    worker = threading.Thread(target=guard.run, daemon=True)
    with serving(guard, "127.0.0.1", 0) as port:
        worker.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield client.get
        guard.stop()


Ask = Callable[[str], httpx.Response]


def llm(ask: Ask) -> dict[str, Any]:
    return dict(ask("/llm").json())


def metric(ask: Ask, sample: str) -> float:
    lines = [line for line in ask("/metrics").text.splitlines() if line.startswith(f"{sample} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else -1.0


def step(server: Server, name: str, seconds: tuple[float, ...], **metadata: Any) -> None:
    """A pod that was made, scheduled, started and ready so many seconds ago: as many of them as there are."""
    conditions = []
    status: dict[str, Any] = {"phase": "Pending", "conditions": conditions}
    if len(seconds) > 1:
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(seconds[1])})
    if len(seconds) > 2:
        running = {"running": {"startedAt": ago(seconds[2])}}
        status |= {"phase": "Running", "containerStatuses": [{"name": "ray-worker", "state": running}]}
    if len(seconds) > 3:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": ago(seconds[3])})
    known = server.find("Pod", name)
    annotations = known["metadata"]["annotations"] if known else dict(PROTECTED)
    made = {"annotations": annotations, "creationTimestamp": ago(seconds[0]), "uid": f"uid-{name}", **metadata}
    server.put(pod(name, status=status, node="n" if len(seconds) > 1 else None, **made))


def annotations(server: Server, name: str) -> dict[str, str]:
    found = server.find("Pod", name)
    assert found
    return dict(found["metadata"].get("annotations") or {})


def test_a_start_from_nothing_to_serving(server: Server, ask: Ask) -> None:
    """Node, image, weights, ready: each is told; the protection stays until it serves, and what is not ours stays."""
    wait_for(lambda: ask("/llm").status_code == 200 and llm(ask)["stage"] == "asleep", "the first list")
    for stage, seconds in (("node", (100,)), ("image", (100, 70)), ("weights", (100, 70, 30))):
        step(server, "gpu-1", seconds)
        wait_for(lambda stage=stage: llm(ask)["stage"] == stage, stage)
        assert llm(ask)["since_s"] >= min(seconds)
        assert annotations(server, "gpu-1") == PROTECTED
        assert metric(ask, f'anchorage_gpu_pods{{stage="{stage}"}}') == 1
        assert metric(ask, f'anchorage_gpu_pod_waiting_seconds{{stage="{stage}"}}') >= min(seconds)
    step(server, "gpu-1", (100, 70, 30, 0))
    wait_for(lambda: annotations(server, "gpu-1") == {"mine": "stays"}, "the release")
    wait_for(lambda: metric(ask, 'anchorage_gpu_pod_start_seconds_count{stage="ready"}') == 1, "the measure")
    assert llm(ask)["stage"] == "ready"
    for stage, low in (("node", 29), ("image", 39), ("weights", 29), ("ready", 98)):
        assert low <= metric(ask, f'anchorage_gpu_pod_start_seconds_sum{{stage="{stage}"}}') <= low + 5


def test_why_a_node_is_waited_for(server: Server, ask: Ask) -> None:
    """In the words of the scheduler and of whoever makes nodes."""
    step(server, "gpu-1", (20,))
    about = {"kind": "Pod", "name": "gpu-1"}
    where = {"name": "e", "namespace": "anchorage"}
    event = {"apiVersion": "v1", "kind": "Event", "metadata": where, "involvedObject": about, "lastTimestamp": ago(1)}
    server.put({**event, "reason": "NotTriggerScaleUp", "message": "no capacity of p5.48xlarge"})
    wait_for(lambda: "no capacity of p5.48xlarge" in llm(ask).get("reason", ""), "the reason")


def test_the_pod_that_is_furthest_speaks(server: Server, ask: Ask) -> None:
    """One that loads is nearer than one that waits for a node; one that serves is all that counts."""
    step(server, "gpu-1", (100, 70, 30))
    step(server, "gpu-2", (10,))
    wait_for(lambda: llm(ask).get("stage") == "weights", "the one that loads")
    assert metric(ask, 'anchorage_gpu_pods{stage="node"}') == 1


def test_a_guard_that_was_away_catches_up(server: Server, ask: Ask) -> None:
    """What became ready meanwhile is let go at once, and counted once."""
    step(server, "gpu-1", (100, 70, 30, 5))
    wait_for(lambda: annotations(server, "gpu-1") == {"mine": "stays"}, "the release")
    server.put(dict(server.objects["Pod", "anchorage", "gpu-1"]))
    step(server, "gpu-2", (5,))
    wait_for(lambda: metric(ask, 'anchorage_gpu_pods{stage="node"}') == 1, "the next pod")
    assert metric(ask, 'anchorage_gpu_pod_start_seconds_count{stage="ready"}') == 1


def test_gpus_that_are_kept_for_nothing(server: Server, ask: Ask) -> None:
    """A pod that served and does not any more, and one that does not end."""
    idle = {"type": "Ready", "status": "False", "lastTransitionTime": ago(400)}
    server.put(pod("gpu-1", node="n", status={"phase": "Running", "conditions": [idle]}))
    ending = {"deletionTimestamp": ago(100), "deletionGracePeriodSeconds": 60, "finalizers": ["x"]}
    server.put(pod("gpu-2", node="n", status={"phase": "Running"}, **ending))
    wait_for(lambda: metric(ask, 'anchorage_gpu_pod_unreleased_seconds{cause="idle"}') >= 400, "the idle one")
    assert metric(ask, 'anchorage_gpu_pod_unreleased_seconds{cause="ending"}') >= 160
    assert llm(ask)["stage"] == "asleep"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("watch=true", reset=True),
        Fault("watch=true", status=503, reason="ServiceUnavailable"),
        Fault("watch=true", status=410, reason="Expired"),
        Fault(r"GET .*/pods\?(?!.*watch)", status=500, reason="InternalError"),
        Fault("PATCH", status=429, reason="TooManyRequests", retry_after=0),
    ],
    ids=["reset in the middle of an event", "503", "410", "list 500", "patch 429"],
)
def test_an_api_server_that_falters(server: Server, ask: Ask, fault: Fault) -> None:
    """The guard comes back, and misses nothing."""
    server.faults = [fault]
    step(server, "gpu-1", (100, 70, 30))
    step(server, "gpu-1", (100, 70, 30, 0))
    wait_for(lambda: annotations(server, "gpu-1") == {"mine": "stays"}, "the release")
    wait_for(lambda: llm(ask).get("stage") == "ready", "ready")


def test_a_version_that_the_server_forgot(server: Server, ask: Ask) -> None:
    """An event says so in the middle of a watch: all is listed anew."""
    wait_for(lambda: ask("/llm").status_code == 200, "the first list")
    wait_for(lambda: any(each.startswith("WATCH") for each in server.requests), "the watch")
    server.oldest = 10**6
    server.expire_watches = True
    wait_for(lambda: sum(each.startswith("WATCH") for each in server.requests) > 1, "another watch")
    server.oldest, server.expire_watches = 0, False
    assert metric(ask, "anchorage_guard_failures_total") == 0
    step(server, "gpu-1", (100, 70, 30, 0))
    wait_for(lambda: annotations(server, "gpu-1") == {"mine": "stays"}, "the release")


def test_rights_that_are_missing_are_told(server: Server, ask: Ask, said: list[str]) -> None:
    """And the guard goes on: it may be given them."""
    server.denied = {("patch", "pods")}
    step(server, "gpu-1", (100, 70, 30, 0))
    wait_for(lambda: any("could not be taken away" in line for line in said), "the complaint")
    assert metric(ask, "anchorage_guard_failures_total") >= 1
    server.denied = set()
    step(server, "gpu-1", (100, 70, 30, 0))
    wait_for(lambda: annotations(server, "gpu-1") == {"mine": "stays"}, "the release")


def test_it_is_alive_before_it_knows(server: Server, ask: Ask) -> None:
    """Alive is not ready: nothing is said about pods that have not been seen."""
    server.faults = [Fault("pods", status=503, times=-1)]
    assert ask("/healthz").status_code == 200
    assert ask("/nothing").status_code == 404


def test_who_stalls_is_hung_up_on(kubeconfig: Path) -> None:
    """Half a request and then nothing, or no request at all: each holds a thread; others are answered meanwhile."""
    guard = Guard(connect(str(kubeconfig)), "anchorage", print)
    with serving(guard, "127.0.0.1", 0, stalled_s=0.2) as port:
        stalled = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2)]
        stalled[0].sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        for client in stalled:
            with client:
                assert client.recv(1) == b""


def test_other_pods_are_none_of_its_business(server: Server, ask: Ask) -> None:
    """Those of the CPU group keep what they have."""
    step(server, "gpu-1", (100, 70, 30, 0), labels={"app.kubernetes.io/part-of": "anchorage"})
    step(server, "gpu-2", (100, 70, 30, 0))
    wait_for(lambda: annotations(server, "gpu-2") == {"mine": "stays"}, "the release")
    assert annotations(server, "gpu-1") == PROTECTED


def test_the_command_ends_when_it_is_told_to(server: Server, kubeconfig: Path) -> None:
    """Even while its watch is silent: a pod that does not end keeps a node."""
    command = [sys.executable, "-m", "serving.cli", "guard", "--kubeconfig", str(kubeconfig)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "listening on 127.0.0.1:" in line
        wait_for(lambda: any(each.startswith("WATCH") for each in server.requests), "the watch", 30)
        port = line.rstrip(".\n").rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok\n"
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
