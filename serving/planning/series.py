"""What Serve's controller knows of the load: gauges sampled and pushed now and then, averaged over a while.

As `serve/_private/router.py` and `autoscaling_state.py` of Ray 2.60 do it, with one handle: every `record_s` it notes
what is queued and what each replica has in work, keeps the last `look_back_s` and sends all of it every `push_s`. The
controller takes the mean over time of their sum, from when the last of the series began until now.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from itertools import pairwise

#: The series of requests that wait in the handle; replicas are named by their numbers.
QUEUED = -1

_Points = list[tuple[float, float]]


class Handle:
    """`look_back_s`, and the intervals. The caller calls `record` and `push` at their times."""

    def __init__(self, look_back_s: float, metrics_interval_s: float) -> None:
        self.look_back_s = look_back_s
        self.push_s = metrics_interval_s
        #: `min(look_back * RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR, metrics_interval_s)`.
        self.record_s = min(0.2 * look_back_s, metrics_interval_s)
        self._points: dict[int, _Points] = {}
        self._pushed: dict[int, _Points] = {}
        self._total: Total | None = None
        self._running: frozenset[int] = frozenset()

    def record(self, now: float, queued: float, in_work: Mapping[int, int]) -> None:
        self._points.setdefault(QUEUED, []).append((now, queued))
        for replica, requests in in_work.items():
            self._points.setdefault(replica, []).append((now, float(requests)))
        self._prune(now)

    def push(self, now: float, queued: float, in_work: Mapping[int, int]) -> None:
        """What was recorded; the present value only of what never was."""
        self._prune(now)
        current = {QUEUED: queued, **in_work}
        self._pushed = {name: list(self._points.get(name) or [(now, current[name])]) for name in current}
        self._total = None

    def total(self, now: float, running: Iterable[int]) -> float:
        """Requests queued and in work as the controller sees them now."""
        present = frozenset(running)
        if self._total is None or present != self._running:
            self._running = present
            series = [points for name, points in self._pushed.items() if name == QUEUED or name in present]
            self._total = Total(series)
        return self._total.mean(now)

    def _prune(self, now: float) -> None:
        since = now - self.look_back_s
        for name, points in list(self._points.items()):
            if points[-1][0] < since:
                del self._points[name]
            elif points[0][0] < since:
                del points[: bisect.bisect_left(points, (since,))]


class Total:
    """The sum of several gauges that keep their value between points, and its mean until any later moment."""

    def __init__(self, series: list[_Points]) -> None:
        series = [points for points in series if points]
        merged = series[0] if len(series) == 1 else _merge(series)
        self._begin = merged[0][0] if merged else 0.0
        if len(series) > 1 and merged:
            aligned = max(points[0][0] for points in series)
            if aligned <= merged[-1][0]:
                self._begin = max(aligned, self._begin)
        self._area = 0.0
        self._at, self._value = merged[-1] if merged else (0.0, 0.0)
        for (start, value), (end, _) in pairwise(merged):
            self._area += value * max(0.0, end - max(start, self._begin))

    def mean(self, now: float) -> float:
        # The last value holds until now; a moment at least, as Serve has it for clocks that differ.
        last = now - self._at if now > self._at else 1e-3
        span = self._at - self._begin + last
        return (self._area + self._value * last) / span


def _merge(series: list[_Points]) -> _Points:
    """The sum at each moment at which one of them changed."""
    changes: dict[float, float] = {}
    for points in series:
        before = 0.0
        for at, value in points:
            if value != before:
                moment = round(at, 2)
                changes[moment] = changes.get(moment, 0.0) + value - before
                before = value
    total, merged = 0.0, []
    for at in sorted(changes):
        total += changes[at]
        merged.append((at, total))
    return merged
