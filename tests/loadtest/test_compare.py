"""A difference is told from noise: intervals, two studies side by side, and the gate of a CI."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from loadtest import bootstrap
from loadtest.cli_compare import compare as command
from loadtest.compare import GATE, Comparison, Row, compare
from loadtest.figures import figures
from loadtest.metrics import Metric, metric, value
from loadtest.run import Run, Study
from loadtest.slo import Slo
from loadtest.windows import Windows
from serving.errors import ConfigurationError
from tests.loadtest import made

SLO = Slo.of({"ttft_p95_s": 0.5, "gap_p99_s": 0.2}, "test")


def the(name: str) -> Metric:
    found = metric(name)
    assert found is not None
    return found


def rows(found: Comparison) -> dict[str, Row]:
    return {row.name: row for level in found.levels for row in level.rows}


def test_intervals_cover_the_truth() -> None:
    """At 95 %, on runs of a minute at half of the capacity, some nine times in ten or more."""
    system = made.System(errors=0.01)
    rate = system.capacity / 2
    endless = figures(made.run(rate, 999, system, duration_s=4000, gaps=False), SLO)
    covered = dict.fromkeys(("ttft_p50_s", "ttft_p95_s", "total_p95_s", "errors", "source_recall", "goodput"), 0)
    said = dict.fromkeys(covered, 0)
    for seed in range(60):
        run = made.run(rate, seed, system, duration_s=70, gaps=False)
        for name in covered:
            found, truth = bootstrap.interval(the(name), [run], SLO, seed=seed), value(the(name), endless)
            assert truth is not None
            if found is not None:
                said[name] += 1
                covered[name] += found.low <= truth <= found.high
    assert all(covered[name] >= 0.87 * said[name] for name in covered), (covered, said)
    assert all(times >= 50 for times in said.values())


def test_neighbours_that_wait_together_widen_an_interval() -> None:
    """Shuffled, so that nobody resembles his neighbour, the same times would look far better known."""
    run = made.run(0.85 * made.System().capacity, 3, duration_s=130, gaps=False)
    order = sorted(range(len(run.records)), key=lambda number: number * 7919 % len(run.records))
    mixed = [
        dataclasses.replace(run.records[other], at_s=one.at_s) for one, other in zip(run.records, order, strict=True)
    ]
    shuffled = dataclasses.replace(run, records=mixed)
    lived, alone = (bootstrap.interval(the("ttft_p50_s"), [one]) for one in (run, shuffled))
    assert lived is not None
    assert alone is not None
    assert lived.high - lived.low > 1.5 * (alone.high - alone.low)


def test_what_never_happened_may_still_happen() -> None:
    """No error of 400 requests: the upper end is that of the exact interval, 3.7 / n, or a little above."""
    run = made.run(8.0, 1, made.System(errors=0.0), gaps=False)
    found = bootstrap.interval(the("errors"), [run])
    assert found is not None
    assert (found.value, found.low) == (0.0, 0.0)
    assert 3 < found.high * figures(run).requests < 7.5


def test_too_few_values_make_no_interval() -> None:
    """A p99 of 200 values is one of two values; a run of ten seconds is too short for anything."""
    assert bootstrap.interval(the("ttft_p99_s"), [made.run(4.0, gaps=False)]) is None
    assert bootstrap.interval(the("ttft_p50_s"), [made.run(20.0, duration_s=20, gaps=False)]) is None
    assert bootstrap.interval(the("search_p95_s"), [made.run(4.0, gaps=False)]) is None


@pytest.mark.parametrize(
    "name",
    ["ttft_p95_s", "gap_p99_s", "total_p50_s", "errors", "cited", "goodput", "answered_rate", "tokens_out_rate"],
)
def test_windows_have_the_figures_of_their_runs(name: str) -> None:
    """What is resampled is what is shown, also where windows are wider than a second."""
    import numpy as np

    for run in (made.run(8.0, 1), made.run(2.0, 2, duration_s=410.5)):
        shown = value(the(name), figures(run, SLO))
        windows = Windows([run], SLO)
        (again,) = windows.figure(the(name)).figure(np.ones((1, len(windows))))
        assert again == pytest.approx(shown, rel=5e-3)


def test_runs_that_differ_widen_the_interval_of_a_level() -> None:
    """Runs are drawn, too: one that was slower says that more than its blocks can differ."""
    alike = [made.run(6.0, seed, gaps=False) for seed in (1, 2)]
    apart = [made.run(6.0, 1, gaps=False), made.run(6.0, 2, made.System(slower=1.5), gaps=False)]
    narrow, wide = (bootstrap.interval(the("ttft_p50_s"), runs) for runs in (alike, apart))
    assert narrow is not None
    assert wide is not None
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_the_same_system_twice_raises_no_alarm() -> None:
    """A/A: at 5 % for the whole gate, twenty pairs may raise three (1.6 % of such tests would have more).

    With the gate that is the default and runs of a minute, none of 100 pairs at 0.6 of the capacity raised one, and
    none of 50 at 0.85; a system slower by 20 % was found in 15 of 15 pairs, one by 10 % in 18 of 20.
    """
    gate = ("ttft_p95_s", "total_p95_s", "errors", "goodput")
    alarms = 0
    for seed in range(20):
        a, b = (made.study([8.0], 2 * seed + side, gaps=False, duration_s=70) for side in (0, 1))
        alarms += bool(compare(a, b, tolerance=0.0, gate=gate, shown=()).failed)
    assert alarms <= 3


def test_a_slower_system_is_found() -> None:
    """By 20 %, with runs of a minute: named, with the load, and the figures that did not change are not."""
    slower = made.study([4.0, 8.0], 2, made.System(slower=1.2))
    found = compare(made.study([4.0, 8.0], 1), slower, shown=())
    assert found.failed
    assert all("gap p99" in sentence or "TTFT p95" in sentence for sentence in found.failed)
    assert rows(found)["gap_p99_s"].word == "worse"
    assert rows(found)["errors"].word == "no difference seen"
    assert found.judged == 2 * len(GATE)
    back = compare(slower, made.study([4.0, 8.0], 1), shown=())
    assert rows(back)["gap_p99_s"].word == "better"
    assert not back.failed


def test_a_tolerance_lets_small_changes_pass() -> None:
    """However surely they are seen."""
    a, b = made.study([8.0], 1), made.study([8.0], 2, made.System(slower=1.2))
    assert compare(a, b, gate=("gap_p99_s",), shown=(), tolerance=0.1).failed
    assert not compare(a, b, gate=("gap_p99_s",), shown=(), tolerance=0.5).failed


def test_what_nobody_feels_passes() -> None:
    """Gaps of microseconds, as of an engine that has its answer at once, may double."""
    quick, slower = (made.System(gap_s=gap_s, stalls=0.0) for gap_s in (2e-5, 4e-5))
    found = compare(made.study([8.0], 1, quick), made.study([8.0], 2, slower), gate=("gap_p99_s",), shown=())
    assert rows(found)["gap_p99_s"].word == "worse"
    assert not found.failed


def test_what_two_sweeps_found_is_said() -> None:
    """Beside their common loads, and where there are none."""
    a, b = made.study([8.0], 1, gaps=False), made.study([8.0], 2, gaps=False)
    a.found, b.found = {"rate": 8.0, "sure": True}, {"rate": None, "sure": False}
    said = ["A keeps its objectives up to 8/s", "B keeps its objectives at no rate that was tried"]
    assert compare(a, b, shown=()).rates == said
    b.runs = [made.run(9.0, 1, gaps=False)]
    with pytest.raises(ConfigurationError, match=r"up to 8/s\. B keeps"):
        compare(a, b)


def test_worse_answers_are_found() -> None:
    """Speed is not all."""
    found = compare(made.study([8.0], 1, gaps=False), made.study([8.0], 2, made.System(recall=0.7), gaps=False))
    assert [sentence.split(" at ")[0] for sentence in found.failed] == ["source recall"]


def test_a_figure_that_is_gone_fails() -> None:
    """Nothing retrieved any more: no recall to compare is no reason to pass."""
    b = made.study([8.0], 2, gaps=False)
    for record in b.runs[0].records:
        record.source_recall = None
    assert compare(made.study([8.0], 1, gaps=False), b).failed == [
        "source recall at poisson:8: nothing in B to measure it by"
    ]


def test_a_load_beyond_the_capacity_of_a_is_shown_but_not_gated(tmp_path: Path) -> None:
    """There the length of the run makes the times."""
    rate = 1.4 * made.System().capacity
    found = compare(made.study([rate], 1, gaps=False), made.study([rate], 2, gaps=False), shown=())
    assert (found.levels[0].gated, found.judged) == (False, 0)
    assert len(found.levels[0].notes) == 2
    for name in "ab":
        made.study([rate], 1, gaps=False).save(tmp_path / f"{name}.json")
    said = ask(tmp_path / "a.json", tmp_path / "b.json")
    assert (said.exit_code, "at every load the line of A grew" in said.output) == (4, True), said.output


def test_what_is_not_alike_is_said_first() -> None:
    """Settings, machine, lengths, loads that only one has."""
    a, b = made.study([4.0, 8.0], 1, gaps=False), made.study([8.0, 10.0], 2, gaps=False, duration_s=80)
    b.settings = {**b.settings, "questions": "mine.jsonl"}
    b.machine = {**b.machine, "cores": 4, "memory": 2**34 + 5}
    warnings = compare(a, b).warnings
    assert warnings == [
        "setting questions differs: nothing against mine.jsonl",
        "machine cores differs: 2 against 4",
        "poisson:4 is only in A",
        "poisson:8: the runs are not equally long (60 s, 10 of them warm-up, 80 s, 10 of them warm-up)",
        "poisson:10 is only in B",
    ]


def test_runs_of_different_lengths_count_whole() -> None:
    """What is shown of several runs is what is resampled, also of the longer ones."""
    import numpy as np

    runs = [made.run(3.0, 1, gaps=False), made.run(9.0, 2, gaps=False, duration_s=200)]
    for run in runs:
        run.load = {"kind": "open", "arrivals": "trace:f", "rate": 7.0}
    a, b = Study(runs), Study(runs[:1])
    shown = rows(compare(a, b))
    windows = Windows(runs, SLO)
    for name in ("answered_rate", "total_p95_s", "errors"):
        (again,) = windows.figure(the(name)).figure(np.ones((1, len(windows))))
        assert shown[name].a == pytest.approx(again, rel=5e-3)


def ask(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    for name, slower, seed in (("a", 1.0, 1), ("b", 1.0, 2), ("slow", 1.3, 3)):
        (tmp_path / name).mkdir()
        made.study([8.0], seed, made.System(slower=slower)).save(tmp_path / name / "result.json")
    return tmp_path


def test_the_command_is_a_gate(kept: Path) -> None:
    """Exit code 0 for the same, 1 for worse; a folder is as good as its file."""
    same = ask(kept / "a", kept / "b" / "result.json")
    assert same.exit_code == 0, same.output
    assert "nothing that is gated is worse" in same.output
    worse = ask(kept / "a", kept / "slow")
    assert worse.exit_code == 1, worse.output
    assert "worse: gap p99 at poisson:8" in worse.output
    assert "\x1b" not in worse.output
    found = json.loads(ask(kept / "a", kept / "slow", "--json", "--gate", "errors, cited").stdout)
    assert (found["exit_code"], found["failed"], found["gate"]) == (0, [], ["errors", "cited"])


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--gate", "ttft_p95"], "there is no 'ttft_p95'"), (["--tolerance", "much"], "is no share")],
)
def test_a_wrong_command_line_is_code_2(kept: Path, more: list[str], said: str) -> None:
    """And says what there is."""
    found = ask(kept / "a", kept / "b", *more)
    assert found.exit_code == 2
    assert said in found.output
    assert ask(kept / "a", kept / "none").exit_code == 2


def test_void_and_unusable_results_are_code_4(kept: Path, tmp_path: Path) -> None:
    """A gate that passes because nothing could be compared would lie."""
    made.study([8.0], 5, void=["client at 93 %"]).save(tmp_path / "void.json")
    made.study([5.0], 5).save(tmp_path / "other.json")
    made.study([8.0], 5, duration_s=15).save(tmp_path / "short.json")
    (tmp_path / "text.json").write_text("{}")
    for name, said in (
        ("void.json", "void"),
        ("other.json", "no load in common: poisson:8 against poisson:5"),
        ("short.json", "too little data"),
        ("text.json", "not the result of a load test"),
    ):
        found = ask(kept / "a", tmp_path / name)
        assert (found.exit_code, said in found.output) == (4, True), found.output
    allowed = ask(kept / "a", tmp_path / "void.json", "--allow-void")
    assert allowed.exit_code in (0, 1)
    assert "there are void runs in it" in allowed.output


def test_a_gate_that_cannot_tell_does_not_pass(tmp_path: Path) -> None:
    """A TTFT four times as long, and too few requests to be sure: that nothing else is worse does not help."""
    for name, slower in (("a", 1.0), ("b", 4.0)):
        made.study([2.0], 1, made.System(slower=slower), duration_s=40, gaps=False).save(tmp_path / f"{name}.json")
    found = ask(tmp_path / "a.json", tmp_path / "b.json", "--gate", "ttft_p95_s,errors")
    assert found.exit_code == 4, found.output
    assert "too little data to judge TTFT p95" in found.output
    assert "nothing that is gated is worse" not in found.output
    assert ask(tmp_path / "a.json", tmp_path / "b.json", "--gate", "errors").exit_code == 0


def test_void_runs_are_left_out_of_a_level() -> None:
    """The good ones of the same load are compared."""
    a = made.study([8.0], 1, gaps=False)
    b = Study(
        [*made.study([8.0], 2, gaps=False).runs, made.run(8.0, 3, gaps=False, void=["client"])], machine=a.machine
    )
    found = compare(a, b)
    assert found.levels[0].runs == (1, 1)
    assert "poisson:8: 1 of 2 runs of B are void, left out" in found.warnings


def test_the_command_starts_light() -> None:
    """numpy is imported when something is compared, not for `--help`."""
    code = "import sys, loadtest.cli_compare; print([name for name in ('numpy', 'hdrh') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_an_interval_of_many_runs_is_narrower() -> None:
    """More of them say more."""
    runs: list[Run] = [made.run(6.0, seed, gaps=False) for seed in range(8)]
    one, eight = bootstrap.interval(the("total_p50_s"), runs[:1]), bootstrap.interval(the("total_p50_s"), runs)
    assert one is not None
    assert eight is not None
    assert eight.high - eight.low < 0.7 * (one.high - one.low)
