"""Processes that a bench starts, measures and stops: by id, with bounded waits, their output kept for the error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from loadtest.bench.client import BenchError
from serving.ports import LOOPBACK

STOP_TIMEOUT_S = 30.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: `python -m MODULE ARGS`; it is up when `ready_path` answers 200."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    ready_path: str
    timeout_s: float = 240.0


class Server:
    """A started process and everything below it."""

    def __init__(self, name: str, port: int, process: psutil.Process) -> None:
        self.name = name
        self.port = port
        self._process = process

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def cpu_s(self) -> float:
        """CPU seconds used so far by the process and its descendants. Processes that have ended do not count."""
        return sum(_cpu_s(process) for process in self._tree())

    def memory(self) -> dict[str, int]:
        """Resident bytes by process, named as the processes name themselves, with their id."""
        return {f"{_label(process)} [{process.pid}]": _resident(process) for process in self._tree()}

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise BenchError(f"{self.name} ended while it was measured") from error


@asynccontextmanager
async def running(launch: Launch, port: int, folder: Path) -> AsyncIterator[Server]:
    """Start, wait until it is ready, stop. Raises BenchError with the end of its output."""
    log = folder / f"{launch.name.replace(' ', '-')}.log"
    child = await asyncio.to_thread(_start, launch, log)
    try:
        await _until_ready(launch, port, child, log)
        yield Server(launch.name, port, psutil.Process(child.pid))
    finally:
        await asyncio.to_thread(stop, child)


def _start(launch: Launch, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *launch.arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(launch.environment),
        )


def stop(child: subprocess.Popen[bytes]) -> None:
    """SIGINT to the process, as Ctrl-C would; what is left of its tree after a while is killed, by id."""
    try:
        tree = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            break
        child.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT_S)
    _, alive = psutil.wait_procs(tree, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def _until_ready(launch: Launch, port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + launch.timeout_s
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=5) as client:
        while True:
            if child.poll() is not None:
                raise BenchError(f"{launch.name} ended with {child.returncode} before it was ready:\n{_tail(log)}")
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(launch.ready_path)).status_code == httpx.codes.OK:
                    return
            if time.monotonic() > deadline:
                raise BenchError(f"{launch.name} was not ready after {launch.timeout_s:.0f} s:\n{_tail(log)}")
            await asyncio.sleep(0.05)


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    fixed = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**os.environ, **fixed, **added}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _label(process: psutil.Process) -> str:
    """Ray's processes call themselves by what they are; others are known by their module or program."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return "ended"
    if not command:
        return process.name()
    if command[0].startswith("ray::"):
        return command[0].removeprefix("ray::")
    if "milvus" in " ".join(command):
        return "milvus-lite"
    if "-m" in command:
        return command[command.index("-m") + 1]
    scripts = [Path(part).name for part in command[:4] if part.endswith(".py")]
    return scripts[0] if scripts else Path(command[0]).name
