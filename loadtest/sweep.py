"""The search of `anchorage loadtest sweep`: which load to hold next, and what the outcomes say. Pure.

The highest rate that keeps the objectives (the knee) is looked for on a grid of rates, each `within` above the one
before, so that repeats of a level can be judged together and the answer is one of a few round numbers.

An outcome is evidence, not a verdict: near the knee one run of a minute says little, because a queue's worst moments
come in clumps. It says how far the binding objective was from its bound (`excess`, a logarithm) and how far that may
be wrong (`spread`, by bootstrap): together the chance that this rate does not keep the objectives. Latency rises with
the load, so a level that is kept speaks for all below it, one that is missed for all above. The chances of all
together give the probability that the knee is in the gap between one rate and the next (probabilistic bisection:
Waeber, Frazier and Henderson 2013), and the next level is the one that halves it. So a level far from the knee takes
one run, a level at the knee is repeated (other seeds, judged together) up to `repeats` times, and an outcome that
misled is made good by those around it. A knee that lies at a rate of the grid can never be told to be on one side of
it: after `repeats` runs the nearer side is taken, which is within one step.

The first levels bracket the knee: twice the rate while it is kept, half while it is not, less where it is close.

What was chosen because it looked good looks better than it is. So the rate found is held again with seeds that nothing
was chosen by, and judged by these runs alone; where it does not hold, the search goes on below it.

A void run (the client was the limit) is made once more; the second at one level ends the search, and names the client.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal, TypeAlias

#: A gap this probable is where the knee is; a level this surely on one side needs no other run.
SURE = 0.85
#: What one run of a level may claim at most: its bootstrap does not see how much other seeds would differ.
_CLAIM = 0.98
#: The same of a level run with several seeds.
_CLAIM_REPEATED = 0.995
#: No excess is known better than this.
_LEAST_SPREAD = 0.001
#: Factor from one level to the next while the knee is not bracketed.
_LEAP = 2.0
#: Runs with fresh seeds, at most, to confirm the rate found.
_CONFIRMING = 3

Purpose: TypeAlias = Literal["bracket", "narrow", "confirm"]


@dataclass(frozen=True, slots=True)
class Level:
    """A run to make: `rate` requests a second, to be judged together with the runs `pool`.

    Runs have numbers from 0 in the order in which they were asked for; `number` is this one's, and makes its seed.
    """

    rate: float
    number: int
    purpose: Purpose
    pool: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a level, its pool included. `excess`: log(value / bound) of the objective that is worst off, so that 0 is the
    bound and above it the objectives are not kept; `spread`: its standard error; `binding`: its name.

    `growing`: the backlog grew all the time, so that a longer run would have been worse. `void`: says nothing.
    """

    excess: float
    spread: float
    growing: bool = False
    void: bool = False
    binding: str = ""


@dataclass(slots=True)
class _Place:
    """A rate of the grid. `runs` are those it was chosen by, `fresh` those that confirm it."""

    runs: list[int] = field(default_factory=list)
    outcome: Outcome | None = None
    fresh: list[int] = field(default_factory=list)
    confirmed: bool | None = None
    voids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """`rate`: the highest that keeps the objectives, None if none did; `above`: the lowest seen not to keep them.

    `sure`: the rate held with fresh seeds, and one above it did not. `chance`: that the knee is between `rate` and
    the next one of the grid. `why`: one sentence. `limited`: by the client. `levels`: see `loadtest.run.Study.found`.
    """

    rate: float | None
    above: float | None
    sure: bool
    chance: float
    why: str
    limited: bool
    levels: tuple[Mapping[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "levels": [dict(level) for level in self.levels]}


class Sweep:
    """Ask `next`, hold that load, tell `take`; until `next` is None, or the time is over. `found` at any time.

    Rates in requests a second. `within`: step of the grid, 0.05 is 5 %. `lowest` and `highest` bound the search.
    Raises ValueError where `start` is not between them.
    """

    def __init__(
        self, start: float, *, lowest: float, highest: float = math.inf, within: float = 0.05, repeats: int = 4
    ) -> None:
        if not (0 < lowest <= start <= highest and start < math.inf and within > 0 and repeats > 0):
            raise ValueError(f"no search from {start} between {lowest} and {highest} with steps of {within}")
        self._start, self._step, self._repeats = start, math.log1p(within), repeats
        self._lowest = -math.floor(math.log(start / lowest) / self._step + 1e-9)
        self._highest = math.inf if math.isinf(highest) else math.floor(math.log(highest / start) / self._step + 1e-9)
        self._places: dict[int, _Place] = {}
        self._asked: list[tuple[int, Level]] = []
        #: The knee is below this place: it was found, and did not hold.
        self._refuted = math.inf
        self._void_at: float | None = None

    def next(self) -> Level | None:
        """None: there is nothing more to learn, or the client cannot."""
        chosen = None if self._void_at is not None else self._choice()
        if chosen is None:
            return None
        index, purpose = chosen
        place = self._places.setdefault(index, _Place())
        pool = place.fresh if purpose == "confirm" else place.runs
        self._asked.append((index, Level(self._rate(index), len(self._asked), purpose, tuple(pool))))
        return self._asked[-1][1]

    def take(self, outcome: Outcome) -> None:
        """Of the level that `next` gave last."""
        index, level = self._asked[-1]
        place = self._places[index]
        if outcome.void:
            place.voids.append(level.number)
            self._void_at = level.rate if len(place.voids) > 1 else None
            return
        if level.purpose != "confirm":
            place.runs.append(level.number)
            place.outcome = outcome
            return
        place.fresh.append(level.number)
        chance = _chance(outcome, len(place.fresh))
        if 1 - SURE < chance < SURE and len(place.fresh) < _CONFIRMING:
            return
        place.confirmed = chance < 0.5
        if not place.confirmed:
            self._refuted = min(self._refuted, index)

    def found(self, ended: str = "") -> Found:
        """The best of what is known. `ended`: why the search was over before it was done."""
        gaps = self._gaps()
        best = self._best(gaps)
        above = min(
            (index for index in self._seen() if self._missed(index) and (best is None or index > best)), default=None
        )
        confirmed = best is not None and self._places[best].confirmed is True
        bounded = above is not None or (best is not None and best >= self._highest)
        nothing = best is None and above is not None and above <= self._lowest
        return Found(
            rate=None if best is None else self._rate(best),
            above=None if above is None else self._rate(above),
            sure=(confirmed and bounded) or nothing,
            chance=round(gaps.get(best, 0.0), 3) if best is not None else 0.0,
            why=self._why(best, above, ended),
            limited=self._void_at is not None,
            levels=tuple(self._levels()),
        )

    def _choice(self) -> tuple[int, Purpose] | None:
        seen = self._seen()
        if not seen:
            return 0, "bracket"
        gaps = self._gaps()
        low, high = seen[0], seen[-1]
        unsure = 1 - SURE
        if gaps[low - 1] > unsure and gaps[low - 1] >= gaps.get(high, 0.0) and low > self._lowest:
            return max(self._lowest, low - self._leap(low)), "bracket"
        if gaps.get(high, 0.0) > unsure and high < self._highest:
            return int(min(self._highest, high + self._leap(high))), "bracket"
        if (index := self._undecided(gaps)) is not None:
            return index, "narrow"
        best = self._best(gaps)
        return None if best is None or self._places[best].confirmed is not None else (best, "confirm")

    def _leap(self, index: int) -> int:
        """Steps to go on from the outermost level: as far as it is sure of itself."""
        return max(1, round(math.log(_LEAP) / self._step * abs(2 * self._chance_at(index) - 1)))

    def _undecided(self, gaps: Mapping[int, float]) -> int | None:
        """The level whose outcome would tell most, if one is left that is worth a run."""
        if max(gaps.values()) >= SURE:
            return None
        low, high = self._seen()[0], self._seen()[-1]
        below, doubt = 0.0, {}
        for gap in sorted(gaps):
            below += gaps[gap]
            if low <= gap + 1 <= high and self._open(gap + 1):
                doubt[gap + 1] = abs(below - 0.5)
        index = min(doubt, key=lambda each: doubt[each], default=None)
        return index if index is not None and doubt[index] < SURE - 0.5 else None

    def _open(self, index: int) -> bool:
        place = self._places.get(index)
        return place is None or len(place.runs) < self._repeats

    def _best(self, gaps: Mapping[int, float]) -> int | None:
        """The highest level seen that rather keeps the objectives than not; None: not one."""
        best, below = None, 0.0
        seen = set(self._seen())
        for gap in sorted(gaps):
            if gap in seen and below < 0.5:
                best = gap
            below += gaps[gap]
        return best

    def _gaps(self) -> dict[int, float]:
        """How probable it is that the knee is from place `gap` to the next; below the lowest and above the highest
        level seen, one gap stands for all."""
        seen = self._seen()
        weights = {}
        for gap in range(seen[0] - 1, int(min(seen[-1], self._refuted - 1)) + 1) if seen else ():
            chances = (self._chance_at(index) if index > gap else 1 - self._chance_at(index) for index in seen)
            weights[gap] = sum(math.log(chance) for chance in chances)
        top = max(weights.values(), default=0.0)
        whole = sum(math.exp(weight - top) for weight in weights.values())
        return {gap: math.exp(weight - top) / whole for gap, weight in weights.items()}

    def _seen(self) -> list[int]:
        return sorted(index for index, place in self._places.items() if place.outcome is not None)

    def _chance_at(self, index: int) -> float:
        """That the objectives are not kept there, by what was seen there alone."""
        place = self._places[index]
        assert place.outcome is not None
        return _chance(place.outcome, len(place.runs))

    def _missed(self, index: int) -> bool:
        return index >= self._refuted or (self._places[index].confirmed is None and self._chance_at(index) > 0.5)

    def _rate(self, index: int) -> float:
        return float(f"{self._start * math.exp(self._step * index):.4g}")

    def _levels(self) -> Iterator[dict[str, Any]]:
        for index, place in sorted(self._places.items()):
            runs = sorted([*place.runs, *place.fresh, *place.voids])
            if runs:
                void = place.outcome is None
                yield {
                    "rate": self._rate(index),
                    "runs": runs,
                    "met": not void and not self._missed(index),
                    "void": void,
                }

    def _why(self, best: int | None, above: int | None, ended: str) -> str:
        said = []
        if best is not None:
            held = (
                "held again with fresh seeds"
                if self._places[best].confirmed
                else "kept the objectives, but was not confirmed"
            )
            said.append(f"{self._rate(best):g} requests a second {held}")
        if above is not None:
            outcome = self._places[above].outcome
            grew = outcome is not None and outcome.growing
            what = (outcome.binding if outcome else "") or "an objective"
            said.append(f"at {self._rate(above):g} {'the line grew' if grew else f'{what} was beyond its bound'}")
        elif best is not None and best >= self._highest:
            said.append("nothing above was allowed")
        if self._void_at is not None:
            said.append(f"at {self._void_at:g} this client was the limit")
        if ended:
            said.append(ended)
        return "; ".join(said) or "nothing was learned"


def _chance(outcome: Outcome, runs: int) -> float:
    """That the objectives are not kept, as far as so many runs can tell."""
    most = _CLAIM if runs == 1 else _CLAIM_REPEATED
    if outcome.growing:
        return most
    return min(most, max(1 - most, beyond(outcome.excess, outcome.spread)))


def beyond(excess: float, spread: float) -> float:
    """The probability that the excess is above 0."""
    return NormalDist().cdf(excess / max(spread, _LEAST_SPREAD))
