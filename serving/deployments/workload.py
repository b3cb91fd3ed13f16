"""What a replica has to do, as it tells Serve's controller (`record_autoscaling_stats`)."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.deployments.scaling import SETTLE_S

#: Names in a replica's report: work in flight (the mean since the last report), the part of its time that it computed,
#: and the p95 of recent times to first token in seconds.
WORK, BUSY, TTFT = "work", "busy", "ttft_p95_s"

#: Of fewer first tokens a p95 says nothing.
_FEWEST = 5

Clock = Callable[[], float]


class Meter:
    """The mean over time of what is counted up and down: what comes and goes between two looks counts, too."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._now = 0.0
        self._area = 0.0
        self._since = self._at = clock()

    def add(self, amount: float) -> None:
        self._catch_up()
        # What was added in parts leaves no crumbs.
        self._now = 0.0 if abs(self._now + amount) < 1e-9 else self._now + amount

    @contextmanager
    def held(self, amount: float = 1.0) -> Iterator[None]:
        """`amount` more for as long as the block runs."""
        self.add(amount)
        try:
            yield
        finally:
            self.add(-amount)

    def mean(self) -> float:
        """Since the last call."""
        self._catch_up()
        elapsed = self._at - self._since
        mean = self._area / elapsed if elapsed > 0 else self._now
        self._area, self._since = 0.0, self._at
        return mean

    def _catch_up(self) -> None:
        now = self._clock()
        self._area += self._now * (now - self._at)
        self._at = now


class FirstTokens:
    """Times to first token of the last SETTLE_S; who still waits has waited at least as long as until now."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[int, float] = {}
        self._came: deque[tuple[float, float]] = deque()
        self._next = 0

    def begin(self) -> int:
        """A request that waits for its first token."""
        self._next += 1
        self._waiting[self._next] = self._clock()
        return self._next

    def came(self, number: int) -> None:
        """Its first token; later ones of the same request count no more."""
        began = self._waiting.pop(number, None)
        if began is not None:
            self._came.append((self._clock(), self._clock() - began))

    def gone(self, number: int) -> None:
        """It ended, with a first token or without."""
        self._waiting.pop(number, None)

    def p95(self) -> float | None:
        """Seconds; None after too few."""
        now = self._clock()
        while self._came and self._came[0][0] < now - SETTLE_S:
            self._came.popleft()
        times = [took for _, took in self._came] + [now - began for began in self._waiting.values()]
        if len(times) < _FEWEST:
            return None
        return sorted(times)[math.ceil(0.95 * len(times)) - 1]


class Requests:
    """The work of an engine: requests in flight, and how fast they are answered."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._in_flight = Meter(clock)
        self._first_tokens = FirstTokens(clock)

    @contextmanager
    def one(self) -> Iterator[Callable[[], None]]:
        """A request, for as long as the block runs; what it yields is called when a token is there."""
        number = self._first_tokens.begin()
        try:
            with self._in_flight.held():
                yield lambda: self._first_tokens.came(number)
        finally:
            self._first_tokens.gone(number)

    def report(self) -> dict[str, float]:
        """What `record_autoscaling_stats` returns."""
        p95 = self._first_tokens.p95()
        return {WORK: self._in_flight.mean()} | ({} if p95 is None else {TTFT: p95})


class Turns:
    """The part of its time that this thread, an event loop's, computes."""

    def __init__(self) -> None:
        self._before = (time.monotonic(), time.thread_time())

    def report(self) -> dict[str, float]:
        """What `record_autoscaling_stats` returns; to be called in the event loop's thread."""
        now = (time.monotonic(), time.thread_time())
        elapsed, computed = (after - before for after, before in zip(now, self._before, strict=True))
        self._before = now
        return {BUSY: max(0.0, computed / elapsed) if elapsed > 0 else 0.0}
