"""What a rehearsal must notice: answers that are not whole, nodes that stay; and what is left when it is killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from loadtest.rehearsal.client import Row, ask
from loadtest.rehearsal.keeper import family
from loadtest.rehearsal.result import Result, judge
from loadtest.rehearsal.scenario import Scenario
from loadtest.rehearsal.timeline import NODES_UP, REPLICAS_READY, Delays, Timeline
from serving.settings import OnCold, Settings

WORDS = [{"choices": [{"index": 0, "delta": {"content": f" w{n}"}, "finish_reason": None}]} for n in range(3)]
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    "rag": {"outcome": "answered", "resumed": 1},
}
EXTRACTIVE = {**USAGE, "rag": {"outcome": "extractive", "cold": True}}
ERROR = {"error": {"message": "the engine died"}}
END = "data: [DONE]\n\n"


def events(*said: object) -> str:
    return "".join(f"data: {json.dumps(one)}\n\n" for one in said)


WHOLE = events(*WORDS, LAST, USAGE) + END


@asynccontextmanager
async def answering(head: str, body: str) -> AsyncIterator[httpx.AsyncClient]:
    """A server that answers every request with these bytes and then closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with server, httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as http:
        yield http


async def judged(body: str, head: str = "200 OK", on_cold: OnCold = "extractive") -> Row:
    row = Row(time.monotonic(), on_cold, answer_tokens=3)
    async with answering(head, body) as http:
        await ask(http, row)
    return row


async def test_a_whole_answer_is_one() -> None:
    """All words in their order, the reason, the usage, the end."""
    row = await judged(': {"stage": "weights", "elapsed_s": 1.0}\n\n' + WHOLE)
    assert (row.outcome, row.error, row.resumed, row.stages) == ("llm", "", 1, ["weights"])
    assert row.ttft_s is not None
    assert (await judged(events(WORDS[0], LAST, EXTRACTIVE) + END)).outcome == "extractive"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (events(*WORDS, LAST, USAGE), "without [DONE]"),
        (events(*WORDS, ERROR), "the engine died"),
        (events(WORDS[0], WORDS[2], LAST, USAGE) + END, "2 words of 3"),
        (events(*WORDS, WORDS[2], LAST, USAGE) + END, "4 words of 3"),
        (events(WORDS[0], WORDS[2], WORDS[1], LAST, USAGE) + END, "wrong from number 1 on"),
        (events(*WORDS, USAGE) + END, "no finish_reason"),
        (events(*WORDS, LAST) + END, "usage says None"),
    ],
)
async def test_a_cut_answer_is_noticed(body: str, reason: str) -> None:
    """Whatever is missing, twice or in another order."""
    row = await judged(body)
    assert row.outcome == "cut"
    assert reason in row.error


async def test_a_refusal_is_one_only_where_it_was_wanted() -> None:
    """503 with a time to come back answers those who asked for it; for the others it is a failure."""
    cold = "503 Service Unavailable\r\nretry-after: 7"
    assert (await judged("{}", cold, "reject")).outcome == "rejected"
    assert (await judged("{}", cold, "reject")).retry_after_s == 7
    assert (await judged("{}", cold)).outcome == "failed"
    assert (await judged("{}", "503 Service Unavailable", "reject")).outcome == "failed"
    assert (await judged("", "200 OK")).outcome == "failed"


async def test_a_server_that_is_gone_is_a_failure() -> None:
    """Not an error of the rehearsal."""
    async with answering("200 OK", "") as http:
        pass
    row = Row(time.monotonic(), "wait", answer_tokens=3)
    async with httpx.AsyncClient(base_url=http.base_url, trust_env=False) as other:
        await ask(other, row)
    assert row.outcome == "failed"
    assert "ConnectError" in row.error


def test_what_stays_or_never_came_is_a_problem() -> None:
    """No node, no answer of the LLM; a node and a replica that stay; a request that failed, with its reason."""
    row = Row(0.0, "extractive", answer_tokens=3, outcome="failed", error="HTTP 500", done_s=1.0)
    timeline = Timeline()
    result = Result(Scenario(), Settings.model_construct(), timeline, Delays(), [row], 0.0)
    assert any("HTTP 500" in problem for problem in judge(result))
    assert {"no GPU node came", "the LLM answered nothing: no replica came in time"} < set(judge(result))
    timeline.level(NODES_UP, 2, at=1.0)
    timeline.level(REPLICAS_READY, 1, at=2.0)
    assert {"2 GPU nodes stayed", "1 replicas of the LLM stayed"} < set(judge(result))
    row.outcome = "llm"
    timeline.level(NODES_UP, 0, at=3.0)
    timeline.level(REPLICAS_READY, 0, at=3.0)
    assert judge(result) == []


HANGING = """
import asyncio, os, sys
from loadtest.rehearsal.cluster import own_folder
from loadtest.rehearsal.keeper import MARK

async def main():
    async with own_folder() as folder:
        environment = {**os.environ, MARK: str(folder)}
        await asyncio.create_subprocess_exec("sleep", "600", env=environment, start_new_session=True)
        print(folder, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_nothing_outlives_a_killed_rehearsal() -> None:
    """`kill -9` of the command: what it started is ended and its folder removed, by a process that notices."""
    command = subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    folder = Path(command.stdout.readline().strip())
    started = family(folder)
    assert "sleep" in {process.name() for process in started}
    command.kill()
    command.wait()
    gone, alive = psutil.wait_procs(started, timeout=30)
    assert (len(gone), alive) == (len(started), [])
    assert not folder.exists()


def test_a_cold_answer_beside_a_warm_replica_is_noticed() -> None:
    """Not those around the time when the replica came or went."""
    rows = [Row(at, "extractive", 3, outcome="extractive", cold=True) for at in (5.0, 10.5, 15.0, 19.9, 25.0)]
    timeline = Timeline()
    timeline.level(REPLICAS_READY, 1, at=10.0)
    timeline.level(REPLICAS_READY, 2, at=12.0)
    timeline.level(REPLICAS_READY, 0, at=20.0)
    assert Result(Scenario(), Settings.model_construct(), timeline, Delays(), rows, 0.0).needlessly_cold() == 1
