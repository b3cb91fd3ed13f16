"""Begins a run, in all its processes at the same moment, follows it, ends it, and keeps its result. gevent.

It sits in locust's master, or in the only process of a run. What it needs of locust it is given (`Company`).
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import gevent
from gevent.event import Event

from loadtest import machine
from loadtest.exchange import Exchange
from loadtest.gathering import Gathering, Report
from loadtest.locust_options import KEY, Settings
from loadtest.part import Part
from loadtest.progress import Phase, Progress
from loadtest.run import Run, Study

logger = logging.getLogger(__name__)

#: Between telling everybody to begin and the beginning: for making texts and collecting garbage.
_LEAD_S = 0.5
#: For workers that are told to prepare: more than it takes to read a file of questions.
_PREPARE_S = 30.0
#: Beyond the time that answers have: for the last reports.
_REPORTS_S = 15.0
_LOOK_EVERY_S = 0.1
#: Who leaves so shortly before the end was stopped with it (Ctrl-C goes to all processes of a terminal).
_TOGETHER_S = 2.0


class Company(Protocol):
    """The processes of a run."""

    def here(self) -> Collection[str]:
        """Those that are alive, by the names that their messages have."""

    def tell_begin(self, node: str, part: Part) -> None:
        """Returns at once."""

    def tell_end(self, patience_s: float) -> None:
        """All: to stop asking, and to report the last; what is under way has so long. Returns at once."""

    def stop(self) -> None:
        """The test is over for locust, too."""


class Conductor:
    """Of one run."""

    def __init__(self, settings: Settings, kept: Mapping[str, Any], company: Company) -> None:
        """Raises ConfigurationError. `kept`: see `Study.settings`."""
        settings.check()
        self._settings = settings
        self._kept = kept
        self._company = company
        self._progress = Progress(settings.progress)
        self._gathering = Gathering(Run(settings.load(), 0.0, float(settings.warmup_s)))
        self._nodes = list(company.here())
        self._prepared: set[str] = set()
        self._refused = ""
        self._left: dict[str, float] = {}
        self._zero: float | None = None
        self._held_s: float | None = None
        self._ended = Event()
        self._concluded = self._cancelled = False
        self.over = Event()
        self._model = ""
        self._machine: dict[str, Any] = {}
        self._said: dict[str, str] = {}
        self._writer = gevent.spawn(self._write_progress)

    def wait_ready(self) -> None:
        """For the server. Raises Unavailable, ConfigurationError."""
        exchange = Exchange(self._settings.target)
        exchange.wait_ready(self._settings.ready_s)
        self._model = exchange.choose_model()
        self._said = exchange.said()
        exchange.close()
        self._machine = machine.describe("locust")

    def prepared(self, node: str, refused: str = "") -> None:
        """`refused`: why it cannot take part."""
        late = self._zero is not None and node not in self._prepared
        self._prepared.add(node)
        self._refused = self._refused or refused
        if late:
            self._join(node)

    def take(self, node: str, report: Report) -> None:
        for record in report.records:
            self._progress.add(record)
        self._gathering.take(node, report, self._clock())
        if report.last and self._held_s is None:
            self._left[node] = self._clock()

    def _join(self, node: str) -> None:
        """Of an open loop nothing is missing: those who were there share the schedule."""
        if self._settings.arrivals is None:
            self._gathering.join(node, max(0.0, self._clock()))

    def conduct(self) -> str:
        """Until the run is over and concluded; returns why it could not even begin, or nothing."""
        deadline = time.monotonic() + _PREPARE_S
        while self._nodes and not self._prepared.issuperset(self._nodes) and time.monotonic() < deadline:
            gevent.sleep(_LOOK_EVERY_S / 10)
            self._nodes = [node for node in self._nodes if node in self._company.here()]
        if self._refused or self._cancelled:
            return self._refused
        nodes = [node for node in self._nodes if node in self._prepared]
        if not nodes:
            return "no worker is there to make the load"
        self._begin(nodes)
        for node in self._nodes:
            if node not in self._prepared:  # within its time; locust has given it users all the same
                self._prepared.add(node)
                self._join(node)
        while not self._is_over():
            gevent.sleep(min(_LOOK_EVERY_S, max(0.001, self._left_s())))
            self._look_for_lost()
        if self._held_s is None:
            self._company.stop()
        self.over.wait()
        return ""

    def end(self, patience_s: float, *, together: bool) -> None:
        """No more load. `together`: waits until all have reported the last, answers have so long."""
        if self._zero is None:
            self._cancelled = True
            self._writer.kill()
        if self._held_s is not None or self._zero is None:
            return
        clock = max(0.0, self._clock())
        self._held_s = min(clock, self._settings.duration_s or clock)
        if together:
            self._company.tell_end(patience_s)
            self._wait_for_reports(patience_s + _REPORTS_S)
        self._ended.set()

    def abandon(self, *, together: bool) -> None:
        """What is under way has no more time."""
        if together and self._held_s is not None:
            self._company.tell_end(0.0)
            self._wait_for_reports(_REPORTS_S)
        self._ended.set()

    def conclude(self) -> Run | None:
        """The result, kept; None where nothing has begun, or it was concluded. Raises ConfigurationError."""
        if self._concluded or self._held_s is None:
            return None
        self._ended.wait()
        if self._concluded:
            return None
        self._concluded = True
        try:
            return self._kept_run(self._held_s)
        finally:
            self.over.set()

    def _kept_run(self, held_s: float) -> Run:
        self._writer.kill()
        for node, t_s in self._left.items():
            if t_s < held_s - _TOGETHER_S:
                self._gathering.leave(node)
        run = self._gathering.finish(held_s)
        self._progress.write(max(0.0, self._clock()), 0, "over")
        if self._settings.result is not None:
            self._study(run).save(self._settings.result)
        for reason in run.void:
            logger.error("This run is void: %s", reason)
        return run

    def _wait_for_reports(self, longest_s: float) -> None:
        deadline = time.monotonic() + longest_s
        while self._gathering.awaited and time.monotonic() < deadline:
            gevent.sleep(_LOOK_EVERY_S / 10)
            self._look_for_lost()

    def _begin(self, nodes: list[str]) -> None:
        run = self._gathering.run
        self._gathering.expect(nodes)
        self._salt = self._settings.workload.salt or secrets.token_hex(4)
        self._zero = time.monotonic() + _LEAD_S
        run.started_at = (datetime.now(UTC) + timedelta(seconds=_LEAD_S)).isoformat(timespec="milliseconds")
        for index, node in enumerate(nodes):
            part = Part(index, len(nodes), _LEAD_S, self._settings.duration_s, self._model, self._salt)
            self._company.tell_begin(node, part)

    def _clock(self) -> float:
        return 0.0 if self._zero is None else time.monotonic() - self._zero

    def _left_s(self) -> float:
        duration = self._settings.duration_s
        return _LOOK_EVERY_S if duration is None else duration - self._clock()

    def _is_over(self) -> bool:
        answers = self._settings.answers
        return (
            self._held_s is not None
            or self._left_s() <= 0
            or not self._gathering.awaited
            or 0 < answers <= self._progress.done + self._progress.failed
        )

    def _look_for_lost(self) -> None:
        here = self._company.here()
        for node in self._gathering.awaited:
            if node not in here:
                self._gathering.lose(node)

    def _write_progress(self) -> None:
        while True:
            self._progress.write(max(0.0, self._clock()), self._gathering.in_flight, self._phase())
            gevent.sleep(1.0)

    def _phase(self) -> Phase:
        if self._held_s is not None:
            return "draining"
        if self._zero is None or self._clock() < 0:
            return "waiting"
        return "warm-up" if self._clock() < self._settings.warmup_s else "measuring"

    def _study(self, run: Run) -> Study:
        target = self._settings.target
        key = os.environ.get(KEY)
        described = dict(self._machine)
        if key:  # whoever put it on the command line gets it into no result
            described["command"] = described["command"].replace(key, "***")
        return Study(
            runs=[run],
            settings={**self._kept, "salt": self._salt},
            machine=described,
            target={"url": target.url, "model": self._model, "plain": target.plain, **self._said},
        )
