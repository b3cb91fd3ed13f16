"""The embedded parts: the Milvus Lite server of a data directory, found or started, and stopped by its last user.

A data directory holds everything that one embedded Anchorage keeps:

    milvus/       the vectors (Milvus Lite; one process at a time may open it)
    catalog.db    the catalog (SQLite)
    logs/         what the embedded parts wrote
    milvus.json   the running Milvus Lite server and the processes that use it; milvus.lock guards every change
    serve.json    the running `anchorage serve`; it holds serve.lock as long as it lives

Several commands may work on one data directory at the same time. The first one that needs Milvus Lite starts it, the
last one out stops it, and one that was killed neither pins it for ever nor takes it away from the others. When the
server itself dies, whoever uses it starts it again at the same address.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from serving.errors import IndexUnavailable
from serving.ports import LOOPBACK, free_port
from serving.running import MilvusState, ProcessId, prepare, read_state, write_state
from serving.settings import Settings

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
LOCK_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 8
#: Between two looks whether the server lives.
LOOK_S = 1.0

# Milvus Lite shuts down cleanly on KeyboardInterrupt only, and a child of a background job inherits "ignore SIGINT":
# both signals are set to raise it.
_LAUNCH = (
    "import signal, sys; "
    "[signal.signal(s, signal.default_int_handler) for s in (signal.SIGINT, signal.SIGTERM)]; "
    "from milvus_lite.cmdline import main; sys.exit(main())"
)


@asynccontextmanager
async def embedded_index(settings: Settings, data_dir: Path) -> AsyncIterator[Settings]:
    """Settings whose Milvus and catalog exist, for as long as the block runs.

    An address that the caller set is left alone; what was not set comes from `data_dir`, and Milvus Lite is found or
    started there. Raises IndexUnavailable (with the log's tail) and ConfigurationError.
    """
    data_dir = prepare(data_dir)
    settings = with_catalog(settings, data_dir)
    if "milvus_uri" in settings.index.model_fields_set:
        yield settings
        return
    # Joining and leaving run in threads that finish even when we are cancelled, so that none is left half done.
    joining = asyncio.ensure_future(asyncio.to_thread(_join, data_dir))
    try:
        state, started = await asyncio.shield(joining)
        if not await _answering(state, data_dir):
            if not started:
                # It died under those who used it: they, or we, start it again.
                state = await _restarted(data_dir, state.port)
            if started or not await _answering(state, data_dir):
                raise IndexUnavailable(f"Milvus Lite ended while it started{_log_tail(data_dir)}")
        keeping = asyncio.create_task(_keep(data_dir, state.port))
        try:
            yield _with_index(settings, "milvus_uri", state.uri)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
    finally:
        await asyncio.wait([joining])
        if joining.exception() is None:
            await asyncio.shield(asyncio.to_thread(_leave, data_dir))


def with_catalog(settings: Settings, data_dir: Path) -> Settings:
    """Settings whose catalog is the data directory's, unless one was set."""
    if "catalog_url" in settings.index.model_fields_set:
        return settings
    return _with_index(settings, "catalog_url", f"sqlite:///{data_dir / 'catalog.db'}")


def running_milvus(data_dir: Path) -> MilvusState | None:
    """The Milvus Lite server of this data directory, if it lives."""
    state = read_state(_milvus_file(data_dir), MilvusState)
    if state is not None and _is_milvus_of(data_dir, state.server.process()):
        return state
    return _unrecorded_milvus(data_dir)


async def speaks_http2(port: int, timeout_s: float = 2.0) -> bool:
    """Whether a gRPC server answers: it greets a new connection with a SETTINGS frame (RFC 9113, 3.4 and 6.5)."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                header = await reader.readexactly(9)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return header[3] == 0x4


def _with_index(settings: Settings, field: str, value: str) -> Settings:
    return settings.model_copy(update={"index": settings.index.model_copy(update={field: value})})


def _join(data_dir: Path) -> tuple[MilvusState, bool]:
    """Become a user of the running server, or start one; and whether it was started.

    One process at a time, by the lock.
    """
    with _milvus_lock(data_dir):
        running = running_milvus(data_dir)
        state = running or _started(data_dir)
        state = state.model_copy(update={"users": [*state.live_users(), ProcessId.own()]})
        write_state(_milvus_file(data_dir), state)
        return state, running is None


async def _keep(data_dir: Path, port: int) -> None:
    """Bring a server that died back where its users look for it. Each of them sees to it; the lock lets one act."""
    while True:
        await asyncio.sleep(LOOK_S)
        if not await asyncio.to_thread(_alive, data_dir):
            with contextlib.suppress(IndexUnavailable, OSError):
                await _restarted(data_dir, port)


async def _restarted(data_dir: Path, port: int) -> MilvusState:
    """The thread is waited for also when we are cancelled: after we have left, it would start a server for nobody."""
    restarting = asyncio.ensure_future(asyncio.to_thread(_restart, data_dir, port))
    try:
        return await asyncio.shield(restarting)
    finally:
        await asyncio.wait([restarting])


def _alive(data_dir: Path) -> bool:
    state = read_state(_milvus_file(data_dir), MilvusState)
    return state is not None and state.server.process() is not None


def _restart(data_dir: Path, port: int) -> MilvusState:
    """The running server; if there is none, one at `port`."""
    with _milvus_lock(data_dir):
        if running := running_milvus(data_dir):
            return running
        known = read_state(_milvus_file(data_dir), MilvusState)
        users = known.live_users() if known else []
        users += [] if ProcessId.own() in users else [ProcessId.own()]
        state = _start(data_dir, port).model_copy(update={"users": users})
        write_state(_milvus_file(data_dir), state)
        return state


def _leave(data_dir: Path) -> None:
    """Stop being a user; the last one out stops the server."""
    with _milvus_lock(data_dir):
        running = running_milvus(data_dir)
        # Of one that died its other users still look for it where it was, and start it again.
        state = running or read_state(_milvus_file(data_dir), MilvusState)
        if state is None:
            return
        users = state.live_users()
        if ProcessId.own() in users:
            users.remove(ProcessId.own())
        if users:
            write_state(_milvus_file(data_dir), state.model_copy(update={"users": users}))
            return
        if running is not None:
            _stop(running.server)
        _milvus_file(data_dir).unlink(missing_ok=True)


def _started(data_dir: Path) -> MilvusState:
    """Where one was that died, as long as somebody looks for it there; else anywhere."""
    known = read_state(_milvus_file(data_dir), MilvusState)
    users = known.live_users() if known else []
    port = known.port if known and users else free_port()
    return _start(data_dir, port).model_copy(update={"users": users})


def _start(data_dir: Path, port: int) -> MilvusState:
    address = ["--data-dir", str(data_dir / "milvus"), "--host", LOOPBACK, "--port", str(port)]
    with (data_dir / "logs" / "milvus.log").open("wb") as log:
        # A session of its own: the terminal's Ctrl-C reaches us, and we stop Milvus when nobody needs it any more.
        child = subprocess.Popen(
            [sys.executable, "-u", "-c", _LAUNCH, "server", *address],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return MilvusState(server=ProcessId.of(psutil.Process(child.pid)), port=port)


def _stop(server: ProcessId) -> None:
    process = server.process()
    if process is None:
        return
    for sent in (signal.SIGINT, signal.SIGKILL):
        try:
            process.send_signal(sent)
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            pass
        return


async def _answering(state: MilvusState, data_dir: Path) -> bool:
    """Returns when it answers, or False when it has ended instead. Raises IndexUnavailable if neither comes."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not await speaks_http2(state.port):
        if state.server.process() is None:
            return False
        if time.monotonic() > deadline:
            raise IndexUnavailable(f"Milvus Lite did not answer within {START_TIMEOUT_S:.0f} s{_log_tail(data_dir)}")
        await asyncio.sleep(0.05)
    return True


def _log_tail(data_dir: Path) -> str:
    path = data_dir / "logs" / "milvus.log"
    try:
        lines = path.read_text(errors="replace").strip().splitlines()[-LOG_TAIL_LINES:]
    except OSError:
        return f" ({path} cannot be read)"
    return "; the end of " + "\n  ".join([f"{path}:", *lines]) if lines else f" ({path} is empty)"


def _is_milvus_of(data_dir: Path, process: psutil.Process | None) -> bool:
    if process is None:
        return False
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return any("milvus_lite" in part for part in command) and str(data_dir / "milvus") in command


def _unrecorded_milvus(data_dir: Path) -> MilvusState | None:
    """A server whose starter died before it could write the state file, or whose file was deleted."""
    for process in psutil.process_iter():
        if _is_milvus_of(data_dir, process) and process.status() != psutil.STATUS_ZOMBIE:
            command = process.cmdline()
            port = int(command[command.index("--port") + 1])
            return MilvusState(server=ProcessId.of(process), port=port)
    return None


def _milvus_file(data_dir: Path) -> Path:
    return data_dir / "milvus.json"


@contextmanager
def _milvus_lock(data_dir: Path) -> Iterator[None]:
    try:
        with FileLock(data_dir / "milvus.lock", timeout=LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise IndexUnavailable(f"another process holds {data_dir / 'milvus.lock'}: try again") from None
