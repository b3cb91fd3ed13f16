"""A side of the ingestion bench: a process that works pass by pass, each when it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.client import BenchError

ROOT = Path(__file__).resolve().parents[2]
#: Longer than any pass: a side that does not answer never will.
_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Worker:
    """`python -m loadtest.bench.ingest_side`, or that of a peer."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def pass_(self) -> dict[str, float]:
        """Seconds on the clock, CPU seconds of the process, rows. Raises BenchError with the end of its output."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(_TIMEOUT_S):
            line = await self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended:\n{_tail(self.log)}")
        found: dict[str, float] = json.loads(line)
        return found


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: seconds on the clock and of CPU, with all that it had started."""

    seconds: float
    cpu_s: float
    output: str


@asynccontextmanager
async def working(name: str, python: Path, arguments: Sequence[object], folder: Path) -> AsyncIterator[Worker]:
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", *map(str, arguments)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=environment(),
        )
    try:
        yield Worker(name, process, log)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(60):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def command(
    arguments: Sequence[object],
    folder: Path,
    added: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Done:
    """`anchorage ARGUMENTS`, from its start to its end; `on_start` is told its id. Raises BenchError when it fails."""
    log = folder / "anchorage.log"
    before, started = _children_cpu_s(), time.perf_counter()
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serving.cli", *map(str, arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=environment(added),
        )
    if on_start:
        on_start(process.pid)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise BenchError(f"anchorage {arguments[0]} ended with {process.returncode}:\n{_tail(log)}")
    return Done(time.perf_counter() - started, _children_cpu_s() - before, output.decode())


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **(added or {})}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
