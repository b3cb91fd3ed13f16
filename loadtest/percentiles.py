"""Percentiles of times, as they are shown. Always the nearest rank, as HdrHistogram counts it: no value is made up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from loadtest.histogram import Times

_CURVE = (*range(1, 98), *(98 + tenth / 10 for tenth in range(20)), 99.95, 99.99, 99.995, 99.999)


@dataclass(frozen=True)
class Percentiles:
    """Seconds; None without values. `at_least`: so many of `count` waited in vain, and would have waited longer."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    longest: float | None
    at_least: int = 0
    times: Times = field(repr=False, compare=False, default_factory=Times)

    @classmethod
    def of(cls, values_s: Times | Iterable[float], at_least: int = 0) -> Self:
        if isinstance(values_s, Times):
            times, mean = values_s, values_s.mean()
        else:
            values = list(values_s)
            times, mean = Times.of(values), sum(values) / len(values) if values else None
        p50, p90, p95, p99 = (times.percentile(percent) for percent in (50, 90, 95, 99))
        return cls(len(times), mean, p50, p90, p95, p99, times.longest(), at_least, times)

    def at(self, percent: float) -> float | None:
        return self.times.percentile(percent)

    def curve(self) -> list[tuple[float, float]]:
        """(percent, seconds), ascending, as far as there are values to tell one percentile from the next.

        The last is (100, the longest).
        """
        if self.longest is None:
            return []
        percents = [percent for percent in _CURVE if percent <= 100 * (1 - 0.5 / self.count)]
        return [*zip(percents, self._all(percents), strict=True), (100.0, self.longest)]

    def _all(self, percents: Iterable[float]) -> Iterator[float]:
        """Of ascending percents, in one pass."""
        ranks = [rank(percent, self.count) for percent in percents]
        below = given = 0
        for value, count in self.times.counts():
            below += count
            while given < len(ranks) and ranks[given] <= below:
                yield value
                given += 1


def rank(percent: float, count: int) -> int:
    """The first is 1."""
    return max(1, int(percent * count / 100 + 0.5))


def ranked(values: Iterable[float], percent: float) -> float | None:
    """Percentile of a few values; None without."""
    ordered = sorted(values)
    return ordered[rank(percent, len(ordered)) - 1] if ordered else None
