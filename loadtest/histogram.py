"""Times as HDR histograms: three digits, from a microsecond to an hour, the same however many are merged.

The only user of `hdrh`. Percentiles of merged histograms are those of all their values in one; averages of
percentiles are not, so nothing here can make them.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Self

from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3600 * 10**6, 3
#: What hdrh raises for a text that is none of its histograms: its own, and whatever its parts do.
_DAMAGED = (
    *(HdrCookieException, HdrHistogramSettingsException, HdrLengthException, zlib.error),
    *(ValueError, TypeError, IndexError, RuntimeError),
)


class Times:
    """Values in seconds. What is above an hour counts as an hour. It takes 190 KB, or less when folded: see `fold`."""

    def __init__(self) -> None:
        self._unfolded: Any = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
        self._folded = ""

    @classmethod
    def of(cls, values_s: Iterable[float]) -> Self:
        times = cls()
        times.add_all(values_s)
        return times

    @classmethod
    def decoded(cls, text: str) -> Self:
        """Of `encoded`. Raises ValueError for anything else."""
        times = cls.__new__(cls)
        times._unfolded, times._folded = _histogram(text), ""
        return times

    def encoded(self) -> str:
        """HdrHistogram's own compressed V2 format, in base64."""
        return self._folded or bytes(self._unfolded.encode()).decode()

    def fold(self) -> None:
        """Keeps it as small as it is encoded. The same as before for whoever uses it, half a millisecond later."""
        if self._folded:
            return
        self._folded = self.encoded()
        # It and its encoder know each other: else both would wait for a collector that seldom comes where load is made.
        del self._unfolded.encoder
        self._unfolded = None

    def add_all(self, values_s: Iterable[float]) -> None:
        self._unfold()
        # What came at once has the same gaps, of nothing, by the hundred.
        for value, count in Counter([round(value_s * 1e6) for value_s in values_s]).items():
            self._unfolded.record_value(min(_HIGHEST_US, max(_LOWEST_US, value)), count)

    def merge(self, other: Times) -> None:
        self._unfold()
        self._unfolded.add(other._all)

    def __len__(self) -> int:
        return int(self._all.get_total_count())

    def percentile(self, percent: float) -> float | None:
        """Seconds; None without values."""
        return self._all.get_value_at_percentile(percent) / 1e6 if len(self) else None

    def mean(self) -> float | None:
        return sum(value_s * count for value_s, count in self.counts()) / len(self) if len(self) else None

    def longest(self) -> float | None:
        return self._all.get_max_value() / 1e6 if len(self) else None

    def counts(self) -> Iterator[tuple[float, int]]:
        """Seconds and how often, ascending: a value stands for those that differ from it by less than 0.1 %."""
        # hdrh's own iterator, which its mean uses too, takes 30 ms, this less than 1 ms: not object by object, and
        # only where values can be.
        if not len(self):
            return
        histogram = self._all
        first, last = (histogram._counts_index_for(end) for end in (histogram.min_value, histogram.max_value))
        for index, count in enumerate(histogram.counts[first : last + 1], first):
            if count:
                value = histogram.get_value_from_index(index)
                yield histogram.get_highest_equivalent_value(value) / 1e6, count

    @property
    def _all(self) -> Any:
        """To look at."""
        return _histogram(self._folded) if self._folded else self._unfolded

    def _unfold(self) -> None:
        if self._folded:
            self._unfolded, self._folded = self._all, ""


def _histogram(text: str) -> Any:
    """Raises ValueError for a text that is none."""
    try:
        return HdrHistogram.decode(text)
    except _DAMAGED as error:
        raise ValueError(f"not an HDR histogram: {text[:40]!r}") from error
