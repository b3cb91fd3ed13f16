"""The load of people who ask, made by real locust against the real app with a scripted engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from serving.errors import EngineUnavailable
from serving.scripted import Schedule
from tests.api.conftest import Staging, catalog, staged

__all__ = ["catalog", "staged"]


async def load(url: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, statistics by name, and what locust said."""
    command = [sys.executable, "-m", "loadtest.locustfile", "--headless", "--json", "--host", url, "--users", "3"]
    command += ["--spawn-rate", "10", "--every-s", "0.1", "--answers", "5", "--run-time", "60s", "--stop-timeout", "5"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "no_proxy": "*", "ANCHORAGE_API_KEY": "sesame"},
    )
    try:
        async with asyncio.timeout(90):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, {one["name"]: one for one in json.loads(out or "[]")}, said.decode()


async def test_people_ask_and_read(staged: Staging) -> None:
    """Answers and their first tokens are counted, with a key; the first token comes before the end."""
    async with staged(schedule=Schedule(0.02, 0.002), key="sesame", keys=["sesame"]) as stage:
        code, found, said = await load(stage.url)
    assert code == 0, said
    answers, tokens = found["answer"], found["first token"]
    assert answers["num_requests"] == tokens["num_requests"] >= 5
    assert answers["num_failures"] == tokens["num_failures"] == 0
    assert 0 < tokens["total_response_time"] < answers["total_response_time"]
    assert "sesame" not in said


async def test_an_answer_that_breaks_off_is_a_failure(staged: Staging) -> None:
    """The engine fails after two tokens: an error event ends the stream, the run fails, and it is said why."""
    failing = Schedule(0.01, 0.001, fail_after=2, failure=EngineUnavailable("The engine died."))
    async with staged(schedule=failing) as stage:
        code, found, said = await load(stage.url)
    assert code == 1
    assert found["answer"]["num_failures"] == found["answer"]["num_requests"] >= 5
    assert "the stream broke off" in said


async def test_a_stream_that_is_cut_is_a_failure() -> None:
    """A proxy that closes in the middle, which the Api itself never does."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            body = b'{"data": [{"id": "m"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        else:
            event = b'data: {"choices": [{"delta": {"content": "A"}}]}\n\n'
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        code, found, _ = await load(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert code == 1
    assert found["first token"]["num_failures"] == 0
    assert found["answer"]["num_failures"] == found["answer"]["num_requests"] >= 5


def test_the_job_on_a_cluster_says_what_locust_takes() -> None:
    """Its command line, parsed by locust itself; an argument that it has not is refused."""
    path = Path(__file__).parents[2] / "manifests" / "components" / "loadtest" / "job.yaml"
    (container,) = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]["containers"]
    command = [sys.executable, *container["command"][1:], *container["args"], "--show-task-ratio"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert told.returncode == 0, told.stderr
    assert "Asker" in told.stdout
    wrong = subprocess.run([*command, "--misspelt"], capture_output=True, text=True, timeout=90, check=False)
    assert wrong.returncode != 0
