"""What runs on a data directory: the state files, who wrote them and whether that process still lives.

milvus.json   the running Milvus Lite server and the processes that use it
serve.json    the running `anchorage serve`; it holds serve.lock as long as it lives
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import ConfigurationError
from serving.ports import LOOPBACK

DEFAULT_DATA_DIR = Path(".anchorage")

State = TypeVar("State", bound=BaseModel)


class ProcessId(BaseModel):
    """A process, told apart from a later one with the same pid by its start time (seconds since the epoch)."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: float

    @classmethod
    def own(cls) -> ProcessId:
        return cls.of(psutil.Process())

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        return cls(pid=process.pid, started=process.create_time())

    def process(self) -> psutil.Process | None:
        """The live process, or None. A zombie is not alive."""
        try:
            found = psutil.Process(self.pid)
            # The kernel's boot time, which start times count from, is rounded to a second and may be adjusted.
            same = abs(found.create_time() - self.started) < 2.0
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class MilvusState(BaseModel):
    """`milvus.json`. A user that is no longer alive does not count."""

    server: ProcessId
    port: int
    users: list[ProcessId] = []

    @property
    def uri(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def live_users(self) -> list[ProcessId]:
        return [user for user in self.users if user.process() is not None]


class ServerState(BaseModel):
    """`serve.json`: the running `anchorage serve`. `url` is empty until it can be asked.

    `family` are the processes it started: some of Ray's survive when the server is killed with -9.
    """

    server: ProcessId
    url: str = ""
    family: list[ProcessId] = []


def prepare(data_dir: Path) -> Path:
    """The directory's absolute path, made with what belongs into it. Raises ConfigurationError."""
    data_dir = data_dir.expanduser().resolve()
    try:
        (data_dir / "logs").mkdir(parents=True, exist_ok=True)
        writable = os.access(data_dir, os.W_OK)
    except OSError as error:
        raise ConfigurationError(f"data directory {data_dir} cannot be made: {error.strerror}") from error
    if not writable:
        raise ConfigurationError(f"data directory {data_dir} is not writable")
    return data_dir


def running_server(data_dir: Path) -> ServerState | None:
    """The `anchorage serve` of this data directory, if it lives."""
    state = read_state(_server_file(data_dir), ServerState)
    return state if state is not None and state.server.process() is not None else None


@contextmanager
def sole_server(data_dir: Path) -> Iterator[None]:
    """Be the one `anchorage serve` of a data directory. Raises ConfigurationError naming the one there is.

    The lock dies with its process, whatever kills it; what a killed one left running is ended here.
    """
    lock = FileLock(data_dir / "serve.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigurationError(_taken(data_dir)) from None
    try:
        _end_leftovers(data_dir)
        announce(data_dir, "")
        yield
    finally:
        _server_file(data_dir).unlink(missing_ok=True)
        lock.release()


def announce(data_dir: Path, url: str, *, not_family: Sequence[int] = ()) -> None:
    """Tell `anchorage ask` and `anchorage status` where we serve, and the next start what we started.

    `not_family` are pids of children that others may use after us.
    """
    children = psutil.Process().children(recursive=True)
    family = [ProcessId.of(child) for child in children if child.pid not in not_family and child.is_running()]
    write_state(_server_file(data_dir), ServerState(server=ProcessId.own(), url=url, family=family))


def _end_leftovers(data_dir: Path) -> None:
    """Called with the lock held, so whoever wrote the file is dead."""
    state = read_state(_server_file(data_dir), ServerState)
    left = [process for member in state.family if (process := member.process())] if state else []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _taken(data_dir: Path) -> str:
    state = running_server(data_dir)
    where = f" at {state.url}" if state and state.url else ""
    who = f" by process {state.server.pid}" if state else ""
    return f"{data_dir} is already served{where}{who}: stop that one (Ctrl-C), or choose another --data-dir"


def _server_file(data_dir: Path) -> Path:
    return data_dir / "serve.json"


def read_state(path: Path, kind: type[State]) -> State | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_state(path: Path, state: BaseModel) -> None:
    """All or nothing: a reader, or the next start after a crash, never sees half a file."""
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(state.model_dump_json(indent=2))
    os.replace(fresh, path)
