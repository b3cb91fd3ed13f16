"""How far a figure of a run would have been off by chance: intervals by the circular block bootstrap.

Times of neighbouring requests resemble each other, because they stood in the same line. To resample single requests
would take them for independent, and give intervals far too narrow. So blocks of neighbouring windows (`windows`) are
drawn instead: Künsch 1989, "The jackknife and the bootstrap for general stationary observations"; circular, so that
the ends count as much as the rest: Politis and Romano 1992.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from loadtest.figures import Good
from loadtest.metrics import Metric
from loadtest.run import Run
from loadtest.windows import Figure, Values, Windows

if TYPE_CHECKING:
    import numpy as np

    from loadtest.windows import Numbers

DRAWS = 1000
#: Blocks of a run. A queue near its capacity remembers for tens of seconds, longer than a short run can show: a rule
#: that reads the length of a block off the run (Politis and White 2004) took too short ones on made queues, so a
#: block is a fixed part of the run. Two runs that are compared have ten each, as six would find too little.
_BLOCKS, _BLOCKS_OF_TWO = 6, 10
#: Shorter runs say nothing.
_WINDOWS = 12


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Of b - a. `chance`: how probable one as large is where nothing differs (two-sided)."""

    a: float
    b: float
    low: float
    high: float
    chance: float


def interval(
    metric: Metric, runs: Sequence[Run], good: Good | None = None, *, level: float = 0.95, seed: int = 0
) -> Interval | None:
    """Of a figure of runs of one load: runs are drawn, then blocks of each. None: too little data.

    Too little are fewer than 5 values beyond a percentile. So often intervals at 95 % of a minute of a made queue cover
    the truth: at 0.5 and 0.7 of its capacity 91 to 100 % for all but TTFT p99 (86 % at 0.7); at 0.85 95 to 98 % for
    medians, shares and rates, 80 % for p95 and 70 % for p99 of TTFT. A minute is too short there to see the longest
    line: compare runs, and do not take the tail of a short one for a property of the server.
    """
    import numpy as np

    cut = Windows(runs, good)
    figure = cut.figure(metric)
    value = float(figure.figure(np.ones((1, len(cut))))[0])
    if min(cut.counts) < _WINDOWS or not figure.enough() or math.isnan(value):
        return None
    lengths = [max(1, round(number / _BLOCKS)) for number in cut.counts]
    dice = np.random.default_rng(seed)
    draws = _figures(dice, figure, _weights(dice, cut.counts, lengths))
    draws = draws[~np.isnan(draws)]
    few = _few(level, len(runs) * _BLOCKS - 1)
    # Hesterberg 2015, "What teachers should know about the bootstrap": the expanded percentile interval.
    tail = NormalDist().cdf(NormalDist().inv_cdf((1 - level) / 2) * few)
    low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    if isinstance(figure, Values):
        # No draw can be above the longest value seen, but the truth can: by the spread of the logarithms as well.
        times = math.exp(float(np.std(np.log(draws))) * few * NormalDist().inv_cdf((1 + level) / 2))
        low, high = min(low, value / times), max(high, value * times)
    return Interval(value, min(low, value), max(high, value))


def difference(metric: Metric, pooled: Windows, first: int, *, level: float = 0.95, seed: int = 0) -> Difference | None:
    """Between the first `first` runs of `pooled` and the others. None: too little data.

    The null hypothesis is drawn: two loads as long as these, of blocks of either. The part of the draws whose
    difference is as large as the one seen is its chance; the interval is the difference seen, plus and minus what
    the draws leave to chance (for times: times and divided by), so it contains 0 just when the chance is above
    1 - `level`. To draw each side from its own blocks only would raise twice to four times as many false alarms near
    the capacity, where one of two short runs happens to have the long line. Where runs of one side differ by more
    than that, what is left to chance grows with it.
    """
    import numpy as np

    figure = pooled.figure(metric)
    edge = sum(pooled.counts[:first])
    sides = np.zeros((2, len(pooled)))
    sides[0, :edge], sides[1, edge:] = 1, 1
    a, b = (float(value) for value in figure.figure(sides))
    enough = figure.enough(slice(edge)) and figure.enough(slice(edge, None)) and min(pooled.counts) >= _WINDOWS
    if not enough or math.isnan(a) or math.isnan(b):
        return None
    blocks = _BLOCKS_OF_TWO if len(pooled.counts) == 2 else _BLOCKS
    length = max(1, round(max(pooled.counts) / blocks))
    dice = np.random.default_rng(seed)
    drawn_a, drawn_b = (
        _figures(dice, figure, _pooled(dice, pooled.counts, length, number)) for number in (edge, len(pooled) - edge)
    )
    scale = np.log if isinstance(figure, Values) else np.asarray
    null = scale(drawn_b) - scale(drawn_a)
    null = np.abs(null[~np.isnan(null)]) * _few(level, len(pooled) / length - 2)
    null *= _between(figure, pooled, first, float(np.std(scale(drawn_a))), scale)
    seen = float(scale(b) - scale(a))
    chance = float((1 + np.count_nonzero(null >= abs(seen) - 1e-12)) / (1 + len(null)))
    left = float(np.quantile(null, level))
    if isinstance(figure, Values):
        return Difference(a, b, a * math.exp(seen - left) - a, a * math.exp(seen + left) - a, chance)
    return Difference(a, b, seen - left, seen + left, chance)


def _weights(dice: np.random.Generator, counts: Sequence[int], lengths: Sequence[int]) -> Numbers:
    """How often each window is in each draw, draws x windows."""
    import numpy as np

    runs = len(counts)
    chosen = dice.multinomial(runs, [1 / runs] * runs, DRAWS) if runs > 1 else np.ones((DRAWS, 1), int)
    parts = []
    for number, length, times in zip(counts, lengths, chosen.T, strict=True):
        weight = np.zeros((DRAWS, number))
        for turn in range(int(times.max())):
            rows = np.flatnonzero(times > turn)
            starts = dice.integers(number, size=(len(rows), math.ceil(number / length), 1))
            inside = ((starts + np.arange(length)) % number).reshape(len(rows), -1)[:, :number]
            flat = (inside + rows[:, None] * number).ravel()
            weight += np.bincount(flat, minlength=DRAWS * number).reshape(DRAWS, number)
        parts.append(weight)
    return np.concatenate(parts, axis=1)


def _pooled(dice: np.random.Generator, counts: Sequence[int], length: int, number: int) -> Numbers:
    """Weights of `number` windows, by blocks of any of the runs."""
    import numpy as np

    total = sum(counts)
    ends = np.cumsum(counts)
    starts = dice.integers(total, size=(DRAWS, math.ceil(number / length), 1))
    run = np.searchsorted(ends, starts, side="right")
    begin, size = (ends - counts)[run], np.array(counts)[run]
    inside = (begin + (starts - begin + np.arange(length)) % size).reshape(DRAWS, -1)[:, :number]
    flat = (inside + np.arange(DRAWS)[:, None] * total).ravel()
    return np.bincount(flat, minlength=DRAWS * total).reshape(DRAWS, total).astype(float)


def _figures(dice: np.random.Generator, figure: Figure, weights: Numbers) -> Numbers:
    """Of shares with a random event more of either kind, one on average.

    Of what never happened every draw would say never. So the upper end for 0 of n is the exact one of Clopper and
    Pearson (3.7 / n at 95 %; 5.8 / n, widened for six blocks), and for the difference of two rare shares it comes
    close to the exact test.
    """
    if isinstance(figure, Values) or not figure.share:
        return figure.figure(weights)
    yes, no = dice.exponential(size=(2, len(weights)))
    shares: Numbers = (weights @ figure.above + yes) / (weights @ figure.below + yes + no)
    return shares


def _between(figure: Figure, pooled: Windows, first: int, spread: float, scale: Any) -> float:
    """By how much runs of one side differ more than their blocks let expect; 1 with one run a side."""
    import numpy as np

    alone = np.repeat(np.eye(len(pooled.counts)), pooled.counts, axis=1)
    values = scale(np.maximum(figure.figure(alone), 1e-12))
    sides = [values[:first], values[first:]]
    freedom = len(values) - 2
    if freedom < 1 or np.isnan(values).any() or spread <= 0:
        return 1.0
    variance = sum(float(((side - side.mean()) ** 2).sum()) for side in sides) / freedom
    return max(1.0, math.sqrt(variance / first) / spread)


def _few(level: float, freedom: float) -> float:
    """By how much an interval from few blocks has to be wider: Student's t instead of the normal distribution."""
    tail = (1 + level) / 2
    wider = student(tail, max(4.0, freedom)) / NormalDist().inv_cdf(tail)
    return math.sqrt((freedom + 1) / freedom) * wider if freedom > 0 else wider


def student(share: float, freedom: float) -> float:
    """Quantile of Student's t: Abramowitz and Stegun 26.7.5, good to 1 % from five degrees of freedom on."""
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
