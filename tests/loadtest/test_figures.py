"""From records to numbers, the seconds of a run, and whether its line grows."""

from __future__ import annotations

import json
import math

import pytest

from loadtest.figures import end_s, figures, first_text_s, split
from loadtest.percentiles import Percentiles
from loadtest.record import Record
from loadtest.run import Run
from loadtest.series import series
from loadtest.slo import Slo
from loadtest.steadiness import steady
from tests.loadtest import made


def test_figures_are_of_the_measured_part() -> None:
    """What was meant to start in the warm-up is no part of percentiles, counts and shares."""
    run = Run({"kind": "open", "arrivals": "constant:1", "rate": 1.0}, duration_s=10, warmup_s=5)
    for second in range(10):
        run.add(Record("stream", float(second), ttft_s=9.0 if second < 5 else 0.5, total_s=1.0, gaps_s=[0.1]))
    found = figures(run)
    assert (found.requests, found.answered, found.ttft.count, found.gap.count) == (5, 5, 5, 5)
    assert found.ttft.longest == pytest.approx(0.5, rel=1e-3)
    assert found.offered_rate == 1.0


def test_throughput_counts_what_ended_in_the_measured_part() -> None:
    """A server that falls behind has not done what it does after the run is over."""
    run = Run({"kind": "open", "arrivals": "constant:1", "rate": 1.0}, duration_s=10)
    for second in range(10):
        run.add(Record("stream", float(second), ttft_s=1.0, total_s=5.0, tokens_in=7, tokens_out=40))
    found = figures(run)
    assert found.offered_rate == 1.0
    assert found.answered_rate == pytest.approx(0.5)  # those of seconds 0 to 4
    assert found.tokens_in_rate == pytest.approx(3.5)
    # Ten tokens a second for four seconds each: six answers whole (0 to 5), then three, two and one second of them.
    assert found.tokens_out_rate == pytest.approx((6 * 40 + 30 + 20 + 10) / 10)


def test_who_waited_in_vain_is_part_of_the_times() -> None:
    """Left out, a server that stalls would look faster than one that answers late; a refusal is no time at all."""
    stalled = Record("stream", 0.0, total_s=60.0, error="stalled")
    late = Record("stream", 0.0, ttft_s=2.0, total_s=60.0, error="stalled")
    refused = Record("stream", 0.0, total_s=0.001, error="refused")
    assert [first_text_s(one) for one in (stalled, late, refused)] == [60.0, 2.0, None]
    assert [end_s(one) for one in (stalled, late, refused)] == [60.0, 60.0, None]
    run = Run({"kind": "closed", "users": 3, "rate": None}, duration_s=10, records=[stalled, late, refused])
    found = figures(run)
    assert (found.ttft.count, found.ttft.at_least, found.total.at_least) == (2, 1, 2)
    assert {one.kind: one.count for one in found.errors} == {"stalled": 2, "refused": 1}
    assert found.errors_share == 1.0


def test_searches_are_not_mixed_into_the_times_of_answers() -> None:
    """Of a mixed load, `total` is of questions; each task has its own figures."""
    run = Run({"kind": "closed", "users": 3, "rate": None}, duration_s=10)
    run.records = [Record("search", 0.0, total_s=0.01)] * 9 + [Record("ask", 0.0, total_s=3.0)]
    found = figures(run)
    assert found.total.count == 1
    assert found.ttft.count == 0
    assert found.tasks["search"].requests == 9
    assert found.tasks["search"].total.longest == pytest.approx(0.01, rel=1e-3)


def test_the_split_adds_up_to_the_ttft() -> None:
    """Client, edge, the stages of the pipeline in order, and the engine for the rest."""
    stages = {"embed": 0.01, "search": 0.02, "prompt": 0.001, "first_token": 0.3, "generate": 2.0, "total": 2.1}
    record = Record("stream", 0.0, dispatch_s=0.004, ttft_s=0.35, total_s=2.2, stages_s=stages)
    found = split(record)
    assert list(found) == ["client", "edge", "embed", "search", "prompt", "engine"]
    assert math.isclose(sum(found.values()), 0.35)
    assert math.isclose(found["engine"], 0.3 - 0.031)
    assert split(Record("stream", 0.0, ttft_s=0.35)) == {}


def test_percentile_curves_say_no_more_than_the_values_do() -> None:
    """Ascending, equal to the percentiles themselves, and no 99.9 % of forty values."""
    of_forty = Percentiles.of([number / 100 for number in range(1, 41)])
    curve = of_forty.curve()
    assert curve[-1] == (100.0, of_forty.longest)
    assert curve[-2][0] < 99
    assert curve == sorted(curve)
    assert all(seconds == of_forty.at(percent) for percent, seconds in curve[:-1])
    assert Percentiles.of([]).curve() == []


def test_quality_is_a_mean_with_its_count() -> None:
    """Only of answers for which it is known."""
    run = Run({"kind": "closed", "users": 1, "rate": None}, duration_s=10)
    run.records = [
        Record("ask", 0.0, source_recall=1.0, answer_match=True, citations=2, citations_valid=0.5, outcome="answered"),
        Record("ask", 1.0, source_recall=0.0, citations=0, outcome="answered"),
        Record("ask", 2.0, citations=0, outcome="no_context"),
        Record("ask", 3.0, source_recall=0.0, error="cut"),
    ]
    found = figures(run).quality
    assert (found["source_recall"].value, found["source_recall"].count) == (0.5, 2)
    assert (found["answer_match"].value, found["answer_match"].count) == (1.0, 1)
    assert (found["citations_valid"].value, found["citations_valid"].count) == (0.5, 1)
    assert (found["cited"].value, found["cited"].count) == (0.5, 2)


def test_an_empty_run_has_figures() -> None:
    """Nothing was asked: no percentile, no share, and nothing that divides by it; all of it is JSON."""
    found = figures(Run({"kind": "closed", "users": 0, "rate": None}, duration_s=0.0), Slo.default())
    assert (found.requests, found.errors_share, found.goodput, found.ttft.p50) == (0, None, 0.0, None)
    assert json.loads(json.dumps(found.as_json()))["requests"] == 0


def test_series_show_the_queue_behind_a_freeze() -> None:
    """While the server stands still requests come, wait and are told by the second in which they wanted to start."""
    run = made.run(8.0, duration_s=60, warmup_s=0, frozen=(20.0, 5.0))
    found = series(run)
    assert sum(found.arrivals) == len(run.records)
    assert sum(found.answers) + sum(map(sum, found.errors.values())) == len(run.records)
    assert math.isclose(sum(found.in_flight), sum(one.total_s for one in run.records), rel_tol=1e-9)
    before = max(value for value in found.ttft_p95[5:15] if value is not None)
    assert (found.ttft_p95[21] or 0) > 2 + before
    assert max(found.in_flight[20:27]) > 3 * max(found.in_flight[5:15])
    assert len(found) == len(found.ttft_p95) == len(found.client_cpu) == len(found.in_flight)


def test_a_line_that_grows_is_told_from_one_that_does_not() -> None:
    """Below the capacity never, at 1.2 of it nearly always, in a minute; figures of long studies: `steady`."""
    capacity = made.System().capacity
    grows = {
        share: [steady(made.run(share * capacity, seed, duration_s=70, gaps=False)).grows for seed in range(20)]
        for share in (0.8, 0.95, 1.2)
    }
    assert sum(map(bool, grows[0.8])) == 0
    assert sum(map(bool, grows[0.95])) <= 1
    assert sum(map(bool, grows[1.2])) >= 16
    long = [steady(made.run(1.05 * capacity, seed, duration_s=1210, gaps=False)).grows for seed in range(2)]
    assert all(long)


def test_long_answers_that_begin_to_fill_the_server_are_no_growth() -> None:
    """Without a warm-up the requests in flight rise from none to what they are."""
    slow = made.System(servers=200, tokens=400)
    alarms = [steady(made.run(5.0, seed, slow, duration_s=60, warmup_s=0, gaps=False)).grows for seed in range(20)]
    assert sum(map(bool, alarms)) <= 1


@pytest.mark.parametrize(
    "load", [{"kind": "closed", "users": 8, "rate": None}, {"kind": "open", "arrivals": "ramp:1-9", "rate": 5.0}]
)
def test_growth_is_said_only_of_loads_that_stay_the_same(load: dict[str, object]) -> None:
    """A ramp makes every line grow, a closed loop none."""
    run = made.run(20.0, duration_s=40, gaps=False)
    run.load = load
    assert steady(run).grows is None
