"""`anchorage` as a reader runs it: real processes, watched from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from serving.running import running_server
from serving.stack import running_milvus

from .waiting import until

ANCHORAGE = str(Path(sys.executable).with_name("anchorage"))
START_S = 300.0
STOP_S = 60.0


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
    """A running `anchorage serve`. `family` is every process that it started, Milvus Lite included."""

    process: asyncio.subprocess.Process
    data_dir: Path
    log_file: Path
    url: str = ""
    family: tuple[psutil.Process, ...] = ()

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
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{self.url}/readyz")).status_code == 200
        self.family = self.relatives()

    def relatives(self) -> tuple[psutil.Process, ...]:
        milvus = running_milvus(self.data_dir)
        own = psutil.Process(self.process.pid).children(recursive=True)
        return (*own, *([psutil.Process(milvus.server.pid)] if milvus else []))

    async def stop(self, *signals: signal.Signals) -> int:
        """Send the signals one after the other; the exit code."""
        for number in signals or (signal.SIGINT,):
            self.process.send_signal(number)
            await asyncio.sleep(0.3)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()

    def left_behind(self) -> list[str]:
        """Processes that should be gone."""
        return [" ".join(p.cmdline())[:200] for p in self.family if p.is_running() and p.status() != "zombie"]

    async def destroy(self) -> None:
        """Whatever state it is in, nothing of it stays."""
        family = {*self.family, *(self.relatives() if self.process.returncode is None else ())}
        milvus = running_milvus(self.data_dir)
        if milvus is not None:
            family.add(psutil.Process(milvus.server.pid))
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        for relative in family:
            if relative.is_running():
                relative.kill()


async def start_serve(data_dir: Path, *options: str, port: int = 0, **environment: str) -> Stack:
    """`anchorage serve`, as its own process group, its output in a file."""
    log_file = _log_file(data_dir)
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            ANCHORAGE,
            "serve",
            "--data-dir",
            str(data_dir),
            "--port",
            str(port),
            *options,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Stack(process, data_dir, log_file)


def _log_file(data_dir: Path) -> Path:
    data_dir.mkdir(parents=True, exist_ok=True)
    return data_dir / "serve.out"
