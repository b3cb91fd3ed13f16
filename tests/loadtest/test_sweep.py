"""The search for the knee, on servers that are only made up: where it is, is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from loadtest.arrivals import parse
from loadtest.bench.knee_server import Line, Places
from loadtest.evidence import outcome
from loadtest.record import Record
from loadtest.run import Run
from loadtest.slo import Slo
from loadtest.sweep import Found, Level, Outcome, Sweep

#: No sweep of these tests may need more runs: it would not end.
ENDLESS = 200


@dataclass
class Noisy:
    """A server whose figures scatter: the excess is 0 at the knee, and rises with the rate by `slope`.

    Runs differ by `noise`; their bootstrap sees `seen` of it, as it does of a queue near its capacity.
    """

    knee: float
    slope: float = 8.0
    noise: float = 0.3
    seen: float = 0.6
    seed: int = 0

    def __call__(self, level: Level) -> Outcome:
        numbers = (*level.pool, level.number)
        own = [random.Random(f"{self.seed}:{number}").gauss(0, self.noise) for number in numbers]
        excess = self.slope * math.log(level.rate / self.knee) + sum(own) / len(own)
        return Outcome(max(-3.0, min(3.0, excess)), self.seen * self.noise / math.sqrt(len(own)))


def swept(search: Sweep, server: Callable[[Level], Outcome]) -> tuple[Found, int]:
    """What was found, and by how many runs."""
    runs = 0
    while (level := search.next()) is not None:
        assert level.number == runs
        search.take(server(level))
        runs += 1
        assert runs < ENDLESS
    return search.found(), runs


@pytest.mark.parametrize("knee", [0.07, 1.0, 8.1, 333.0])
def test_a_server_without_noise(knee: float) -> None:
    """The highest rate of the grid below the knee, by a bisection and one run that confirms it."""
    found, runs = swept(Sweep(8.0, lowest=0.01), Noisy(knee, noise=0.0))
    assert found.rate is not None
    assert found.above is not None
    assert found.rate <= knee * 1.001
    assert knee <= found.above <= found.rate * 1.051
    assert found.sure
    assert runs <= 7 + abs(math.log2(8.0 / knee))


def test_a_thousand_noisy_servers() -> None:
    """Wherever the knee is, it is found within 10 % nearly always, with few runs."""
    errors, runs = [], []
    for seed in range(1000):
        dice = random.Random(seed)
        server = Noisy(10 * math.exp(dice.uniform(-1.5, 1.5)), dice.uniform(5, 15), dice.uniform(0.05, 0.3), seed=seed)
        found, used = swept(Sweep(10.0, lowest=0.01), server)
        assert found.rate is not None
        errors.append(math.log(found.rate / server.knee))
        runs.append(used)
    errors.sort()
    assert sum(abs(error) < 0.1 for error in errors) >= 0.95 * len(errors)
    assert -0.06 < errors[len(errors) // 2] < 0.0  # between the two rates that it lies between
    assert sum(runs) / len(runs) < 14


def lived(places: Places, kind: str, rate: float, seed: int, duration_s: float, warmup_s: float) -> Run:
    """A run against the queue alone."""
    line, spec = Line(places), f"{kind}:{rate:g}"
    run = Run({"kind": "open", "arrivals": spec, "rate": rate}, duration_s, warmup_s)
    for number, at in enumerate(parse(spec).times(duration_s, seed)):
        first, end = line.times(at, f"{seed}:{number}")
        run.add(Record("stream", at, ttft_s=first - at, total_s=end - at))
    return run


def test_queues_whose_knee_is_known() -> None:
    """Real queues, their figures and bootstrap: the knee of a fine grid of long runs, within 10 %, by few runs."""
    places, slo = Places(8, 0.5), Slo.of({"ttft_p95_s": 1.0, "errors_max": 0.001}, "test")
    grid = places.capacity * 0.7
    while outcome(slo, [lived(places, "poisson", grid * 1.03, 1, 1000.0, 10.0)]).excess <= 0:
        grid *= 1.03
    errors, used = [], []
    for sweep in range(4):
        runs: list[Run] = []

        def hold(level: Level, runs: list[Run] = runs, sweep: int = sweep) -> Outcome:
            runs.append(lived(places, "poisson", level.rate, 1000 * sweep + level.number, 40.0, 4.0))
            return outcome(slo, [runs[number] for number in (*level.pool, level.number)])

        found, number = swept(Sweep(grid * (0.5 + 0.4 * sweep), lowest=0.1), hold)
        assert found.rate is not None
        errors.append(math.log(found.rate / grid))
        used.append(number)
    assert sum(abs(error) < 0.1 for error in errors) >= len(errors) - 1
    assert max(abs(error) for error in errors) < 0.2
    assert sum(used) / len(used) < 16


def test_what_held_by_luck_does_not_stay() -> None:
    """A rate that fresh seeds do not confirm is given up, and so is all above it."""
    server = Noisy(10.0, noise=0.0)

    def lucky(level: Level) -> Outcome:
        seen = server(level)
        return Outcome(-0.3, 0.05) if level.purpose != "confirm" and 10 < level.rate < 11.5 else seen

    found, _ = swept(Sweep(8.0, lowest=0.1), lucky)
    assert found.rate is not None
    assert 9.5 < found.rate <= 10.0
    assert found.above is not None
    assert found.above < 12
    assert found.sure
    assert all(level["met"] == (level["rate"] <= found.rate) for level in found.levels)


def test_a_level_whose_line_grows_is_missed() -> None:
    """However good its times still look."""
    found, _ = swept(Sweep(8.0, lowest=0.1), lambda level: Outcome(-1.0, 0.1, growing=level.rate > 20))
    assert found.rate is not None
    assert 18.9 < found.rate <= 20 < (found.above or 0)


def test_void_levels_are_repeated_once() -> None:
    """One is forgiven; the second at one level ends the search, and what is known is said."""
    server, spoilt = Noisy(10.0, noise=0.0), iter([True])
    found, _ = swept(
        Sweep(8.0, lowest=0.1),
        lambda level: Outcome(0, 0, void=next(spoilt, False)) if level.number == 2 else server(level),
    )
    assert found.sure
    limited, _ = swept(
        Sweep(8.0, lowest=0.1), lambda level: Outcome(0, 0, void=True) if level.rate > 9 else server(level)
    )
    assert limited.limited
    assert not limited.sure
    assert limited.rate == 8.0
    assert "client was the limit" in limited.why


def test_the_bounds_of_the_search() -> None:
    """Nothing above `highest` and below `lowest` is tried, and both are an answer."""
    all_kept, _ = swept(Sweep(8.0, lowest=1.0, highest=20.0), Noisy(1e6, noise=0.0))
    assert (all_kept.rate, all_kept.above, all_kept.sure) == (pytest.approx(20.0, rel=0.05), None, True)
    none_kept, _ = swept(Sweep(8.0, lowest=1.0), Noisy(0.01, noise=0.0))
    assert none_kept.rate is None
    assert none_kept.above == pytest.approx(1.0, rel=0.06)
    assert all(level["rate"] >= 0.999 for level in none_kept.levels)
    with pytest.raises(ValueError, match="no search"):
        Sweep(8.0, lowest=9.0)


def test_ended_early_it_says_the_best_it_knows() -> None:
    """At any time: what was kept, what was not, and that it is not sure."""
    search = Sweep(8.0, lowest=0.1)
    assert search.found("ended").rate is None
    server = Noisy(10.0, noise=0.0)
    for _ in range(3):
        level = search.next()
        assert level is not None
        search.take(server(level))
    found = search.found("the time was over")
    assert found.rate == 8.0
    assert found.above is not None
    assert not found.sure
    assert "not confirmed" in found.why
    assert "the time was over" in found.why
