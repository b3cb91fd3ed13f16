"""slo.toml, the verdict and what a good answer is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from loadtest.figures import figures
from loadtest.record import Record
from loadtest.run import Run
from loadtest.slo import Slo, judge
from serving.errors import ConfigurationError
from tests.loadtest import made

SHIPPED = {"ttft_p95_s": 2.0, "gap_p99_s": 0.2, "errors_max": 0.001, "source_recall_min": 0.9}


def run_of(*records: Record) -> Run:
    run = Run({"kind": "closed", "users": 1, "rate": None}, duration_s=10)
    for record in records:
        run.add(record)
    return run


def test_the_shipped_objectives() -> None:
    """As the documentation says them; kept in a study, they come back the same."""
    assert Slo.default().as_json() == SHIPPED
    assert Slo.of(Slo.default().as_json(), "study") == Slo.default()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft_p95 = 2.0", ["'ttft_p95'", "Did you mean ttft_p95_s?"]),
        ("ttft_p95_ms = 2000", ["Times are in seconds"]),
        ("error_max = 0.1", ["Did you mean errors_max?"]),
        ("errors_min = 0.1", ["errors_max"]),
        ("source_recall_max = 0.1", ["source_recall_min"]),
        ("errors_max = 5", ["between 0 and 1", "1 % is 0.01", "5"]),
        ("ttft_p95_s = 0", ["seconds above 0"]),
        ("ttft_p95_s = -1", ["seconds above 0"]),
        ("goodput_min = 0", ["a rate per second above 0"]),
        ("ttft_p95_s = true", ["must be a number"]),
        ("ttft_p95_s = nan", ["must be a number"]),
        ('ttft_p95_s = "2s"', ["must be a number", "'2s'"]),
        ("[ttft]\np95_s = 2", ["'ttft'"]),
        ("ttft_p00_s = 2", ["'ttft_p00_s'"]),
        ("", ["names no objective"]),
        ("ttft_p95_s = ", ["is not TOML"]),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: list[str]) -> None:
    """With the file, the key, and what would be right."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        Slo.read(path)
    for words in (*said, "mine.toml"):
        assert words in str(raised.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """No traceback for a typing error."""
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        Slo.read(tmp_path / "none.toml")


@pytest.mark.parametrize(("key", "percent"), [("p5", 5), ("p50", 50), ("p999", 99.9), ("p9999", 99.99), ("p100", 100)])
def test_any_percentile_can_be_bounded(key: str, percent: float) -> None:
    """99.9 is written 999, as a point has another meaning in TOML."""
    run = made.run(6.0, duration_s=30)
    (judged,) = judge(Slo.of({f"ttft_{key}_s": 1.0}, "test"), run).objectives
    assert judged.value == figures(run).ttft.at(percent)
    assert judged.title == f"TTFT p{percent:g}"


def test_a_good_run_meets_what_is_shipped() -> None:
    """Half of the capacity: everything holds, and nearly every answer is good."""
    system = made.System(errors=0.0, recall=1.0)
    verdict = judge(Slo.default(), made.run(system.capacity / 2, 1, system))
    assert verdict.met, verdict.why
    assert [one.met for one in verdict.objectives] == [True] * 4
    assert verdict.good_share is not None
    assert verdict.good_share > 0.95
    assert not verdict.why


def test_beyond_the_capacity_a_run_fails_even_where_it_was_too_short_for_its_times() -> None:
    """The line grows: that the p95 still held is due to the end of the run."""
    system = made.System()
    verdict = judge(Slo.of({"ttft_p95_s": 100.0}, "test"), made.run(1.3 * system.capacity, 3, system, gaps=False))
    assert [one.met for one in verdict.objectives] == [True]
    assert not verdict.met
    assert "the line grew" in verdict.why[0]


def test_every_error_counts_also_what_was_unfinished() -> None:
    """`errors_max` knows no harmless kind."""
    answered = [Record("stream", 0.01 * number, ttft_s=0.1, total_s=0.2) for number in range(99)]
    slo = Slo.of({"errors_max": 0.005}, "test")
    verdict = judge(slo, run_of(*answered, Record("stream", 5.0, total_s=60.0, error="unfinished")))
    assert not verdict.met
    assert verdict.why == ["errors: 1 %, not <= 0.5 %"]
    assert judge(slo, run_of(*answered)).met


@pytest.mark.parametrize(
    ("slo", "records", "met"),
    [
        # Streams were asked: no first text is a failure. No stream was asked: nothing can be said.
        ({"ttft_p95_s": 2.0}, [Record("stream", 0.0, error="http_503"), Record("ask", 1.0, total_s=1.0)], False),
        ({"ttft_p95_s": 2.0}, [Record("ask", 1.0, total_s=1.0)], None),
        # An answer in one piece hides its gaps.
        ({"gap_p99_s": 0.2}, [Record("stream", 0.0, ttft_s=1.0, total_s=1.0)], False),
        ({"source_recall_min": 0.9}, [Record("ask", 1.0, total_s=1.0)], None),
        ({"citations_valid_min": 0.9}, [Record("ask", 1.0, total_s=1.0)], None),
        ({"citations_valid_min": 0.9}, [Record("ask", 1.0, citations=0, outcome="answered")], False),
        ({"search_p95_s": 0.1}, [Record("ask", 1.0, total_s=1.0)], None),
        ({"search_p95_s": 0.1}, [Record("search", 1.0, error="http_503")], False),
        ({"errors_max": 1.0}, [Record("ask", 1.0, error="refused")], False),
        ({"truncated_max": 0.5}, [], False),
    ],
)
def test_what_was_not_measured(slo: Mapping[str, float], records: list[Record], met: bool | None) -> None:
    """Is not met where requests were made that could have told; else it does not count, and says so."""
    verdict = judge(Slo.of(slo, "test"), run_of(*records))
    assert verdict.objectives[0].met is met
    assert verdict.objectives[0].why
    assert not verdict.met


def test_what_does_not_count_does_not_fail_the_rest() -> None:
    """Questions without known sources are judged by their times."""
    records = [Record("stream", 0.0, ttft_s=0.1, total_s=0.5, gaps_s=[0.05])]
    verdict = judge(Slo.default(), run_of(*records))
    assert [one.met for one in verdict.objectives] == [True, True, True, None]
    assert verdict.met


@pytest.mark.parametrize(
    ("record", "good"),
    [
        (Record("stream", 0.0, ttft_s=1.0, gap_p99_s=0.1, total_s=3.0), True),
        (Record("stream", 0.0, ttft_s=1.0, gap_p99_s=0.1, total_s=3.0, error="cut"), False),
        (Record("stream", 0.0, ttft_s=2.1, gap_p99_s=0.1, total_s=3.0), False),
        (Record("stream", 0.0, ttft_s=1.0, gap_p99_s=0.3, total_s=3.0), False),
        (Record("stream", 0.0, ttft_s=1.0, gap_p99_s=0.1, total_s=5.1), False),
        (Record("ask", 0.0, total_s=3.0), True),
        (Record("search", 0.0, total_s=30.0), True),
    ],
)
def test_a_good_answer_keeps_all_bounds(record: Record, good: bool) -> None:
    """Its own TTFT, p99 gap and total; of two bounds on one thing the wider."""
    slo = Slo.of({"ttft_p50_s": 0.5, "ttft_p95_s": 2.0, "gap_p99_s": 0.2, "total_p99_s": 5.0}, "test")
    assert slo.good(record) is good


def test_goodput_is_good_answers_a_second() -> None:
    """Of the measured part."""
    good = [Record("ask", 0.5 * number, total_s=1.0) for number in range(20)]
    bad = [Record("ask", 0.5 * number, total_s=9.0) for number in range(20)]
    verdict = judge(Slo.of({"total_p99_s": 5.0}, "test"), run_of(*good, *bad))
    assert (verdict.goodput, verdict.good_share) == (2.0, 0.5)


def test_a_void_run_says_so() -> None:
    """Beside what it would have been."""
    assert judge(Slo.default(), made.run(4.0, void=["client at 93 %"])).void == ("client at 93 %",)
