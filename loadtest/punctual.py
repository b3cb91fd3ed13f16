"""Waking at a moment, to a tenth of a millisecond. gevent.

gevent sleeps by the time-out of epoll_wait, which counts whole milliseconds: up to 1 ms late, which would be part of
every time that is counted from an intended start. A timerfd wakes the same epoll when it is due.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import time
from typing import Any

import gevent
from gevent.hub import Waiter

_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1  # <time.h>, <sys/timerfd.h>


class _Timerspec(ctypes.Structure):
    """struct itimerspec: interval, then value, each in seconds and nanoseconds."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """For any number of greenlets of one process. Where there is no timerfd (macOS), they sleep as gevent does."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(None)
        self._due: list[tuple[float, int, Any]] = []
        self._numbers = itertools.count()
        self._watcher: Any = None
        if hasattr(self._library, "timerfd_create"):
            self._fd = self._library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if self._fd >= 0:
                self._watcher = gevent.get_hub().loop.io(self._fd, 1)
                self._watcher.start(self._ring)

    def close(self) -> None:
        """Nobody may wait any more."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            os.close(self._fd)

    def sleep_until(self, moment: float) -> None:
        """Of `time.monotonic`. Lets others run even where the moment has passed."""
        left = moment - time.monotonic()
        if left <= 0 or self._watcher is None:
            gevent.sleep(max(0.0, left))
            return
        waiter = Waiter()
        entry = (moment, next(self._numbers), waiter)
        heapq.heappush(self._due, entry)
        if self._due[0] is entry:
            self._set()
        waiter.get()

    def _set(self) -> None:
        whole = max(1, round(self._due[0][0] * 1e9))
        spec = _Timerspec(0, 0, whole // 10**9, whole % 10**9)
        self._library.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None)

    def _ring(self) -> None:
        """In the hub. A waiter whose greenlet was killed meanwhile takes the call and does nothing."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew after it rang
            return
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2].switch(None)
        if self._due:
            self._set()
