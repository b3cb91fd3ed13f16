"""The scripted server and one client at a time, each on a core of its own, and what the client used of its core."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from loadtest.bench.client import BenchError
from loadtest.bench.fidelity_script import Script
from loadtest.bench.ingest_process import ROOT, environment
from loadtest.bench.processes import Launch, Server, running, stop
from serving.ports import free_port

_LOOK_EVERY_S = 0.25
#: A client's start and its first answers are no part of what a token costs.
_SETTLE_S = 2.0
#: For a client's start, its last answers and its report.
_SPARE_S = 120.0


@dataclass(frozen=True, slots=True)
class Seen:
    """At a moment: seconds on the clock, CPU seconds of the client's processes, tokens the server has written."""

    at_s: float
    cpu_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Used:
    """Of a client while tokens came: tokens, CPU seconds with all processes of its own, seconds on the clock."""

    tokens: int
    cpu_s: float
    seconds: float

    @property
    def per_cpu_s(self) -> float:
        return self.tokens / self.cpu_s if self.cpu_s else 0.0


@dataclass(frozen=True, slots=True)
class Scripted:
    """A running server; its log is there once it has ended."""

    server: Server
    log: Path

    @property
    def url(self) -> str:
        return self.server.url

    async def tokens(self, connection: httpx.AsyncClient) -> int:
        return int((await connection.get(f"{self.url}/events")).json()["tokens"])


@asynccontextmanager
async def scripted(script: Script, folder: Path, nice: int = 0) -> AsyncIterator[Scripted]:
    """Raises BenchError when it does not start."""
    port, log = free_port(), folder / "truth.jsonl"
    log.unlink(missing_ok=True)
    arguments = ("loadtest.bench.truth_server", str(port), str(log), str(_server_core()), str(nice), script.text())
    async with running(Launch("truth server", arguments, {}, "/health"), port, folder) as server:
        yield Scripted(server, log)


async def client(
    command: Sequence[str], server: Scripted, folder: Path, seconds: float, nice: int = 0
) -> tuple[int, Used]:
    """Its exit code, and what it used while it made its load. Raises BenchError with the end of its output."""
    said = folder / "client.log"
    child = await asyncio.to_thread(_start, command, said, nice)
    tree, seen = Server("client", 0, psutil.Process(child.pid)), []
    try:
        async with asyncio.timeout(seconds + _SPARE_S), httpx.AsyncClient(timeout=10) as connection:
            while child.poll() is None:
                with suppress(BenchError, httpx.HTTPError):  # it has just ended, or the server is busy
                    seen.append(Seen(time.monotonic(), tree.cpu_s(), await server.tokens(connection)))
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise BenchError(f"a client did not end within {seconds + _SPARE_S:.0f} s:\n{output(folder)}") from None
    finally:
        await asyncio.to_thread(stop, child)
    return child.wait(), used(seen, seconds)


def output(folder: Path) -> str:
    """The last lines that the client said."""
    return "\n".join((folder / "client.log").read_text(errors="replace").splitlines()[-15:])


def used(seen: Sequence[Seen], seconds: float) -> Used:
    """From when its first answers had come until it stopped to ask."""
    began = next((one.at_s for one in seen if one.tokens), None)
    if began is None:
        return Used(0, 0.0, 0.0)
    inside = [one for one in seen if began + _SETTLE_S <= one.at_s <= began + seconds]
    if len(inside) < 2:
        return Used(0, 0.0, 0.0)
    first, last = inside[0], inside[-1]
    return Used(last.tokens - first.tokens, last.cpu_s - first.cpu_s, last.at_s - first.at_s)


def _start(command: Sequence[str], said: Path, nice: int) -> subprocess.Popen[bytes]:
    with said.open("wb") as output:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
            env=environment({"no_proxy": "*"}),
        )
    # Before it has begun anything: its processes and threads inherit both.
    os.sched_setaffinity(child.pid, {_client_core()})
    prefer(child.pid, nice)
    return child


def prefer(pid: int, nice: int) -> None:
    """A session's processes before those of other sessions, as far as this user may: pushed aside, it measures them.

    Linux shares cores among sessions first (sched(7), autogroup), where it does so at all.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")


def _server_core() -> int:
    return max(os.sched_getaffinity(0))


def _client_core() -> int:
    """Not that of the server, where there are two."""
    return min(os.sched_getaffinity(0))
