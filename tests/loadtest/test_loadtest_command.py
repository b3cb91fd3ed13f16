"""`anchorage loadtest` as a user types it, against a server whose capacity is known."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from loadtest.bench.knee_server import Places
from loadtest.cli_on_cluster import Where
from loadtest.cli_study import Loading
from loadtest.cluster_watch import Watched
from loadtest.evidence import FARTHEST, outcome
from loadtest.extra import check_installed
from loadtest.live import LiveView
from loadtest.percentiles import Percentiles
from loadtest.run import Run, Study
from loadtest.slo import Slo
from loadtest.sweep import Outcome
from loadtest.sweeping import Plan, Sweeping, said
from loadtest.target import Target
from serving.cli import build
from serving.errors import AnchorageError, ConfigurationError

from .test_sweep import lived

ROOT = Path(__file__).parents[2]
PLACES = Places(16, 0.3)
KEY = "sk-never-to-be-seen"
#: The client may have been the limit on a busy machine; these tests are not about that.
MET, MISSED, WRONG, UNSURE, VOID, INTERRUPTED = 0, 1, 2, 3, 4, 130


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server process with `PLACES`."""
    command = [sys.executable, "-m", "loadtest.bench.knee_server", *PLACES.arguments()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "serving.cli", "loadtest", *arguments]


def environment() -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ANCHORAGE_")}
    return {**mine, "ANCHORAGE_API_KEY": KEY, "COLUMNS": "200"}


def loadtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def test_a_run_is_held_judged_and_kept(url: str, tmp_path: Path) -> None:
    """An open loop, its verdict and files; the report can be made again; the key is in none of it."""
    slo = tmp_path / "slo.toml"
    slo.write_text("ttft_p95_s = 3.0\nerrors_max = 0.01\n")
    out = tmp_path / "out"
    done = loadtest(
        *("run", url, "--plain", "--arrivals", "poisson:10", "--duration", "4", "--answer-tokens", "16"),
        *("--slo", str(slo), "--out", str(out), "--json"),
    )
    assert done.returncode in (MET, VOID), done.stderr
    said = json.loads(done.stdout)
    assert [one["name"] for one in said["verdict"]["objectives"]] == ["ttft_p95_s", "errors_max"]
    assert all(one["met"] for one in said["verdict"]["objectives"])
    assert said["result"] == str(out / "result.json")
    assert "TTFT" in done.stderr
    study = Study.load(out / "result.json")
    (run,) = study.runs
    assert (run.load["arrivals"], run.duration_s, run.warmup_s) == ("poisson:10", 4.0, 1.0)
    assert len(run.measured()) == said["figures"]["requests"] > 10
    assert study.slo == {"ttft_p95_s": 3.0, "errors_max": 0.01}
    assert study.settings["answer_tokens"] == "16"
    assert study.settings["seed"] == 1
    assert study.settings["model"] == study.target["model"] == "places"
    assert study.machine["command"].startswith("anchorage loadtest run")
    page = (out / "report.html").read_text()
    again = loadtest("report", str(out), "-o", str(tmp_path / "again.html"))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.html").read_text() == page
    kept = (out / "result.json").read_text() + page + done.stdout + done.stderr
    assert KEY not in kept


def test_two_runs_at_once_keep_their_processes_apart(url: str, tmp_path: Path) -> None:
    """Each of several processes; no master finds its port taken, and none is joined by the other's workers."""
    slo = tmp_path / "slo.toml"
    slo.write_text("errors_max = 0.0\n")
    load = ("--plain", "--arrivals", "constant:10", "--duration", "4", "--workers", "2", "--slo", str(slo))
    outs = [tmp_path / name for name in ("one", "two")]
    with ThreadPoolExecutor() as several:
        done = list(several.map(lambda out: loadtest("run", url, *load, "--out", str(out)), outs))
    for each, out in zip(done, outs, strict=True):
        assert each.returncode in (MET, VOID), each.stderr
        (run,) = Study.load(out / "result.json").runs
        assert not run.events
        assert len(run.clients) == 2
        assert len(run.records) == 40


def test_what_nobody_did_is_said(url: str, tmp_path: Path) -> None:
    """One user does one thing: what else the mix names was not tested."""
    users = ("--users", "1", "--every-s", "0.5", "--mix", "stream=3,ask=1")
    done = loadtest("run", url, "--plain", *users, "--duration", "3", "--out", str(tmp_path))
    assert "Nobody did ask (--mix): each user does one thing all the time, and more users would." in done.stderr
    both = loadtest("run", url, "--plain", *("--users", "4", *users[2:]), "--duration", "3", "--out", str(tmp_path))
    assert both.returncode in (MET, MISSED, VOID), both.stderr
    assert "Nobody did" not in both.stderr


def test_a_run_of_users_that_misses_its_objectives(url: str, tmp_path: Path) -> None:
    """Exit code 1, and a sentence that says what was missed, by how much."""
    slo = tmp_path / "slo.toml"
    slo.write_text("ttft_p50_s = 0.001\n")
    done = loadtest(
        *("run", url, "--plain", "--users", "4", "--every-s", "0", "--duration", "3", "--workers", "2"),
        *("--slo", str(slo), "--out", str(tmp_path)),
    )
    assert done.returncode in (MISSED, VOID), done.stderr
    study = Study.load(tmp_path / "result.json")
    assert study.runs[0].load["kind"] == "closed"
    assert study.runs[0].load["users"] == 4
    assert study.settings["workers"] == 2
    assert len(study.runs[0].records) > 10
    if done.returncode == MISSED:
        assert "TTFT p50: " in done.stderr
        assert "not <= 1 ms" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "URL", "--plain"], WRONG, "either --arrivals poisson:8"),
        (["run", "URL", "--plain", "--users", "2", "--arrivals", "poisson:2"], WRONG, "either --arrivals"),
        (["run", "URL", "--plain", "--arrivals", "fish:2"], WRONG, "no such kind of arrivals"),
        (["run", "URL", "--plain", "--users", "2", "--duration", "5", "--warmup-s", "5"], WRONG, "leaves nothing"),
        (["run", "URL", "--plain", "--arrivals", "poisson:2", "--every-s", "3"], WRONG, "--every-s is for --users"),
        (["run", "URL", "--plain", "--users", "2", "--mix", "dance=1"], WRONG, "dance"),
        (["run", "URL", "--plain", "--users", "2", "--out", "README.md/results"], WRONG, "nothing can be written to"),
        (["run", "URL", "--plain", "--users", "2", "--gpu", "L5"], WRONG, "'L5' is not in the catalogue"),
        (["run", "file:///etc", "--users", "2"], WRONG, "no URL of a server"),
        (["run", "http://me:secret@127.0.0.1:1", "--users", "2"], WRONG, "must have no user, password"),
        (["run", "http://127.0.0.1:1", "--users", "2"], MISSED, "nobody answers at http://127.0.0.1:1"),
        (["run", "URL", "--users", "2"], MISSED, "add --plain"),
        (["run", "URL", "--plain", "--users", "2", "--model", "gpt"], MISSED, "it has places"),
        (["sweep", "URL", "--plain", "--arrivals", "ramp:1-2"], WRONG, "the sweep sets the rate"),
        (["sweep", "URL", "--plain", "--from", "5", "--to", "4"], WRONG, "--from 5 is above --to 4"),
        (["report", "README.md"], MISSED, "not the result of a load test"),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_before_any_load(arguments: list[str], code: int, said: str, url: str) -> None:
    """What was wrong, where, what to do; and the exit code that tells the command line from the server."""
    known = typer.main.get_command(build())
    typed = ["loadtest", *(url if one == "URL" else one for one in arguments)]
    with pytest.raises((AnchorageError, typer.BadParameter)) as wrong:
        known.main(typed, standalone_mode=False)
    found = WRONG if isinstance(wrong.value, typer.BadParameter) else MISSED
    words = getattr(wrong.value, "message", str(wrong.value))
    assert said in words
    assert found == code


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command, by name."""
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "locust" else there(name))
    with pytest.raises(ConfigurationError, match="need locust: `make install EXTRA=loadtest`"):
        check_installed()


def test_what_was_measured_before_ctrl_c_is_kept(url: str, tmp_path: Path) -> None:
    """A result and a report of the load that was really held; the exit code says that it was not all of it."""
    asked = ("--arrivals", "constant:10", "--duration", "600", "--warmup-s", "0")
    process = subprocess.Popen(
        command("run", url, "--plain", *asked, "--out", str(tmp_path / "found")),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _until_answers(process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED, said
    (held,) = Study.load(tmp_path / "found" / "result.json").runs
    assert 1 <= held.duration_s < 120
    assert len(held.records) == pytest.approx(10 * held.duration_s, abs=15)
    page = (tmp_path / "found" / "report.html").read_text()
    if not held.void:
        assert f"It was ended after {held.duration_s:.0f} of 600 s." in page


def _until_answers(process: subprocess.Popen[str]) -> None:
    """The load tester has some of them, by what it says each second."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        for below in psutil.Process(process.pid).children():
            lines = [Path(one.partition("=")[2]) for one in below.cmdline() if one.startswith("--progress=")]
            if lines and lines[0].exists() and any(json.loads(one)["done"] >= 20 for one in lines[0].open()):
                return
        time.sleep(0.2)
    raise AssertionError("nothing was answered")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_hand_it_leaves_no_process(number: signal.Signals, url: str, tmp_path: Path) -> None:
    """Ctrl-C in the middle of the load: it ends soon, and everything that it started ends with it."""
    process = subprocess.Popen(
        command("run", url, "--plain", "--users", "2", "--duration", "600", "--workers", "2", "--out", str(tmp_path)),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        below = _asking(process)
        process.send_signal(number)
        _, said = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED, said
    gone, alive = psutil.wait_procs(below, timeout=5)
    assert not alive, gone


def _asking(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its descendants, once locust has started its workers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        below = psutil.Process(process.pid).children(recursive=True)
        if len(below) >= 3:
            return below
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no worker was started")


def test_a_sweep_that_has_no_time_says_what_it_knows(url: str, tmp_path: Path) -> None:
    """Its best so far, that it is not sure, and the evidence; as a study with a report."""
    slo = tmp_path / "slo.toml"
    slo.write_text("ttft_p95_s = 1.0\n")
    done = loadtest(
        *("sweep", url, "--plain", "--from", "10", "--duration", "2", "--max-minutes", "0.1", "--seed", "7"),
        *("--slo", str(slo), "--out", str(tmp_path), "--json"),
    )
    assert done.returncode in (UNSURE, VOID, MISSED), done.stderr
    study = Study.load(tmp_path / "result.json")
    assert study.kind == "sweep"
    assert study.found == json.loads(done.stdout)["found"]
    assert study.found is not None
    assert not study.found["sure"]
    assert study.settings["arrivals"] == "poisson:RATE"
    assert study.settings["from"] == 10
    assert study.runs[0].load["arrivals"] == "poisson:10"
    if not study.runs[0].void:
        assert study.found["rate"] >= 10
        assert "the time was over (--max-minutes 0.1)" in done.stderr
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(math.log(0.5), 0.1, binding="TTFT p95"), "kept: TTFT p95 at 50 % of its bound"),
        (Outcome(math.log(1.3), 0.1, binding="TTFT p95"), "not kept: TTFT p95 at 130 % of its bound"),
        (Outcome(-FARTHEST, 1.0, binding="errors"), "kept: nothing is near its bound"),
        (Outcome(FARTHEST, 0.1, binding="errors"), "not kept: errors far beyond its bound"),
        (Outcome(0.1, 0.1, growing=True), "not kept: the line grew"),
        (Outcome(-FARTHEST, 1.0), "kept: nothing bounds it"),
        (Outcome(0.0, 0.0, void=True), "void: the client"),
    ],
)
def test_a_level_is_told_by_what_it_lacks(outcome: Outcome, words: str) -> None:
    """Without figures that nobody measured: no error at all is not 5 % of the bound."""
    assert said(outcome, Run({}, 1.0, void=["the client"])) == words


def test_the_address_of_the_api_is_as_good_as_that_of_the_server(url: str) -> None:
    """A `/v1` at its end is left out wherever the server is looked at."""
    with Loading(Target(f"{url}/v1/"), {}, Where(), LiveView()).watched() as seen:
        assert isinstance(seen, Watched)
        deadline = time.monotonic() + 20
        while not seen.missing and time.monotonic() < deadline:
            time.sleep(0.02)
    assert [f"{url}/metrics" in why for why in seen.missing] == [True]


def _p95_s(rate: float) -> float:
    """TTFT of the queue, over ten seeds."""
    runs = [lived(PLACES, "constant", rate, seed, 3.0, 1.0) for seed in range(10)]
    return Percentiles.of(one.ttft_s for run in runs for one in run.measured() if one.ttft_s is not None).p95 or 0.0


class Steady(Loading):
    """No level is void: how late the client was on a busy machine is not what is tested."""

    def level(self, title: str, load: Mapping[str, Any], **more: Any) -> Study:
        made = super().level(title, load, **more)
        made.runs[0].void.clear()
        return made


def test_a_sweep_finds_the_knee_of_a_fine_grid(url: str, tmp_path: Path) -> None:
    """Within 10 % of that of a grid of steps of 2 %, held by the very same queue without a network."""
    slo = Slo.of({"ttft_p95_s": 0.5}, "test")
    loading = Steady(Target(url, plain=True), {"plain": True, "unique": True}, Where(), LiveView())
    loading.check()
    plan = Plan("constant:{rate}", 3, 1, seed=600, budget_s=300.0, within=0.08, repeats=1, start=46.0, highest=66.0)
    work = Sweeping(plan, slo, loading)
    work.run()
    found = work.found()
    assert found is not None
    assert found.rate is not None, found.why
    grid = PLACES.capacity * 0.8
    while _p95_s(grid * 1.02) <= 0.5:
        grid *= 1.02
    # A busy machine makes a queue slower, never faster; how near the sweep comes is for `bench knee` to say.
    assert 0.6 * grid < found.rate < 1.1 * grid, (found, grid)
    assert found.above is not None, found.why
    assert found.rate < found.above < found.rate * (1 + plan.within) ** 2.01, found
    levels = {level["rate"]: [work.study.runs[number] for number in level["runs"]] for level in found.levels}
    assert outcome(slo, levels[found.rate][-1:]).excess <= 0, "it was held again, and kept"
    assert not found.limited
    assert len(work.study.runs) == sum(len(level["runs"]) for level in found.levels) <= 14
