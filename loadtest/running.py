"""One level of load from this machine: a tree of locust processes, followed until its result is there.

Locust runs in processes of its own, always: gevent patches the one that it is in.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from loadtest.by_log import NoResult
from loadtest.locust_options import STOP_TIMEOUT_S
from loadtest.run import Study
from serving.errors import ConfigurationError
from serving.ports import LOOPBACK, free_port

OnProgress: TypeAlias = Callable[[Mapping[str, Any]], None]
#: Makes one level: arguments of `python -m loadtest.locustfile`, and who is told each second how it goes. Blocking;
#: raises AnchorageError. Ctrl-C ends it in order, and is raised on; as Interrupted where there is a result by then.
LevelRunner: TypeAlias = Callable[[Sequence[str], OnProgress], Study]

#: Locust's own exit code for a command line that it does not understand.
_WRONG_COMMAND = 2
#: For starting, and for the last reports, beyond the load and what it waits for.
_SPARE_S = 90.0
#: What locust has to end by itself when it is told to.
_PATIENCE_S = 8.0
_LOOK_S = 0.1
_LAST_LINES = 8


class Interrupted(KeyboardInterrupt):
    """Somebody ended a level before its time. `study`: what was measured by then."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study


@dataclass(frozen=True)
class LocalRuns:
    """`run` is a `LevelRunner`. `processes`: how many ask; more than one have a master beside them.

    `ready_s`: how long the load tester waits for the server, seconds.
    """

    processes: int = 1
    ready_s: float = 30.0

    def run(self, arguments: Sequence[str], on_progress: OnProgress = lambda progress: None) -> Study:
        """Raises NoResult, ConfigurationError for what locust does not take, and Unavailable if no port is free."""
        with tempfile.TemporaryDirectory(prefix="anchorage-loadtest-", ignore_cleanup_errors=True) as folder:
            place = Path(folder)
            command = [
                *(sys.executable, "-m", "loadtest.locustfile"),
                *arguments,
                "--headless",
                "--only-summary",
                f"--ready-s={self.ready_s:g}",
                f"--result={place / 'result.json'}",
                f"--progress={place / 'progress.jsonl'}",
                *several(self.processes),
            ]
            deadline = time.monotonic() + _held_s(arguments) + self.ready_s + STOP_TIMEOUT_S + _SPARE_S
            try:
                with (place / "log").open("wb") as log:
                    code = _followed(command, log.fileno(), place / "progress.jsonl", deadline, on_progress)
            except KeyboardInterrupt:
                if (place / "result.json").exists():
                    raise Interrupted(Study.load(place / "result.json")) from None
                raise
            return _result(place, code)


def several(processes: int) -> list[str]:
    """Options of locust for so many processes. More than one have a master at an address of their own.

    Locust's own port is one for the whole machine: another run's master would find it taken, and its workers would
    join our master instead. Raises Unavailable if no port is free.
    """
    if processes <= 1:
        return []
    port = free_port()
    master = [f"--master-bind-host={LOOPBACK}", f"--master-bind-port={port}", f"--master-port={port}"]
    return [f"--processes={processes}", *master]


def _held_s(arguments: Sequence[str]) -> float:
    return next(float(one.partition("=")[2].rstrip("s")) for one in arguments if one.startswith("--run-time="))


def _followed(command: Sequence[str], log: int, progress: Path, deadline: float, on_progress: OnProgress) -> int | None:
    """Its exit code; None: it did not end in time."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        # Ctrl-C of the terminal comes to us alone, and we end it.
        start_new_session=True,
    )
    following = _Lines(progress)
    try:
        while process.poll() is None and time.monotonic() < deadline:
            for line in following.new():
                on_progress(line)
            time.sleep(_LOOK_S)
        for line in following.new():
            on_progress(line)
        return process.poll()
    finally:
        with unbroken():
            end(process)


def _result(place: Path, code: int | None) -> Study:
    if (place / "result.json").exists():
        return Study.load(place / "result.json")
    lines = [line for line in (place / "log").read_text("utf-8", "replace").splitlines() if line.strip()]
    words = "\n".join(lines[-_LAST_LINES:])
    if code == _WRONG_COMMAND:
        raise ConfigurationError(f"the load tester refused its command line:\n{words}")
    how = "did not end in time" if code is None else f"ended with exit code {code} and no result"
    raise NoResult(f"the load tester {how}. Its last words:\n{words or '(none)'}")


@dataclass
class _Lines:
    """JSON lines of a file that grows."""

    path: Path
    _read: int = 0
    _rest: bytes = field(default=b"")

    def new(self) -> Iterator[Mapping[str, Any]]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                found = file.read()
        except FileNotFoundError:
            return
        self._read += len(found)
        *whole, self._rest = (self._rest + found).split(b"\n")
        yield from (json.loads(line) for line in whole)


def end(process: subprocess.Popen[bytes]) -> None:
    """The process and all below it: by its own means first, then by their ids."""
    tree = []
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(tree, timeout=2.0)
    for one in alive:
        with suppress(psutil.NoSuchProcess):
            one.kill()


@contextmanager
def unbroken() -> Iterator[None]:
    """A clean-up is never cut short by another Ctrl-C: half of one leaves processes behind.

    Other threads than the first get no signals, and have nothing to keep off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ending_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the work as Ctrl-C does: by KeyboardInterrupt."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
