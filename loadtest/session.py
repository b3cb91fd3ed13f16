"""What a run needs of locust: who is there, messages between them, when it starts and stops, exit codes. locust.

    test starts ─▶ the server is ready, everybody has prepared ─▶ begin ─▶ … ─▶ end ─▶ what is under way ends ─▶ result

Master and workers each have a `Session`; a local run's only process is both.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Collection
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.event import Event
from locust.runners import STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from loadtest import workload
from loadtest.asking import Asking
from loadtest.conductor import Conductor
from loadtest.gathering import Report
from loadtest.locust_options import Settings, as_kept
from loadtest.open_loop import Arrivals
from loadtest.part import Part
from loadtest.users import PEOPLE
from serving.errors import AnchorageError, ConfigurationError

logger = logging.getLogger(__name__)

ERRORS, WRONG, VOID = 1, 2, 4
_PREPARED, _REPORT, _BEGIN, _END = (f"anchorage_{name}" for name in ("prepared", "report", "begin", "end"))
_LOCAL = "local"
#: After SIGTERM, for what is under way.
_HURRY_S = 5.0
#: After Ctrl-C, a worker gives its master so long to end the run.
_MASTER_S = 5.0


class Session:
    """Of one locust process; of several runs, where somebody starts them on the web page."""

    def __init__(self, environment: Any) -> None:
        """Ends the process where the options are wrong."""
        self._environment = environment
        self._runner = environment.runner
        self._options = environment.parsed_options
        self._is_worker = isinstance(self._runner, WorkerRunner)
        self._is_master = isinstance(self._runner, MasterRunner)
        self._asking: Asking | None = None
        self._conductor: Conductor | None = None
        self._duration_s: float | None = None
        self._ending = False
        environment.begun = environment.asking = None
        self._check()
        self._listen()
        if self._is_worker and self._runner.worker_state in (STATE_SPAWNING, STATE_RUNNING):
            # Locust connects to its master before it makes us: the test started meanwhile, and we did not hear of it.
            self._start(environment)

    def _check(self) -> None:
        """Takes over `--run-time` from locust: its timer starts before the server is ready and all have begun."""
        options = self._options
        try:
            self._environment.user_classes[:] = self._user_classes()
            if self._is_worker:
                return
            if options.headless:
                self._duration_s, options.run_time = options.run_time, None
            if options.headless or options.autostart:
                settings = self._settings()
                settings.check()
                workload.Workload.read(settings.workload, settings.arrivals.lengths if settings.arrivals else ())
        except ConfigurationError as error:
            logger.error("%s", error)
            sys.exit(WRONG)

    def _user_classes(self) -> list[type]:
        """Those of the mix, or that were named; a worker knows all, and is told which. Others' classes stay."""
        known = self._environment.user_classes
        others = [each for each in known if each not in PEOPLE]
        if self._is_worker:
            Arrivals.abstract = False
            return [*PEOPLE, Arrivals, *others]
        weights = workload.mix(self._options.mix)
        if self._options.arrivals:
            Arrivals.abstract = False
            return [Arrivals, *others]
        named = self._options.user_classes
        people = [each for each in PEOPLE if each in known and (named or weights.get(each.does))]
        for each in people:
            each.weight = weights.get(each.does) or 1
        return [*people, *others]

    def _settings(self) -> Settings:
        return Settings.of(self._options, self._environment.host, self._duration_s or self._options.run_time)

    def _listen(self) -> None:
        events = self._environment.events
        events.test_start.add_listener(self._start)
        events.test_stopping.add_listener(self._stop_asking)
        events.test_stop.add_listener(self._finish)
        events.quitting.add_listener(self._quit)
        if self._is_master:
            self._runner.register_message(_PREPARED, self._on_prepared)
            self._runner.register_message(_REPORT, self._on_report)
        if self._is_worker:
            # Each in a greenlet: they take their time, and heartbeats must be answered meanwhile.
            self._runner.register_message(_BEGIN, self._on_begin, concurrent=True)
            self._runner.register_message(_END, self._on_end, concurrent=True)
        gevent.signal_handler(signal.SIGTERM, self._hurry)  # locust's own comes after it, and ends the run
        gevent.signal_handler(signal.SIGINT, self._interrupt)

    # Of a run that starts.

    def _start(self, environment: Any, **_: Any) -> None:
        environment.begun, environment.asking, environment.process_exit_code = Event(), None, None
        self._ending = False
        try:
            if self._is_worker:
                self._prepare_worker()
                return
            settings = self._settings()
            self._conductor = Conductor(settings, as_kept(self._options), self)
            self._conductor.wait_ready()
            if not self._is_master:
                self._asking = Asking(settings, environment.events.request, self._take_here, at_once=True)
                self._conductor.prepared(_LOCAL)
        except AnchorageError as error:
            self._refuse(str(error), WRONG if isinstance(error, ConfigurationError) else ERRORS)
            raise GreenletExit from error
        gevent.spawn(self._conduct, self._conductor)

    def _prepare_worker(self) -> None:
        refused = ""
        try:
            settings = Settings.of(self._options, self._environment.host, None)
            self._asking = Asking(settings, self._environment.events.request, self._send_report)
        except ConfigurationError as error:
            self._asking, refused = None, str(error)
        self._runner.send_message(_PREPARED, {"refused": refused})

    def _conduct(self, conductor: Conductor) -> None:
        try:
            if refused := conductor.conduct():
                self._refuse(refused, WRONG)
            elif self._options.headless:  # locust stops, but does not end, where the last worker was lost
                self._runner.quit()
        except Exception:  # the edge of this greenlet: without it the run would never end
            logger.exception("The run cannot go on")
            self._refuse("an error in the load tester itself", ERRORS)

    def _refuse(self, why: str, code: int) -> None:
        logger.error("%s", why)
        self._environment.process_exit_code = code
        gevent.spawn(self.stop)

    # What the conductor is given (`Company`).

    def here(self) -> Collection[str]:
        if not self._is_master:
            return [_LOCAL]
        return [client.id for client in self._runner.clients.all if client.state != STATE_MISSING]

    def tell_begin(self, node: str, part: Part) -> None:
        if self._is_master:
            self._runner.send_message(_BEGIN, vars(part), client_id=node)
        else:
            gevent.spawn(self._begin, part)

    def tell_end(self, patience_s: float) -> None:
        self._runner.send_message(_END, {"patience_s": patience_s})

    def stop(self) -> None:
        if self._options.headless:
            self._runner.quit()
        else:
            self._runner.stop()

    # Messages, and what is a call where there is but one process.

    def _on_prepared(self, msg: Any, **_: Any) -> None:
        if self._conductor:
            self._conductor.prepared(msg.node_id, msg.data["refused"])

    def _on_report(self, msg: Any, **_: Any) -> None:
        if self._conductor:
            self._conductor.take(msg.node_id, Report.unpacked(msg.data))

    def _on_begin(self, msg: Any, **_: Any) -> None:
        self._begin(Part(**msg.data))

    def _on_end(self, msg: Any, **_: Any) -> None:
        self._environment.stop_timeout = msg.data["patience_s"]
        if self._ending:
            self._abandon()
        self._runner.stop()

    def _begin(self, part: Part) -> None:
        if self._asking:
            self._asking.begin(part)
            self._environment.asking = self._asking
            self._environment.begun.set()

    def _take_here(self, report: Report) -> None:
        if self._conductor:
            self._conductor.take(_LOCAL, report)

    def _send_report(self, report: Report) -> None:
        self._runner.send_message(_REPORT, report.packed())

    # Of a run that stops, for whatever reason.

    def _stop_asking(self, environment: Any, **_: Any) -> None:
        self._ending = True
        if self._asking:
            self._asking.stop_asking()
            environment.begun.set()
        if self._conductor:
            self._conductor.end(self._environment.stop_timeout, together=self._is_master)

    def _finish(self, **_: Any) -> None:
        if self._asking:
            self._asking.finish(self._environment.stop_timeout)
        if self._is_worker:
            # Nothing is under way now, so locust need not wait for it before it takes the next run.
            self._environment.stop_timeout = 0.0
        self._conclude()

    def _conclude(self) -> None:
        try:
            run = self._conductor.conclude() if self._conductor else None
        except ConfigurationError as error:
            logger.error("%s", error)
            self._environment.process_exit_code = WRONG
            return
        if run is not None and run.void:
            self._environment.process_exit_code = VOID

    def _hurry(self) -> None:
        """Whoever sends SIGTERM sends SIGKILL soon after it (a pod has 30 s): results come first."""
        self._environment.stop_timeout = min(self._environment.stop_timeout, _HURRY_S)

    def _interrupt(self) -> None:
        """Ctrl-C. Python would raise it in whatever greenlet runs, which may be somebody's request: it is for locust.

        A terminal tells all its processes. A worker leaves it to the master, which ends the run for all alike.
        """
        if self._is_worker and self._environment.begun is not None:
            gevent.sleep(_MASTER_S)
            if self._ending:
                return
        gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    def _quit(self, **_: Any) -> None:
        """Before locust decides on its exit code. A second Ctrl-C waits for nothing more."""
        try:
            self._runner.stop()
            self._finish()
        except KeyboardInterrupt:
            self._abandon()
            self._finish()

    def _abandon(self) -> None:
        self._environment.stop_timeout = 0.0
        self._runner.user_greenlets.kill()
        if self._asking:
            self._asking.abandon()
        if self._conductor:
            self._conductor.abandon(together=self._is_master)
