"""Replicas that follow questions on a real Ray Serve: none, some under load, none again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from .conftest import Stack, serving, until

LLM = {
    "model": "scripted",
    "min_replicas": 0,
    "max_replicas": 2,
    "on_cold": "wait",
    "env": {
        "RAYLLM_VLLM_ENGINE_CLS": "serving.deployments.scripted.ScriptedEngine",
        "ANCHORAGE_SCRIPT": json.dumps({"tokens": 40, "burst": 10, "gap_s": 0.5, "start_s": 2.0}),
    },
}
#: Hasty: a test has no minutes.
SCALING = {"llm_requests": 4, "api_requests": 6, "busy": 0.3, "down_delay_s": 5, "to_zero_delay_s": 5, "up_delay_s": 1}
NO_RETRIEVAL = "scripted@none"
#: Longer than a replica takes to start on a machine that is busy with other things.
PATIENCE_S = 90.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("scaling")
    more = {"max_replicas": 2}
    async with serving(folder, api=more, embedder=more, llm=LLM, scaling=SCALING) as running:
        yield running


@asynccontextmanager
async def clients(count: int, ask: Callable[[], Awaitable[Any]]) -> AsyncIterator[list[Any]]:
    """So many who ask again and again; what they were answered."""
    answers: list[Any] = []

    async def one() -> None:
        while True:
            answers.append(await ask())

    asking = [asyncio.create_task(one()) for _ in range(count)]
    try:
        yield answers
    finally:
        for task in asking:
            task.cancel()
        for task in asking:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def replicas(stack: Stack, metric: str) -> int:
    """How many have this metric. Asking for metrics is no work, and keeps nobody awake."""
    page = await stack.metrics()
    return len(set(re.findall(rf'^{metric}{{[^}}]*replica="([^"]+)"', page, re.MULTILINE)))


async def llm_replicas(stack: Stack) -> int:
    return await replicas(stack, "anchorage_engine_requests")


async def test_the_first_question_wakes_the_llm_and_hears_how_it_goes(stack: Stack) -> None:
    """Stages with an estimate while it waits, then the answer; the start is in the metrics."""
    assert await llm_replicas(stack) == 0
    body = {"model": NO_RETRIEVAL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "stream": True}
    async with stack.http.stream("POST", "/v1/chat/completions", json=body) as response:
        text = (await response.aread()).decode()
    progress = [json.loads(comment) for comment in re.findall(r"^: (\{.*\})$", text, re.MULTILINE)]
    assert {said["stage"] for said in progress} <= {"asleep", "node", "weights"}
    assert progress[0]["estimate_s"] > 100, "nobody has seen a start yet: the setting's 120 s, less what has passed"
    assert '"content":" w0"' in text
    page = (await stack.http.get("/metrics")).text
    seconds = dict(re.findall(r'^anchorage_llm_start_seconds\{.*stage="(\w+)".*\} (\S+)$', page, re.MULTILINE))
    # The engine takes 2.0 s; the beginning and the end are seen by looks, a quarter of a second apart.
    assert float(seconds["weights"]) >= 1.5
    assert float(seconds["ready"]) >= float(seconds["weights"])


async def test_more_questions_get_more_replicas_and_none_fails(stack: Stack) -> None:
    """Eight at a time where a replica is to carry four: there are two, and all answers are whole."""

    async def ask() -> str:
        reply = await stack.chat(NO_RETRIEVAL)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["finish_reason"])

    async with clients(8, ask) as answers:
        await until(lambda: _is(llm_replicas(stack), 2), PATIENCE_S)
        await until(lambda: _is(replicas(stack, "anchorage_requests_running"), 2), PATIENCE_S)
    assert set(answers) == {"stop"}


async def test_without_questions_the_llm_sleeps_and_the_next_estimate_is_learnt(stack: Stack) -> None:
    """Though its metrics are asked for all the time. Then Retry-After says what the last start took."""
    await until(lambda: _is(llm_replicas(stack), 0), PATIENCE_S)

    async def asleep() -> bool:
        part = (await stack.http.get("/readyz")).json()["parts"]["llm"]
        return "asleep" in str(part.get("reason"))

    await until(asleep, PATIENCE_S)
    rejected = await stack.chat(NO_RETRIEVAL, rag={"on_cold": "reject"})
    assert rejected.status_code == 503
    assert int(rejected.headers["retry-after"]) < 100


async def test_more_texts_get_another_embedder(stack: Stack) -> None:
    """By the time that its forward passes take, of those that run and those that wait."""
    texts = ["When the sun and the moon pull along one line, tides are high. " * 10] * 8
    await until(lambda: embedders(stack, 1), PATIENCE_S)

    async def ask() -> int:
        return (await stack.http.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": texts})).status_code

    async with clients(4, ask) as answers:
        await until(lambda: embedders(stack, 2), PATIENCE_S)
    assert set(answers) == {200}


async def embedders(stack: Stack, count: int) -> bool:
    """Whether there are so many processes; a busy one is late with its metrics."""
    return len(stack.server.titled("ray::ServeReplica:anchorage:Embedder")) == count


async def _is(count: Awaitable[int], expected: int) -> bool:
    return await count == expected
