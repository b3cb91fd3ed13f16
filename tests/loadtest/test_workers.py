"""Processes that make one load together: the same as if one had made it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import psutil

from loadtest.gathering import Gathering, Report
from loadtest.histogram import Times
from loadtest.record import Record
from loadtest.run import Run
from loadtest.running import several
from serving.ports import free_port
from tests.loadtest.locusts import Locust, Server, asking, headless, locust, serving, until

#: What each worker tells the master, as it was when it left the worker.
RECORDER = """
import json, os
from locust import events

@events.init.add_listener
def listen(environment, runner, **_):
    send = runner.send_message
    def recorded(kind, data=None, **rest):
        if kind == "anchorage_report":
            with open(f"{FOLDER}/{os.getpid()}.jsonl", "a") as file:
                file.write(json.dumps(data) + chr(10))
        send(kind, data, **rest)
    runner.send_message = recorded
"""

#: A worker that is all set, and calls its master when it is told to.
LATE = """
import time
from pathlib import Path

Path(FOLDER, "set").touch()
while not Path(FOLDER, "go").exists():
    time.sleep(0.02)
"""


def asked(server: Server) -> list[str]:
    return sorted(json.dumps(body, sort_keys=True) for body in server.asked)


def recorded(folder: Path) -> list[list[Record]]:
    """By worker."""
    files = [path for path in folder.glob("*.jsonl") if path.stem.isdigit()]
    reports = [[Report.unpacked(json.loads(line)) for line in path.read_text().splitlines()] for path in files]
    return [[record for report in each for record in report.records] for each in reports]


def percentiles(times: Times) -> list[float | None]:
    return [times.percentile(percent) for percent in (0, 50, 90, 95, 99, 99.9, 100)]


async def test_two_workers_do_what_one_process_does(tmp_path: Path) -> None:
    """A real master and two workers: the same questions at the same times; merged, their samples are exactly those of
    one run that is given all of them.
    """
    schedule = ("--arrivals", "poisson:25", "--run-time", "3", "--seed", "7", "--salt", "x", "--unique", "--zipf", "1")
    recorder = tmp_path / "recorder.py"
    recorder.write_text(f"FOLDER = {str(tmp_path)!r}\n{RECORDER}")
    port = str(free_port())
    (tmp_path / "alone").mkdir()
    async with serving(Server()) as server, serving(Server()) as alone:
        worker = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
        async with (
            locust(*worker, folder=tmp_path, files=[recorder]),
            locust(*worker, folder=tmp_path, files=[recorder]),
        ):
            master = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port)
            together, single = await asyncio.gather(
                headless(server.url, *master, "--expect-workers", "2", *schedule, folder=tmp_path),
                headless(alone.url, *schedule, folder=tmp_path / "alone"),
            )
    assert asked(server) == asked(alone)
    run = together.run
    assert [record.at_s for record in run.records] == [record.at_s for record in single.run.records]
    assert [record.question for record in run.records] == [record.question for record in single.run.records]
    assert len(run.clients) == 2

    parts = recorded(tmp_path)
    assert sorted(map(len, parts)) == [len(run.records) // 2, (len(run.records) + 1) // 2]
    whole = Run(run.load, run.duration_s)
    for record in sorted((record for part in parts for record in part), key=lambda record: record.at_s):
        whole.add(record)
    assert run.records == whole.records
    assert run.as_json()["gaps"] == whole.as_json()["gaps"]
    assert percentiles(run.measured_gaps()) == percentiles(whole.measured_gaps())


def test_reports_in_any_order_make_the_same_run() -> None:
    """Merged exactly: histograms of what came in pieces are, bit by bit, those of what came at once."""
    draw = random.Random(5)
    records = [
        Record("stream", at_s=at / 10, ttft_s=draw.random(), gaps_s=[draw.expovariate(50) for _ in range(40)])
        for at in range(300)
    ]
    whole = Run({"kind": "open", "rate": 10.0}, 30.0)
    gathering = Gathering(Run({"kind": "open", "rate": 10.0}, 30.0))
    gathering.expect(["a", "b", "c"])
    shares = {node: records[start::3] for start, node in enumerate("abc")}
    counts = dict.fromkeys(shares, 0)
    while any(shares.values()):
        node = draw.choice([node for node, left in shares.items() if left])
        some = draw.randint(1, 20)
        taken, shares[node] = shares[node][:some], shares[node][some:]
        report = Report(node, counts[node], taken, last=not shares[node])
        gathering.take(node, Report.unpacked(json.loads(json.dumps(report.packed()))))
        counts[node] += 1
    for record in records:
        whole.add(record)
    run = gathering.finish(30.0)
    assert not run.void
    assert run.records == whole.records
    assert run.as_json()["gaps"] == whole.as_json()["gaps"]


def test_a_report_that_is_missing_is_noticed() -> None:
    """A run without all of its records is no run."""
    gathering = Gathering(Run({"kind": "open", "rate": 1.0}, 1.0))
    gathering.expect(["a"])
    gathering.take("a", Report("a", 0))
    gathering.take("a", Report("a", 2, last=True))
    assert "records are missing" in gathering.finish(1.0).void[0]


async def test_a_run_without_any_worker_left_ends(tmp_path: Path) -> None:
    """Long before its time: there is nobody to make the load."""
    arguments = ("--arrivals", "constant:20", "--run-time", "600", *several(2))
    async with serving(Server()) as server, asking(server.url, *arguments, folder=tmp_path) as running:
        await running.until(lambda: len(server.asked) > 20)
        for worker in workers_of(running):
            worker.kill()
        done = await running.ended()
    assert done.code == 4
    assert len(done.run.events) == 2
    assert done.run.duration_s < 60


async def test_a_worker_that_dies_makes_the_run_void(tmp_path: Path) -> None:
    """The run goes on to its end, says when whom it lost, and keeps what it has."""
    arguments = ("--arrivals", "constant:20", "--run-time", "6", *several(2))
    async with serving(Server()) as server, asking(server.url, *arguments, folder=tmp_path) as running:
        # Whoever is lost has been heard of: they report once a second.
        await running.until(lambda: len(server.asked) > 40)
        victim = workers_of(running)[-1]
        victim.kill()
        done = await running.ended()
    run = done.run
    assert done.code == 4
    (event,) = run.events
    assert event["what"] == "load tester lost"
    assert str(victim.pid) in event["detail"]
    assert 0 < event["t_s"] <= 6
    assert any("was last heard of" in reason for reason in run.void)
    assert "was last heard of" in done.said
    assert run.duration_s == 6
    assert 60 <= len(run.records) < 120


async def test_a_worker_that_comes_late_makes_a_closed_loop_void(tmp_path: Path) -> None:
    """Locust moves users to it; they were not there when all began, so they never ask, and the load is not as said."""
    master = (
        "--headless",
        "--master",
        "--expect-workers",
        "1",
        "--users",
        "4",
        "--spawn-rate",
        "100",
        "--every-s",
        "0.2",
    )
    port = str(free_port())
    worker = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    kept = ("--run-time", "6", "--result", str(tmp_path / "result.json"))
    late = tmp_path / "late.py"
    late.write_text(f"FOLDER = {str(tmp_path)!r}\n{LATE}")
    async with serving(Server()) as server, locust(*worker, folder=tmp_path, files=[late]):
        await until((tmp_path / "set").exists)
        started = locust("--host", server.url, *master, "--master-bind-port", port, *kept, folder=tmp_path)
        async with started as running, locust(*worker, folder=tmp_path):
            await running.until(lambda: len(server.asked) > 4)
            (tmp_path / "go").touch()
            done = await running.ended()
    assert done.code == 4
    assert [event["what"] for event in done.run.events] == ["load tester joined"]
    assert "asked nothing" in done.run.void[0]


def workers_of(running: Locust) -> list[psutil.Process]:
    """The processes that locust forked."""
    children: list[psutil.Process] = psutil.Process(running.process.pid).children()
    return children


async def test_without_workers_a_run_ends(tmp_path: Path) -> None:
    """Nothing hangs."""
    async with serving(Server()) as server:
        done = await headless(
            *(server.url, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(free_port())),
            *("--expect-workers", "1", "--expect-workers-max-wait", "2", "--run-time", "2"),
            folder=tmp_path,
        )
    assert done.code == 1
    assert "workers" in done.said
