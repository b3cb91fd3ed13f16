"""One process's part in a run: it asks, keeps what its users lived, watches itself, and reports. gevent, locust."""

from __future__ import annotations

import gc
import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gevent
from gevent.event import Event

from loadtest.arrivals import share
from loadtest.client_watch import ClientWatch
from loadtest.exchange import Exchange
from loadtest.gathering import MOST_RECORDS, Report
from loadtest.locust_options import Settings
from loadtest.open_loop import OpenLoop
from loadtest.part import Part
from loadtest.punctual import Alarm
from loadtest.question_file import read_questions
from loadtest.record import Record, Task
from loadtest.workload import Ask, Workload

_REPORT_EVERY_S = 1.0
#: Collections of garbage are pauses: gaps that no server made. By default, each time that the objects have grown by a
#: quarter all are looked through: 88 ms with locust's own 200,000. Here what is there at the start is never looked at
#: again, nor what has lived through two looks (records, which stay anyway): 4 ms is the longest pause of 100,000
#: records.
_GC_THRESHOLDS = (5_000, 5, 100_000)
#: What locust's statistics call the ends of these.
_NAMES: Mapping[Task, str] = {
    "stream": "answer",
    "ask": "whole answer",
    "turn": "turn",
    "search": "search",
    "upload": "upload",
}
#: In those statistics, which keep and show each for ever: a server may say something else each time.
_MOST_MESSAGES = 50
_MIX = "mix"


class Failed(Exception):
    """For locust's statistics: the kind of error, and what was said of it."""


class Asking:
    """Make it when a run is prepared, `begin` it when all are; `report` takes what happened since the last report.

    `at_once`: report each record as it comes, which costs nothing in the process that gathers them.
    """

    def __init__(
        self, settings: Settings, request_event: Any, report: Callable[[Report], None], *, at_once: bool = False
    ) -> None:
        """Raises ConfigurationError."""
        self.settings = settings
        self.begun = Event()
        self._fire = request_event.fire
        self._send = report
        self._most = 1 if at_once else MOST_RECORDS
        #: By task for a closed loop, whose users know what they do; by the mix for an open one.
        self._workloads = _workloads(settings)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._records: list[Record] = []
        self._sent = itertools.count()
        self._numbers = itertools.count()
        self._messages: set[str] = set()
        self._in_flight = 0
        self._over = False
        self._reported = Event()
        self._open: OpenLoop | None = None

    def begin(self, part: Part) -> None:
        """Waits until it has begun."""
        zero = time.monotonic() + part.in_s
        self._part = part
        self._zero = zero
        self._alarm = Alarm()
        self._exchange = Exchange(replace(self.settings.target, model=part.model))
        self._workloads = {task: one.salted(part.salt) for task, one in self._workloads.items()}
        self._calm()
        self._alarm.sleep_until(zero)
        self._watch = ClientWatch(self._alarm, zero)
        self._reporter = gevent.spawn(self._report_by_second)
        arrivals = self.settings.arrivals
        if arrivals is not None:
            times = arrivals.times(part.duration_s or 0.0, self.settings.workload.seed)
            schedule = share(times, part.index, part.of)
            self._open = OpenLoop(self._alarm, zero, schedule, self._workloads[_MIX].ask, self.perform)
        self.begun.set()

    def clock(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self._zero

    def sleep_until(self, at_s: float) -> None:
        self._alarm.sleep_until(self._zero + at_s)

    def next(self, task: Task) -> Ask:
        """What somebody of a closed loop asks. The processes take numbers by turns."""
        number = next(self._numbers) * self._part.of + self._part.index
        return self._workloads[task].ask(number)

    def perform(self, ask: Ask, at_s: float) -> None:
        self._in_flight += 1
        try:
            for record in self._exchange.perform(ask, at_s, self.clock):
                self._keep(record)
        finally:
            self._in_flight -= 1

    def stop_asking(self) -> None:
        """An open loop starts nothing more; users of a closed one are locust's to stop."""
        if self._open is not None:
            self._open.end()

    def finish(self, patience_s: float) -> None:
        """After everybody has stopped asking. What is under way has so long, then it is ended.

        Whoever comes second waits for the first.
        """
        if not self.begun.is_set():
            return
        if self._over:
            self._reported.wait()
            return
        self._over = True
        if self._open is not None:
            self._open.drain(time.monotonic() + patience_s)
        self._reporter.kill()
        self._watch.stop()
        self._report(last=True)
        self._exchange.close()
        self._alarm.close()
        gc.unfreeze()
        self._reported.set()

    def abandon(self) -> None:
        """What is under way is ended now."""
        if self._open is not None:
            self._open.drain(time.monotonic())

    def _calm(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    def _keep(self, record: Record) -> None:
        if (key := self.settings.target.api_key) and key in record.message:  # a server that repeats what it refuses
            record.message = record.message.replace(key, "***")
        self._count(record)
        self._records.append(record)
        if len(self._records) >= self._most:
            self._report()

    def _count(self, record: Record) -> None:
        """In locust's own statistics: what its web page shows."""
        if record.ttft_s is not None:
            self._tell("TTFT", "first token", record.ttft_s)
        self._tell(record.task.upper(), _NAMES[record.task], record.total_s, self._failed(record))

    def _failed(self, record: Record) -> Failed | None:
        if record.error is None:
            return None
        said = f"{record.error}: {record.message}"
        if len(self._messages) < _MOST_MESSAGES:
            self._messages.add(said)
        return Failed(said if said in self._messages else record.error)

    def _tell(self, kind: str, name: str, seconds: float, error: Exception | None = None) -> None:
        self._fire(
            request_type=kind,
            name=name,
            response_time=1000 * seconds,
            response_length=0,
            exception=error,
            context={},
        )

    def _report_by_second(self) -> None:
        for second in itertools.count(1):
            self._alarm.sleep_until(self._zero + second * _REPORT_EVERY_S)
            self._report()

    def _report(self, *, last: bool = False) -> None:
        records, self._records = self._records, []
        cpu, lags = self._watch.taken()
        self._send(Report(self._name, next(self._sent), records, cpu, lags, self._in_flight, last))


def _workloads(settings: Settings) -> dict[str, Workload]:
    """Raises ConfigurationError."""
    if settings.arrivals is not None:
        return {_MIX: Workload.read(settings.workload, settings.arrivals.lengths)}
    questions = read_questions(settings.workload.questions)
    return {task: Workload(replace(settings.workload, mix=task), questions) for task in _NAMES}
