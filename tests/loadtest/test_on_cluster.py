"""A load test on a cluster: real masters and workers, their log as the way home, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from loadtest import by_log
from loadtest.by_log import Gathered, NoResult
from loadtest.cli_on_cluster import Where, runner
from loadtest.cluster_job import ClusterRuns
from loadtest.run import Run, Study
from serving.cluster.kubeconfig import connect
from serving.errors import ClusterUnavailable, ConfigurationError
from serving.ports import free_port
from tests.cluster.apiserver import Fault
from tests.cluster.conftest import write_kubeconfig
from tests.cluster.operators import pod, wait_for
from tests.loadtest import made
from tests.loadtest.faulty import GOOD, Faulty, answer, faulty, said, stream
from tests.loadtest.kubelet import Cluster, running

NODE = {"apiVersion": "v1", "kind": "Node", "status": {"allocatable": {"nvidia.com/gpu": "4"}}}
LOAD = (
    "--host=http://anchorage",
    "--model=m",
    "--arrivals=constant:20",
    "--run-time=3",
    "--stop-timeout=10",
    "--ready-s=20",
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """That runs what it is told to."""
    with running(Cluster(folder=tmp_path, tokens={"the-token"})) as state:
        yield state


@pytest.fixture
async def server(cluster: Cluster) -> Any:
    """What the pods find as http://anchorage: it answers at once."""
    async with faulty({"readyz": said(answer("200 OK", b"{}")), "v1": said(stream(*GOOD))}) as found:
        cluster.hosts["http://anchorage"] = found.url("").rstrip("/")
        yield found


def runs(cluster: Cluster, folder: Path, **more: Any) -> ClusterRuns:
    """As the command line makes them, and looking often."""
    config = write_kubeconfig(folder / "kubeconfig", cluster.url, {"token": "the-token"})
    return ClusterRuns(
        connect(str(config), None, patience_s=2.0), "anchorage", **{"look_s": 0.2, "start_s": 20.0, **more}
    )


def left(cluster: Cluster) -> set[str]:
    """What is there beside the deployment."""
    return cluster.names() - {"Namespace/anchorage", "RayService/anchorage"}


#: `anchorage`, with the load test's commands alone.
PROGRAM = """
import typer
from loadtest.cli import register
app = typer.Typer()
register(app)
app.command()(lambda: None)
app()
"""


async def test_master_and_workers_make_a_run_and_its_result_comes_home(
    cluster: Cluster, server: Faulty, tmp_path: Path
) -> None:
    """By the command line: all requests of both workers, questions of this machine, its key, replicas and GPU nodes,
    what they cost, the report; and nothing is left behind.
    """
    questions, out = tmp_path / "mine.jsonl", tmp_path / "out"
    questions.write_text('{"question": "What is mine?"}\n')
    cluster.put({**NODE, "metadata": {"name": "gpu-node"}})
    cluster.put(pod("gpu-pod", node="gpu-node"))
    cluster.breaks_after = 3
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", cluster.url, {"token": "the-token"})
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, "loadtest", "run", "http://anchorage", "--on-cluster", "--cluster",
         "--workers=2", "--arrivals=constant:20", "--duration=3", "--model=m", f"--questions={questions}",
         f"--out={out}", f"--kubeconfig={kubeconfig}", "--gpu-price=3.6"],
        env={**os.environ, "ANCHORAGE_API_KEY": "a-key"}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    said_all = done.stdout + done.stderr
    assert (out / "result.json").is_file(), said_all
    study = Study.load(out / "result.json")
    (run,) = study.runs
    assert ("2 workers" in said_all, "a-key" in said_all + json.dumps(cluster.commands)) == (True, False), said_all
    assert done.returncode == (4 if run.void else 0), said_all
    assert len(run.records) == 60
    assert len(run.clients) == 2
    assert all(record.ok for record in run.records)
    assert str(study.settings["questions"]).endswith(str(questions))
    asked = [body for path, body in server.seen if path == "POST /v1/chat/completions"]
    assert len(asked) == 60
    assert all("What is mine?" in str(body) for body in asked)
    assert all("Bearer a-key" in head for head in server.heads if head.startswith("POST"))
    assert {one.gpus for one in run.samples} == {4}
    assert study.cost is not None
    assert study.cost["per_1000_answers"] == pytest.approx(study.cost["gpu_minutes"] / 60 * 3.6 * 1000 / 60, rel=0.01)
    assert (out / "report.html").stat().st_size > 10_000
    wait_for(lambda: not left(cluster) - {"Node/gpu-node", "Pod/gpu-pod"}, "deleting what was made")


SCRIPT = """
import json, sys, time
from loadtest import by_log
for second in range(4):
    print(by_log.PROGRESS + json.dumps({{"t_s": second, "phase": "measuring"}}), flush=True)
    time.sleep(0.3)
for line in by_log.lines(open({file!r}, "rb").read()):
    print(line, flush=True)
"""


@pytest.fixture
def scripted(cluster: Cluster, tmp_path: Path) -> Cluster:
    """Masters that have a result of 400 requests to print, at once."""
    file = tmp_path / "result.json"
    run = made.run(20.0, 1, made.System(), duration_s=20.0)
    run.started_at = "2020-01-01T00:00:00+00:00"
    Study([run]).save(file)
    cluster.script = SCRIPT.format(file=str(file))
    return cluster


def test_a_log_that_breaks_off_is_taken_up_again(scripted: Cluster, tmp_path: Path) -> None:
    """The connection breaks in the middle, and the API server is away for a moment: nothing is lost, nothing twice."""
    scripted.breaks_after = 2
    scripted.faults = [Fault("GET .*/log", reset=True), Fault("GET .*/jobs/", status=503, reason="ServiceUnavailable")]
    told: list[Mapping[str, Any]] = []
    study = runs(scripted, tmp_path).run(LOAD, told.append)
    assert len(study.runs[0].records) > 300
    assert [progress["t_s"] for progress in told] == [0, 1, 2, 3]
    assert scripted.breaks_after == 0
    # The pod's clock was wrong: what is watched from here goes by ours.
    assert abs(datetime.fromisoformat(study.runs[0].started_at).timestamp() - time.time()) < 60


def test_a_part_of_the_log_that_is_gone_is_said(scripted: Cluster, tmp_path: Path) -> None:
    """The log was turned over before it was read: no figures are made of the rest."""
    scripted.cut = lambda number, text: text.startswith("#anchorage-result 2/")
    with pytest.raises(NoResult, match=r"1 of \d+ parts are missing \(2\).*containerLogMaxSize"):
        runs(scripted, tmp_path).run(LOAD)


def test_a_run_that_fails_says_its_last_words(cluster: Cluster, tmp_path: Path) -> None:
    """As locust does for an option that it does not know: with its exit code."""
    cluster.script = (
        "import sys; sys.exit(__import__('os').write(2, b'error: unrecognized arguments: --misspelt\\n') and 2)"
    )
    with pytest.raises(NoResult, match=r"exit code 2.*unrecognized arguments: --misspelt"):
        runs(cluster, tmp_path).run([*LOAD, "--misspelt"])


def test_jobs_are_kept_where_they_shall_be(scripted: Cluster, tmp_path: Path) -> None:
    """`--keep`: all of them, under the run's own name, in the image and on the nodes of the Api."""
    runs(scripted, tmp_path, keep=True, workers=3).run(LOAD)
    (master,) = scripted.role("master")
    name = master["metadata"]["labels"]["anchorage.dev/loadtest"]
    assert {kept for kept in left(scripted) if not kept.startswith("Pod/")} == {
        f"Job/{name}", f"Job/{name}-workers", f"Service/{name}", f"NetworkPolicy/{name}",
        f"NetworkPolicy/{name}-clients", f"NetworkPolicy/{name}-master", f"NetworkPolicy/{name}-workers",
    }  # fmt: skip
    for each in (master, *scripted.role("worker")):
        assert each["spec"]["nodeSelector"] == {"pool": "a"}
        assert each["spec"]["containers"][0]["image"] == "registry.test/anchorage:7"
    assert len(scripted.role("worker")) == 3


async def test_a_worker_that_dies_does_not_end_the_run(cluster: Cluster, server: Faulty, tmp_path: Path) -> None:
    """The state says why, and the run what it lacks."""
    states: list[str] = []

    def kill(progress: Mapping[str, Any]) -> None:
        if progress["phase"] == "measuring":
            (victim, *_) = cluster.role("worker")
            cluster.processes[victim["metadata"]["name"]].kill()

    made_by = runs(cluster, tmp_path, on_state=states.append)
    load = [*LOAD, "--run-time=8"]
    study = await asyncio.to_thread(made_by.run, load, kill)
    assert any("OOMKilled" in state for state in states)
    (run,) = study.runs
    assert [event["what"] for event in run.events] == ["load tester lost"]
    assert run.void
    assert 0 < len(run.records) < 160


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (
            {
                "spec": {},
                "status": {
                    "phase": "Pending",
                    "conditions": [
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "message": "0/3 nodes are available: 3 Insufficient cpu.",
                        }
                    ],
                },
            },
            "Insufficient cpu",
        ),
        (
            {
                "status": {
                    "phase": "Pending",
                    "containerStatuses": [
                        {
                            "name": "locust",
                            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}},
                        }
                    ],
                }
            },
            "ImagePullBackOff.*no such tag",
        ),
    ],
)
def test_pods_that_do_not_start_are_waited_for_and_given_up(
    cluster: Cluster, tmp_path: Path, status: dict[str, Any], says: str
) -> None:
    """With the reason, while it waits and at the end; what was made is taken away."""
    cluster.stuck = lambda pod: status
    states: list[str] = []
    with pytest.raises(NoResult, match=f"did not start within 1 s.*{says}"):
        runs(cluster, tmp_path, start_s=1.0, on_state=states.append).run(LOAD)
    assert any(re.search(says, state) for state in states)
    wait_for(lambda: not left(cluster), "deleting what was made")


def test_a_quota_is_said(cluster: Cluster, tmp_path: Path) -> None:
    """The Job is there, its pods are not."""
    event = {"reason": "FailedCreate", "type": "Warning", "message": "exceeded quota: team, requested: cpu=1"}

    def refuse(thing: dict[str, Any], _: str) -> None:
        if thing["kind"] == "Job":
            thing["status"] = {"active": 0}
            about = {"kind": "Job", "name": thing["metadata"]["name"]}
            metadata = {"name": f"{thing['metadata']['name']}-1", "namespace": "anchorage"}
            cluster.put({"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": about, **event})

    cluster.admission.append(refuse)
    with pytest.raises(NoResult, match="exceeded quota: team"):
        runs(cluster, tmp_path, start_s=1.0).run(LOAD)


def test_what_may_not_be_made_is_said_and_nothing_stays(cluster: Cluster, tmp_path: Path) -> None:
    """The Jobs may be made, their policies may not."""
    cluster.denied = {("create", "networkpolicies")}
    with pytest.raises(ConfigurationError, match=r"Forbidden.*networkpolicies"):
        runs(cluster, tmp_path).run(LOAD)
    wait_for(lambda: not left(cluster), "deleting what was made")


def test_an_interrupt_ends_the_jobs(scripted: Cluster, tmp_path: Path) -> None:
    """As Ctrl-C does: what was made goes, and the processes with it."""

    def interrupt(progress: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs(scripted, tmp_path).run(LOAD, interrupt)
    wait_for(lambda: not left(scripted), "deleting what was made")
    wait_for(lambda: all(one.poll() is not None for one in scripted.processes.values()), "the end", 30.0)


def test_runs_that_cannot_be_are_refused_before_anything_is_made(cluster: Cluster, tmp_path: Path) -> None:
    """No deployment and no image; files that are not there, or too large."""
    cluster.drop(("RayService", "anchorage", "anchorage"))
    with pytest.raises(ConfigurationError, match="--image"):
        runs(cluster, tmp_path).run(LOAD)
    with pytest.raises(ConfigurationError, match=r"--questions .*absent\.jsonl: cannot be read"):
        runs(cluster, tmp_path, image="i").run([*LOAD, f"--questions={tmp_path}/absent.jsonl"])
    (tmp_path / "trace.csv").write_text("x" * 2**20)
    with pytest.raises(ConfigurationError, match=r"1\.0 MiB do not fit"):
        runs(cluster, tmp_path, image="i").run([*LOAD, f"--arrivals=trace:{tmp_path}/trace.csv,x2"])
    assert left(cluster) == set()


def test_the_command_line_reaches_the_cluster_first(cluster: Cluster, tmp_path: Path) -> None:
    """A kubeconfig of nowhere, a namespace that cannot be and a server that is away are errors at once."""
    where = Where(on_cluster=True, kubeconfig=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="kubeconfig"):
        runner(where)
    here = str(write_kubeconfig(tmp_path / "kubeconfig", cluster.url, {"token": "the-token"}))
    runner(replace(where, kubeconfig=here))
    with pytest.raises(ConfigurationError, match="a namespace has"):
        runner(replace(where, kubeconfig=here, namespace="../other"))
    away = str(write_kubeconfig(tmp_path / "away", f"http://127.0.0.1:{free_port()}", {"token": "the-token"}))
    with pytest.raises(ClusterUnavailable, match="cannot be reached"):
        runner(replace(where, kubeconfig=away))


def test_a_file_survives_its_log() -> None:
    """Out of order, twice, with other lines between; a thinned one keeps its shape, and its times to 0.005 %."""
    study = Study([made.run(50.0, 1, made.System(), duration_s=20.0)])
    file = json.dumps({"schema": 1, **{k: v for k, v in vars(study).items() if k != "runs"},
                       "runs": [run.as_json() for run in study.runs]}).encode()  # fmt: skip
    for most in (by_log.EXACT_BYTES, 0):
        lines = list(by_log.lines(file, most))
        assert max(map(len, lines)) < 16 * 1024
        gathered = Gathered()
        assert not gathered.take("[2026-11-22] locust.main: Shutting down")
        assert not gathered.begun
        taken = [gathered.take(line) for line in [*lines[::-1], *lines]]
        assert all(taken)
        home = Study.from_json(json.loads(gathered.file()), "home")
        for ours, theirs in zip(study.runs[0].records, home.runs[0].records, strict=True):
            assert theirs.total_s == pytest.approx(ours.total_s, rel=5e-5 if most == 0 else 0)
            assert theirs.at_s == pytest.approx(ours.at_s, abs=5e-5 if most == 0 else 0)
    assert len(list(by_log.lines(file, 0))) < len(list(by_log.lines(file)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [], "no result"),
        (lambda lines: lines[1:], r"1 of \d+ parts are missing \(1\)"),
        (lambda lines: lines[:-1], "checksum"),
        (lambda lines: [lines[0][:-4], *lines[1:]], "changed"),
    ],
)
def test_what_is_missing_of_a_file_is_said(change: Any, says: str) -> None:
    """Nothing is made of the rest."""
    lines = [*by_log.lines(json.dumps({"runs": [Run({}, 1.0).as_json()], "noise": list(range(9000))}).encode())]
    gathered = Gathered()
    for line in change(lines):
        gathered.take(line)
    with pytest.raises(NoResult, match=says):
        gathered.file()


def test_a_worker_gives_up_on_a_master_that_never_comes() -> None:
    """With its own exit code; and SIGTERM ends the waiting, also for the first process of a container."""
    command = [sys.executable, "-m", "loadtest.in_pod", "--master=127.0.0.1", "--port=1", "--wait-s=0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "was not there within 0.1 s" in done.stderr) == (3, True)
    with subprocess.Popen([*command[:-1], "--wait-s=60"]) as waiting:
        status = Path(f"/proc/{waiting.pid}/status")
        wait_for(lambda: takes(signal.SIGTERM, status.read_text()), "its handler")
        waiting.terminate()
        assert waiting.wait(30) == 128 + signal.SIGTERM


def takes(number: signal.Signals, status: str) -> bool:
    """Whether the process of this `/proc/PID/status` has a handler for the signal."""
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> number - 1 & 1)
