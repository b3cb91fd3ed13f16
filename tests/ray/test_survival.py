"""No stream is cut because replicas are killed, scaled down or rolled over: 64 long answers at a time, each whole."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import pytest_asyncio

from tests.e2e.running_stack import MARK, marked, titled

from .conftest import until

STREAMS = 64
#: Words of an answer. At 50 a second they take 8 s, so that all are under way when something happens.
WORDS = 400
#: A dead engine's answers end long after they said so.
SCRIPT = {"tokens": 4096, "gap_s": 0.02, "end_s": 2.0}
REPLICA = "ray::ServeReplica:anchorage:Llm"
MODEL = "scripted@none"


def settings(folder: Path, *, replicas: int, version: str = "1") -> dict[str, Any]:
    llm = {
        "model": "scripted",
        "min_replicas": replicas,
        "max_replicas": replicas,
        "env": {
            "RAYLLM_VLLM_ENGINE_CLS": "serving.deployments.scripted.ScriptedEngine",
            "ANCHORAGE_SCRIPT": json.dumps(SCRIPT),
            "VERSION": version,
        },
    }
    api = {"replicas": 2, "port": 0, "uploads": False}
    return {"api": api, "llm": llm, "index": {"catalog_url": f"sqlite:///{folder}/catalog.db"}}


@dataclass
class Application:
    """A running `tests.ray.rolling` and its clients."""

    process: asyncio.subprocess.Process
    folder: Path
    mark: str
    url: str
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI

    async def deploy(self, *, replicas: int, version: str) -> None:
        """Returns when Serve has been told; replicas come and go from then on."""
        new = settings(self.folder, replicas=replicas, version=version)
        new["api"]["port"] = httpx.URL(self.url).port
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(new).encode() + b"\n")
        async for line in self.process.stdout:
            # Ray tells of the processes that were killed here, too.
            if line == b"deployed\n":
                return
        raise AssertionError("the application ended")

    async def until_ready(self, replicas: int) -> list[psutil.Process]:
        """So many replicas of the Llm answer, and no more: these."""
        found: list[psutil.Process] = []

        async def ready() -> bool:
            answering = await self.in_engines()
            found[:] = self.replicas() if len(answering) == replicas else []
            return len(found) == replicas

        await until(ready, 90)
        return found

    async def in_engines(self) -> dict[str, float]:
        """Requests in the engine of each replica."""
        page = await self.http.get("/metrics")
        assert page.status_code == 200, page.text
        found = re.findall(r'^anchorage_engine_requests\{.*replica="([^"]+)".*\} (\S+)$', page.text, re.M)
        return {replica: float(count) for replica, count in found}

    def replicas(self) -> list[psutil.Process]:
        """Processes of Llm replicas."""
        return titled(self.mark, REPLICA)


@dataclass
class Heard:
    """What one client got."""

    words: list[str] = field(default_factory=list)
    reason: str | None = None
    usage: tuple[int, int] | None = None
    resumed: int = 0

    @property
    def whole(self) -> bool:
        """Every token in order exactly once, counted right, and ended for its own reason."""
        expected = [f"w{number}" for number in range(WORDS)]
        return (self.words, self.reason, self.usage) == (expected, "length", (7, WORDS))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def application(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Application]:
    folder, mark = tmp_path_factory.mktemp("survival"), uuid.uuid4().hex
    groups = settings(folder, replicas=2).items()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.ray.rolling",
        env={**os.environ, MARK: mark, **{f"ANCHORAGE_{name.upper()}": json.dumps(group) for name, group in groups}},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(240):
            url = (await process.stdout.readline()).decode().strip()
        assert url
        async with (
            httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client,
        ):
            yield Application(process, folder, mark, url, http, client)
        process.stdin.close()
        async with asyncio.timeout(300):
            assert await process.wait() == 0
    finally:
        for left in marked(mark):
            with suppress(psutil.NoSuchProcess):
                left.kill()


async def listen(application: Application, heard: Heard) -> None:
    stream = await application.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=WORDS,
        stream=True,
        stream_options={"include_usage": True},
        # An Api hears of a new replica a moment after the metrics do.
        extra_body={"rag": {"on_cold": "wait"}},
    )
    async for chunk in stream:
        if chunk.usage is not None:
            heard.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices:
            heard.words += (choice.delta.content or "").split()
            heard.reason = choice.finish_reason or heard.reason
        rag = (chunk.model_extra or {}).get("rag") or {}
        heard.resumed = rag.get("resumed", heard.resumed)


@dataclass
class UnderWay:
    """64 answers, each with its first words; their end; and the replicas that write them."""

    heard: list[Heard]
    ended: asyncio.Future[list[None]]
    replicas: list[psutil.Process]

    @property
    def cut(self) -> list[Heard]:
        return [each for each in self.heard if not each.whole]

    @property
    def resumed(self) -> int:
        return sum(each.resumed for each in self.heard)


async def under_way(application: Application) -> UnderWay:
    # Known before: finding them takes seconds on a busy machine.
    replicas = await application.until_ready(2)
    return UnderWay(*await all_began(application, STREAMS), replicas)


async def test_a_replica_that_is_killed_cuts_no_stream(application: Application) -> None:
    """Half of the answers lose their replica, and go on in the other one from the very token."""
    answers = await under_way(application)
    answers.replicas[0].kill()
    await answers.ended
    assert answers.cut == []
    assert 0 < answers.resumed < STREAMS
    page = (await application.http.get("/metrics")).text
    assert re.search(r'^anchorage_answers_resumed_total\{.*reason="replica"', page, re.M)


async def test_answers_wait_for_a_new_replica_when_all_are_killed(application: Application) -> None:
    """Nobody is there to go on with the answers: they wait, their connections stay, and then they are whole."""
    answers = await under_way(application)
    for replica in answers.replicas:
        replica.kill()
    await answers.ended
    assert answers.cut == []
    # Twice, where it went on in the second replica before that one was killed as well.
    assert {heard.resumed for heard in answers.heard} <= {1, 2}


async def all_began(application: Application, count: int) -> tuple[list[Heard], asyncio.Future[list[None]]]:
    """So many answers, each with its first words: one that has none is not kept waiting for a new engine."""
    heard = [Heard() for _ in range(count)]
    ended = asyncio.gather(*(listen(application, each) for each in heard))

    async def began() -> bool:
        return ended.done() or all(len(each.words) > 10 for each in heard)

    await until(began, 60)
    assert not ended.done()
    return heard, ended


async def kill_an_engine(application: Application) -> httpx.Response:
    """One and no more: an answer with logprobs does not go on elsewhere once it has begun."""
    asked = {"messages": [{"role": "user", "content": "!speak and die"}], "logprobs": True}
    return await application.http.post("/v1/chat/completions", json={"model": MODEL, **asked})


async def test_answers_outlive_their_engine(application: Application) -> None:
    """It dies of another's request: what it was writing goes on in the other engine, and its replica is replaced."""
    before = await application.until_ready(2)
    heard: list[Heard] = []
    ended: list[asyncio.Future[list[None]]] = []

    async def both_write() -> bool:
        """Routers hear of a new replica a moment after the metrics do."""
        more, end = await all_began(application, 8)
        heard.extend(more)
        ended.append(end)
        loads = await application.in_engines()
        return len(loads) == 2 and min(loads.values()) > 0

    await until(both_write, 60)
    died = await kill_an_engine(application)
    assert died.status_code == 502
    assert "engine is dead" in died.json()["error"]["message"]
    await asyncio.gather(*ended)
    assert all(each.whole for each in heard)
    assert {each.resumed for each in heard} == {0, 1}
    assert await application.until_ready(2) != before


async def test_a_request_that_kills_engines_is_given_up(application: Application) -> None:
    """It is tried on no more than three; then it is an error of the engine."""
    before = await application.until_ready(2)
    died = await application.http.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "!die"}]}
    )
    assert died.status_code == 502
    assert "engine is dead" in died.json()["error"]["message"]
    assert await application.until_ready(2) != before


async def test_a_rolling_update_to_fewer_replicas_cuts_no_stream(application: Application) -> None:
    """Under 64 streams every replica of Api and Llm is replaced, two by one: each finishes what it has begun."""
    answers = await under_way(application)
    await application.deploy(replicas=1, version="2")
    await answers.ended
    assert answers.cut == []
    assert answers.resumed == 0
    (new,) = await application.until_ready(1)
    assert new not in answers.replicas


async def test_an_engine_that_died_is_not_asked_again(application: Application) -> None:
    """There is no other one. Its answers hear that it broke long before they end, and ask again at once: nobody finds
    it once more, which would count as another loss, until the new one is there.
    """
    before = application.replicas()
    await application.deploy(replicas=1, version="3")

    async def alone() -> bool:
        return not set(await application.until_ready(1)) & set(before)

    await until(alone, 90)
    heard, ended = await all_began(application, 4)
    died = await kill_an_engine(application)
    assert died.status_code == 502
    await ended
    assert all(each.whole for each in heard)
    assert {each.resumed for each in heard} == {1}
