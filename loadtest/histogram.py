"""Times as HDR histograms: three digits, from a microsecond to an hour, the same however many are merged.

The only user of `hdrh`. Percentiles of merged histograms are those of all their values in one; averages of
percentiles are not, so nothing here can make them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3600 * 10**6, 3


class Times:
    """Values in seconds. What is above an hour counts as an hour."""

    def __init__(self) -> None:
        self._all: Any = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

    @classmethod
    def of(cls, values_s: Iterable[float]) -> Self:
        times = cls()
        for value in values_s:
            times.add(value)
        return times

    @classmethod
    def decoded(cls, text: str) -> Self:
        """Of `encoded`. Raises ValueError for anything else."""
        times = cls()
        try:
            times._all.decode_and_add(text)
        except Exception as error:  # hdrh raises whatever its parts do: zlib, base64, its own
            raise ValueError(f"not an HDR histogram: {text[:40]!r}") from error
        return times

    def encoded(self) -> str:
        """HdrHistogram's own compressed V2 format, in base64."""
        return bytes(self._all.encode()).decode()

    def add(self, value_s: float) -> None:
        self._all.record_value(min(_HIGHEST_US, max(_LOWEST_US, round(value_s * 1e6))))

    def merge(self, other: Times) -> None:
        self._all.add(other._all)

    def __len__(self) -> int:
        return int(self._all.get_total_count())

    def percentile(self, percent: float) -> float | None:
        """Seconds; None without values."""
        return self._all.get_value_at_percentile(percent) / 1e6 if len(self) else None

    def mean(self) -> float | None:
        return self._all.get_mean_value() / 1e6 if len(self) else None

    def longest(self) -> float | None:
        return self._all.get_max_value() / 1e6 if len(self) else None

    def counts(self) -> Iterator[tuple[float, int]]:
        """Seconds and how often, ascending: a value stands for those that differ from it by less than 0.1 %."""
        # hdrh's own iterator takes 30 ms, this less than 1 ms: not object by object, and only where values can be.
        if not len(self):
            return
        first, last = (self._all._counts_index_for(end) for end in (self._all.min_value, self._all.max_value))
        for index, count in enumerate(self._all.counts[first : last + 1], first):
            if count:
                value = self._all.get_value_from_index(index)
                yield self._all.get_highest_equivalent_value(value) / 1e6, count
