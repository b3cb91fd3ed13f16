"""When requests start: the schedules have the shapes that their names promise."""

from __future__ import annotations

import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from loadtest.arrivals import parse, share
from serving.errors import ConfigurationError
from serving.planning.trace import Recipe, make_trace, write_trace

SPECS = ("constant:8", "poisson:8", "burst:8,20", "ramp:1-20", "ramp:20-0", "steps:2,0,8")


def counts(times: list[float], duration_s: float, part_s: float) -> list[int]:
    """Requests in each part of the run."""
    found = Counter(int(at / part_s) for at in times)
    return [found[part] for part in range(int(duration_s / part_s))]


@pytest.mark.parametrize("spec", SPECS)
def test_times_ascend_within_the_run_and_follow_from_the_seed(spec: str) -> None:
    """The same seed gives the same times, another one others, unless nothing is drawn."""
    arrivals = parse(spec)
    times = list(arrivals.times(200, seed=1))
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 200
    assert times == list(parse(spec).times(200, seed=1))
    assert (times == list(arrivals.times(200, seed=2))) == (spec == "constant:8")


@pytest.mark.parametrize("spec", SPECS)
def test_as_many_come_as_the_mean_rate_says(spec: str) -> None:
    """Over many runs, to within four standard errors; those of a burst count by groups."""
    arrivals, size = parse(spec), 20 if spec.startswith("burst") else 1
    meant = arrivals.rate(100) * 100 * 50
    came = sum(sum(1 for _ in arrivals.times(100, seed)) for seed in range(50))
    assert came == pytest.approx(meant, abs=4 * (meant * size) ** 0.5)


def test_constant_is_even_and_does_not_drift() -> None:
    """The last of a million gaps is as long as the first."""
    times = list(parse("constant:3").times(1e5, seed=1))
    assert len(times) == 300_000
    assert times[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert times[-1] == pytest.approx(1e5 - 1 / 3, abs=1e-6)


def test_poisson_is_as_scattered_as_chance() -> None:
    """Variance of the counts over their mean is 1, and so is the gaps' variation: the marks of independence."""
    times = list(parse("poisson:8").times(5000, seed=7))
    by_second = counts(times, 5000, 1)
    assert statistics.variance(by_second) / statistics.mean(by_second) == pytest.approx(1, abs=0.1)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.05)
    assert statistics.correlation(gaps[:-1], gaps[1:]) == pytest.approx(0, abs=0.05)


def test_bursts_come_in_groups_at_once() -> None:
    """Each moment has exactly as many as were asked for, and the groups are a Poisson process."""
    times = list(parse("burst:40,20").times(2000, seed=3))
    assert set(Counter(times).values()) == {20}
    groups = counts(sorted(set(times)), 2000, 1)
    assert statistics.variance(groups) / statistics.mean(groups) == pytest.approx(1, abs=0.15)


def test_a_ramp_rises_evenly() -> None:
    """Each tenth of the run has the rate of its middle."""
    by_tenth = [0] * 10
    for seed in range(100):
        for tenth, count in enumerate(counts(list(parse("ramp:2-22").times(100, seed)), 100, 10)):
            by_tenth[tenth] += count
    meant = [(2 + 20 * (tenth + 0.5) / 10) * 10 * 100 for tenth in range(10)]
    assert all(count == pytest.approx(mean, abs=4 * mean**0.5) for count, mean in zip(by_tenth, meant, strict=True))


def test_a_ramp_may_fall_and_begin_or_end_at_nothing() -> None:
    """Falling is rising in the mirror."""
    rising = counts(list(parse("ramp:0-40").times(1000, seed=1)), 1000, 250)
    falling = counts(list(parse("ramp:40-0").times(1000, seed=1)), 1000, 250)
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_steps_hold_their_rates_in_equal_parts() -> None:
    """A step of 0 is a pause."""
    by_part = counts(list(parse("steps:20,0,60,5").times(400, seed=1)), 400, 100)
    assert by_part[1] == 0
    assert [count / 100 for count in by_part] == pytest.approx([20, 0, 60, 5], rel=0.15)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_trace_is_replayed_with_its_lengths(tmp_path: Path, suffix: str) -> None:
    """At its own times, or faster; what lies beyond the run is left out, and the mean rate says so."""
    trace, file = make_trace("noisy", Recipe(rate=2, duration_s=300), seed=1), tmp_path / f"requests,1.{suffix}"
    write_trace(trace, file)
    plain, twice = parse(f"trace:{file}"), parse(f"trace:{file},x2")
    assert list(plain.times(1000, seed=1)) == list(trace.times)
    assert list(twice.times(1000, seed=1)) == [at / 2 for at in trace.times]
    assert list(plain.times(60, seed=1)) == [at for at in trace.times if at < 60]
    assert plain.rate(1000) == len(trace) / 1000
    assert twice.rate(50) == sum(1 for at in trace.times if at < 100) / 50
    assert plain.lengths == tuple(zip(trace.prompts, trace.answers, strict=True))
    assert parse("poisson:1").lengths == ()


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_together_start_each_request_once(workers: int) -> None:
    """With the number that it has for one worker alone."""
    times = list(parse("poisson:20").times(60, seed=5))
    parts = [list(share(times, index, workers)) for index in range(workers)]
    assert sorted(one for part in parts for one in part) == list(enumerate(times))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("", "constant:R"),
        ("often", "poisson:R"),
        ("poison:8", "poisson:R"),
        ("poisson:", "poisson:R"),
        ("poisson:fast", "'fast'"),
        ("poisson:-1", "above 0"),
        ("poisson:0", "above 0"),
        ("constant:nan", "above 0"),
        ("constant:inf", "above 0"),
        ("poisson:1,2", "1 number wanted, 2 given"),
        ("burst:8", "burst:R,N"),
        ("burst:8,0", "burst:R,N"),
        ("burst:8,1.5", "burst:R,N"),
        ("burst:x,2", "'x'"),
        ("ramp:5", "ramp:R1-R2"),
        ("ramp:0-0", "above 0"),
        ("steps:", "steps:R1,R2"),
        ("steps:0,0", "above 0"),
        ("trace:", "trace:FILE"),
        ("trace:no-such-file.csv", "no-such-file.csv cannot be read"),
        (f"trace:{__file__},xfast", "'fast'"),
    ],
)
def test_a_wrong_spec_is_named_with_what_it_should_be(spec: str, named: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigurationError) as refused:
        parse(spec)
    assert repr(spec) in str(refused.value)
    assert named in str(refused.value)


def test_a_broken_trace_is_named_with_its_line(tmp_path: Path) -> None:
    """And with the spec."""
    file = tmp_path / "trace.csv"
    file.write_text("t_s,prompt_tokens,answer_tokens\n0,10,10\n1,ten,10\n")
    with pytest.raises(ConfigurationError, match=rf"'trace:{file}': .*line 3"):
        parse(f"trace:{file}")
