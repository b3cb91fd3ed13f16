"""`anchorage` as a reader runs it: real processes, watched from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from serving.running import running_server

from .waiting import until

ANCHORAGE = str(Path(sys.executable).with_name("anchorage"))
START_S = 300.0
STOP_S = 60.0
MARK = "E2E_STACK"


@dataclass
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


async def anchorage(*arguments: str, cwd: Path | None = None, timeout_s: float = 240.0, **environment: str) -> Done:
    """Run one command to its end."""
    process = await asyncio.create_subprocess_exec(
        ANCHORAGE,
        *arguments,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


@dataclass
class Stack:
    """A running `anchorage serve`. `mark` is in the environment of every process that descends from it."""

    process: asyncio.subprocess.Process
    data_dir: Path
    log_file: Path
    mark: str
    url: str = ""

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    async def until_ready(self) -> None:
        """The server announced itself and every part is ready."""

        def announced() -> bool:
            assert self.process.returncode is None, self.log()
            state = running_server(self.data_dir)
            self.url = state.url if state is not None else ""
            return bool(self.url)

        await until(announced, START_S, every_s=0.05)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            assert (await http.get(f"{self.url}/readyz")).status_code == 200

    async def until_answering(self) -> None:
        """Every part is ready again, after something was lost."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http, asyncio.timeout(60):
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(f"{self.url}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.2)

    def family(self) -> list[psutil.Process]:
        """Every living process that it started."""
        return marked(self.mark)

    def titled(self, part: str) -> list[psutil.Process]:
        """Those whose command line says this."""
        return titled(self.mark, part)

    async def stop(self, *signals: signal.Signals) -> int:
        """Send the signals one after the other; the exit code."""
        for number in signals or (signal.SIGINT,):
            self.process.send_signal(number)
            await asyncio.sleep(0.3)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()

    async def destroy(self) -> None:
        """Whatever state it is in, nothing of it stays."""
        for relative in self.family():
            with suppress(psutil.NoSuchProcess):
                relative.kill()
        await self.process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """Living processes with this mark, whoever is their parent now: Ray's and Milvus Lite included."""
    return [process for process in psutil.process_iter() if _environment(process).get(MARK) == mark]


def titled(mark: str, part: str) -> list[psutil.Process]:
    """Those of the living processes with this mark whose command line says this."""
    found = []
    for process in marked(mark):
        # It may end meanwhile.
        with suppress(psutil.Error):
            if part in " ".join(process.cmdline()):
                found.append(process)
    return found


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
    except psutil.Error:
        return {}


async def start_serve(data_dir: Path, *options: str, port: int = 0, **environment: str) -> Stack:
    """`anchorage serve`, as its own process group, its output in a file.

    Not as its own session: while vLLM's processes exchange messages by `sched_yield`, Linux 6.18 lets all that is in
    another session (autogroup) wait for seconds, a test that reads their answer, too.
    """
    log_file, mark = _log_file(data_dir), uuid.uuid4().hex
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            ANCHORAGE,
            "serve",
            "--data-dir",
            str(data_dir),
            "--port",
            str(port),
            *options,
            env={**os.environ, **environment, MARK: mark},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    return Stack(process, data_dir, log_file, mark)


def _log_file(data_dir: Path) -> Path:
    data_dir.mkdir(parents=True, exist_ok=True)
    return data_dir / "serve.out"
