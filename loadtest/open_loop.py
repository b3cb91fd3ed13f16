"""An open loop: each request starts when the schedule says, whatever became of those before it. gevent.

Nothing here holds a request back: each has a greenlet of its own, and there is no pool.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator

import gevent
from gevent.pool import Group
from locust import User, constant, task
from locust.log import greenlet_exception_logger

from loadtest.punctual import Alarm
from loadtest.workload import Ask


class Arrivals(User):  # type: ignore[misc] # locust is untyped
    """Stands in locust's web UI for everybody who comes by schedule; it does nothing itself."""

    abstract = True
    wait_time = constant(3600)

    @task  # type: ignore[untyped-decorator]
    def wait_for_nobody(self) -> None:
        return


class OpenLoop:
    """Starts `perform(ask, at_s)` at each moment of `schedule`, in seconds after `zero` (of `time.monotonic`)."""

    def __init__(
        self,
        alarm: Alarm,
        zero: float,
        schedule: Iterator[tuple[int, float]],
        ask: Callable[[int], Ask],
        perform: Callable[[Ask, float], None],
    ) -> None:
        self._alarm = alarm
        self._zero = zero
        self._schedule = schedule
        self._ask = ask
        self._perform = perform
        self._under_way = Group()
        #: When the next is due, and after when none is started any more (of `time.monotonic`).
        self._due, self._last = zero, math.inf
        self._failed = greenlet_exception_logger(logging.getLogger(__name__))
        self._dispatcher = gevent.spawn(self._dispatch)
        self._dispatcher.link_exception(self._failed)

    def _dispatch(self) -> None:
        for number, at_s in self._schedule:
            self._due = self._zero + at_s
            if self._due > self._last:
                return
            ask = self._ask(number)  # before the wait, so that it makes nobody late
            self._alarm.sleep_until(self._due)
            self._under_way.spawn(self._perform, ask, at_s).link_exception(self._failed)

    def end(self) -> None:
        """Nothing more is started but what was due by now: a client that was late must not forget whom it let wait."""
        self._last = time.monotonic()
        if self._due > self._last:
            self._dispatcher.kill()

    def drain(self, until: float) -> None:
        """Waits for those under way until that moment (of `time.monotonic`), then ends them."""
        for each in (self._dispatcher, self._under_way):
            each.join(timeout=max(0.0, until - time.monotonic()))
            each.kill()
