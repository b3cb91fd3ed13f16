"""Runs cut into windows of time, for resampling: what each window has to say of one figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from loadtest.figures import ASKING, QUALITY, Good, end_s, first_text_s, quality
from loadtest.metrics import Metric
from loadtest.record import Record
from loadtest.run import WINDOW_S, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[np.float64]

#: A percentile needs so many values beyond it, a mean so many in all: with fewer, resampling them says nothing.
BEYOND, LEAST = 5, 20
#: Longer runs have wider windows, so that there are no more than this.
MOST = 300
ALL = slice(None)
#: Times that differ by less than 0.1 % are one, as in a histogram.
_SAME = 1e-3
#: Draws that are made at once, for the sake of memory.
_ROWS = 250


@dataclass(frozen=True)
class Values:
    """The figure is a percentile of times. `seconds`: ascending; `seen`: windows x seconds, how often each was."""

    seconds: Numbers
    seen: Numbers
    percent: float

    def enough(self, windows: slice = ALL) -> bool:
        return bool(self.seen[windows].sum() * (100 - self.percent) / 100 >= BEYOND)

    def figure(self, weights: Numbers) -> Numbers:
        """For each row of weights of the windows: the nearest rank; NaN without values."""
        import numpy as np

        found = [self._ranked(weights[first : first + _ROWS]) for first in range(0, len(weights), _ROWS)]
        return np.concatenate(found)

    def _ranked(self, weights: Numbers) -> Numbers:
        import numpy as np

        if not len(self.seconds):
            return np.full(len(weights), np.nan)
        below = np.cumsum(weights @ self.seen, axis=1)
        ranks = np.maximum(1, np.floor(self.percent * below[:, -1] / 100 + 0.5))
        found = self.seconds[np.argmax(below >= ranks[:, None] - 1e-6, axis=1)]
        return np.where(below[:, -1] > 0, found, np.nan)


@dataclass(frozen=True)
class Ratio:
    """The figure is the sum of the ones over the sum of the others. `share`: it counts events among others."""

    above: Numbers
    below: Numbers
    share: bool

    def enough(self, windows: slice = ALL) -> bool:
        return not self.share or bool(self.below[windows].sum() >= LEAST)

    def figure(self, weights: Numbers) -> Numbers:
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((weights @ self.above) / (weights @ self.below), np.float64)


Figure: TypeAlias = "Values | Ratio"


class Windows:
    """Runs of one load, their windows one after another. `good`: for goodput, which without it is always 0."""

    def __init__(self, runs: Sequence[Run], good: Good | None = None) -> None:
        longest_s = max(run.duration_s - run.warmup_s for run in runs)
        self._wide_s = WINDOW_S * max(1, math.ceil(longest_s / WINDOW_S / MOST))
        self._runs, self._good = runs, good
        self.counts = [max(1, math.ceil((run.duration_s - run.warmup_s) / self._wide_s)) for run in runs]
        self._starts = [sum(self.counts[:number]) for number in range(len(runs))]
        self._records = [
            (first + int((one.at_s - run.warmup_s) // self._wide_s), one)
            for first, run in zip(self._starts, runs, strict=True)
            for one in run.measured()
        ]
        self._seen: dict[str, tuple[Numbers, Numbers]] = {}

    def __len__(self) -> int:
        return sum(self.counts)

    def figure(self, metric: Metric) -> Figure:
        if metric.unit == "1/s":
            return self._rate(metric.what)
        if metric.unit == "share":
            return self._share(metric.what)
        if metric.what not in self._seen:
            rows = self._gaps() if metric.what == "gap" else self._times(metric.what)
            self._seen[metric.what] = self._table(list(rows))
        return Values(*self._seen[metric.what], metric.percent or 0.0)

    def _gaps(self) -> Iterator[tuple[int, float, int]]:
        for first, run in zip(self._starts, self._runs, strict=True):
            for number, times in run.gaps.items():
                if run.warmup_s <= number * WINDOW_S < run.duration_s:
                    window = first + int((number * WINDOW_S - run.warmup_s) // self._wide_s)
                    yield from ((window, value_s, seen) for value_s, seen in times.counts())

    def _times(self, what: str) -> Iterator[tuple[int, float, int]]:
        value_of, tasks = _TIMES[what]
        for window, one in self._records:
            if (not tasks or one.task in tasks) and (value_s := value_of(one)) is not None:
                yield window, value_s, 1

    def _table(self, rows: Sequence[tuple[int, float, int]]) -> tuple[Numbers, Numbers]:
        """The seconds that were seen, and windows x seconds."""
        import numpy as np

        if not rows:
            return np.zeros(0), np.zeros((len(self), 0))
        window, value_s, seen = (np.array(column) for column in zip(*rows, strict=True))
        steps = np.round(np.log(np.maximum(value_s, 1e-6)) / _SAME)
        kinds, column = np.unique(steps, return_inverse=True)
        flat: Numbers = np.bincount(window * len(kinds) + column, seen, len(self) * len(kinds)).astype(float)
        return np.exp(kinds * _SAME), flat.reshape(len(self), len(kinds))

    def _rate(self, what: str) -> Ratio:
        import numpy as np

        above, seconds = np.zeros(len(self)), np.full(len(self), self._wide_s)
        for first, number, run in zip(self._starts, self.counts, self._runs, strict=True):
            seconds[first + number - 1] = run.duration_s - run.warmup_s - (number - 1) * self._wide_s
            for one in run.records if what != "goodput" else ():
                for moment_s, amount in _amounts(one, what, self._wide_s):
                    if run.warmup_s <= moment_s < run.duration_s:
                        above[first + int((moment_s - run.warmup_s) // self._wide_s)] += amount
        for window, one in self._records if what == "goodput" and self._good else ():
            above[window] += self._good is not None and self._good.good(one)
        return Ratio(above, seconds, share=False)

    def _share(self, what: str) -> Ratio:
        import numpy as np

        above, below = np.zeros(len(self)), np.zeros(len(self))
        for window, one in self._records:
            if (value := _event(one, what)) is not None:
                above[window] += value
                below[window] += 1
        return Ratio(above, below, share=True)


#: How each time is told of a record, and of which tasks.
_TIMES: dict[str, tuple[Callable[[Record], float | None], Sequence[str]]] = {
    "ttft": (first_text_s, ()),
    "total": (end_s, ASKING),
    "search": (end_s, ("search",)),
    "upload": (end_s, ("upload",)),
    "dispatch": (lambda one: one.dispatch_s, ()),
}


def _amounts(one: Record, what: str, wide_s: float) -> Iterator[tuple[float, float]]:
    """What it adds to a rate, and when. The tokens of an answer are spread from its first text to its end."""
    over_s = one.ended_s
    if what == "answered_rate" and one.ok:
        yield over_s, 1.0
    if what == "tokens_out_rate" and one.tokens_out:
        since_s = one.answering_s
        parts = max(1, math.ceil(4 * (over_s - since_s) / wide_s))
        for part in range(parts):
            yield since_s + (over_s - since_s) * (part + 0.5) / parts, one.tokens_out / parts


def _event(one: Record, what: str) -> float | None:
    """None: not one of those that the share is of."""
    if what == "errors":
        return float(not one.ok)
    if not one.ok:
        return None
    if what in QUALITY:
        return quality(one, what)
    if one.task not in ASKING:
        return None
    if what in ("extractive", "no_context"):
        return float(one.outcome == what)
    return float(bool(getattr(one, what)))
