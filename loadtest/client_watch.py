"""The load tester looks at itself: how much of a core it used, and how late its event loop was. gevent."""

from __future__ import annotations

import time

import gevent

from loadtest.punctual import Alarm

#: So often the loop is asked to be punctual.
_EVERY_S = 0.005


class ClientWatch:
    """Of this process, from `zero` (of `time.monotonic`) on; make it then."""

    def __init__(self, alarm: Alarm, zero: float) -> None:
        self._alarm = alarm
        self._zero = zero
        self._cpu: list[float] = []
        self._seconds = 0
        self._lags: list[float] = []
        self._greenlets = [gevent.spawn(self._by_second), gevent.spawn(self._punctuality)]

    def stop(self) -> None:
        gevent.killall(self._greenlets)

    def taken(self) -> tuple[list[float], list[float]]:
        """What came since the last call: share of a core in each second that is over, and lags in seconds."""
        cpu, lags = self._cpu, self._lags
        self._cpu, self._lags = [], []
        return cpu, lags

    def _by_second(self) -> None:
        """A second through which the loop slept takes the mean of the time around it."""
        looked, used = time.monotonic(), time.process_time()
        while True:
            self._alarm.sleep_until(self._zero + self._seconds + 1)
            now, spent = time.monotonic(), time.process_time()
            over = int(now - self._zero) - self._seconds
            self._cpu += [(spent - used) / (now - looked)] * over
            self._seconds += over
            looked, used = now, spent

    def _punctuality(self) -> None:
        """A loop that was blocked for long was late for every look that it missed meanwhile."""
        while True:
            due = time.monotonic() + _EVERY_S
            self._alarm.sleep_until(due)
            late = time.monotonic() - due
            self._lags.append(late)
            while (late := late - _EVERY_S) > 0:
                self._lags.append(late)
