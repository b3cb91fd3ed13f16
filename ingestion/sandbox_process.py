"""One worker process as its pool sees it: started when it is needed, replaced when it is spent, never trusted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ingestion import sandbox_wire as wire
from ingestion.sandbox_wire import Job, ParsedDocument, Rechunk, Refused
from serving.errors import ConfigurationError

#: A process is replaced after so many jobs, or when it has grown by so many bytes: parsing libraries leak.
_JOBS = 2000
_GROWTH = 256 * 1024**2
#: Starting takes about a second; a busy machine takes longer.
_START_S = 120.0
#: A job has its time in CPU seconds; on a busy machine (workers are the nicest processes of it) they take longer.
_PATIENCE = 5
#: Signals that people, service managers and the kernel (short of memory) send.
_BY_OTHERS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
#: What a worker gets of our environment: where programs, homes and models are; no key, token or password.
_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"})
#: One job at a time: threads of the libraries would only cost memory.
_SET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """`model` is the folder of the tokenizer."""

    model: str
    timeout_s: float
    memory_bytes: int
    max_text_characters: int


@dataclass(frozen=True, slots=True)
class _Death:
    """`by_others`: somebody else sent the signal, and the file may be innocent."""

    reason: str
    by_others: bool = False


class Worker:
    """Blocking; one thread at a time calls `run`, any thread `kill`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker
        self._jobs = 0
        self._first_resident = 0
        self._lock = threading.Lock()
        self._killed = False

    def run(self, job: Job | Rechunk) -> ParsedDocument | Refused:
        """Raises ConfigurationError when no process can be started."""
        for again in (True, False):
            outcome = self._attempt(job)
            if not isinstance(outcome, _Death):
                return outcome
            if not (outcome.by_others and again) or self._killed:
                return Refused(outcome.reason)
        raise AssertionError("the second attempt is the last")

    def kill(self) -> None:
        """Ends the process at once, and for good; a running job is refused."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """After `kill` or the last job."""
        self._end()
        self._errors.close()

    # -- one job -------------------------------------------------------------------------------------------------------

    def _attempt(self, job: Job | Rechunk) -> ParsedDocument | Refused | _Death:
        if self._process is None and (death := self._start()) is not None:
            return death
        patience = self._limits.timeout_s * _PATIENCE
        deadline = time.monotonic() + patience
        try:
            self._channel.settimeout(patience)
            wire.send(self._channel, *wire.job_frame(job))
            head, body = wire.receive(self._channel, 4 * self._limits.max_text_characters, deadline)
            return self._read(head, body)
        except TimeoutError:
            self._end()
            return _Death(self._too_long())
        except wire.Closed:
            return self._obituary()
        except (ValueError, KeyError, TypeError) as error:  # not what our worker says: something else speaks for it
            self._end()
            return _Death(f"its parser gave an answer that cannot be read ({type(error).__name__})")

    def _read(self, head: dict[str, object], body: bytearray) -> ParsedDocument | Refused:
        status, resident = head["status"], head["resident"]
        if not isinstance(resident, int):
            raise TypeError("resident")
        self._jobs += 1
        self._first_resident = self._first_resident or resident
        if status == "memory" or self._jobs >= _JOBS or resident > self._first_resident + _GROWTH:
            self._end()
        if status == "parsed":
            return wire.parsed_of(head, body)
        return Refused(self._too_much() if status == "memory" else str(head["reason"]))

    # -- the process ---------------------------------------------------------------------------------------------------

    def _start(self) -> _Death | None:
        """Raises ConfigurationError, unless somebody else ended the process meanwhile."""
        ours, theirs = socket.socketpair()
        arguments = {
            "fd": theirs.fileno(),
            "parent": os.getpid(),
            "model": self._limits.model,
            "timeout_s": self._limits.timeout_s,
            "memory_bytes": self._limits.memory_bytes,
            "max_text_characters": self._limits.max_text_characters,
        }
        self._errors.seek(0)
        self._errors.truncate()
        with self._lock, theirs:
            if self._killed:
                ours.close()
                raise ConfigurationError("The parser's process was ended.")
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ingestion.sandbox_worker", json.dumps(arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise ConfigurationError(f"The parser's process cannot be started: {error}.") from error
        self._channel, self._jobs, self._first_resident = ours, 0, 0
        try:
            wire.receive(ours, 0, time.monotonic() + _START_S)
        except (wire.Closed, TimeoutError, ValueError) as error:
            death = self._obituary() if isinstance(error, wire.Closed) else None
            self._end()
            if death is not None and death.by_others:
                return death
            raise ConfigurationError(f"The parser's process does not start: {self._last_words() or error}") from error
        return None

    def _end(self) -> int:
        """Kills and reaps; the exit status."""
        if self._process is None:
            return 0
        self._process.kill()
        status = self._process.wait()
        self._channel.close()
        with self._lock:
            self._process = None
        return status

    def _obituary(self) -> _Death:
        """What the way in which the process ended says of the file."""
        assert self._process is not None
        self._process.wait()
        status = self._end()
        words = self._last_words()
        if status == -signal.SIGPROF:
            return _Death(self._too_long())
        if "memory allocation" in words or "MemoryError" in words or "out of memory" in words.lower():
            return _Death(self._too_much())
        if -status in _BY_OTHERS:
            return _Death(
                f"its parser was killed twice (signal {-status}): the machine may lack memory", by_others=True
            )
        if status < 0:
            return _Death(f"crashed its parser (signal {-status})")
        return _Death(f"ended its parser (exit code {status})")

    def _last_words(self) -> str:
        """The end of what the process wrote to its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        written = os.pread(self._errors.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace").strip()
        return written[-600:]

    def _too_long(self) -> str:
        return f"took longer than {self._limits.timeout_s:g} s to parse (setting ANCHORAGE_INGESTION__PARSE_TIMEOUT_S)"

    def _too_much(self) -> str:
        size = self._limits.memory_bytes / 1024**3
        return f"needed more than {size:.1f} GB of memory (setting ANCHORAGE_INGESTION__PARSE_MEMORY_BYTES)"


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them, without the folder it happens to stand in."""
    passed = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
    path = [str(Path(entry).absolute()) for entry in sys.path]
    return {**passed, **_SET, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}
