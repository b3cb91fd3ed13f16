"""The whole stack on Ray Serve with two Api replicas, a scripted engine and scale to zero. The LLM starts cold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
import pytest_asyncio

from .conftest import QUESTION, Stack, runs, serving, until

SCRIPT = {"tokens": 40_000, "gap_s": 0.01, "start_s": 4.0}
LLM = {
    "model": "scripted",
    "min_replicas": 0,
    "env": {
        "RAYLLM_VLLM_ENGINE_CLS": "serving.deployments.scripted.ScriptedEngine",
        "ANCHORAGE_SCRIPT": json.dumps(SCRIPT),
    },
}
NO_RETRIEVAL = "scripted@none"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with serving(tmp_path_factory.mktemp("scripted"), api={"replicas": 2}, llm=LLM) as running:
        yield running


async def warm(stack: Stack) -> None:
    async def answers() -> bool:
        return (await stack.chat(NO_RETRIEVAL, max_tokens=1, rag={"on_cold": "reject"})).status_code == 200

    await until(answers, 60)


async def test_a_cold_engine_is_rejected_with_an_estimate_or_stood_in_for(stack: Stack) -> None:
    """With no replica the caller gets 503 with Retry-After, or the passages' own sentences, and the wake-up begins."""
    rejected = await stack.chat("scripted", QUESTION, rag={"on_cold": "reject"})
    instead = await stack.chat("scripted", QUESTION, rag={"on_cold": "extractive"})
    assert rejected.status_code == 503
    assert int(rejected.headers["retry-after"]) >= 1
    assert instead.status_code == 200
    assert instead.json()["rag"]["outcome"] == "extractive"
    assert "twice a month" in instead.json()["choices"][0]["message"]["content"]


async def test_a_caller_who_waits_gets_progress_and_then_the_answer(stack: Stack) -> None:
    """The one replica that the first question woke answers the caller that waited."""
    body = {"model": NO_RETRIEVAL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "stream": True}
    async with stack.http.stream("POST", "/v1/chat/completions", json={**body, "rag": {"on_cold": "wait"}}) as response:
        text = (await response.aread()).decode()
    assert response.status_code == 200
    assert ': {"stage":"' in text
    assert '"content":" w0"' in text
    assert text.rstrip().endswith("data: [DONE]")


async def test_both_replicas_give_the_same_answers(stack: Stack) -> None:
    """Twenty connections reach both Api replicas, and nobody can tell which one answered."""

    async def ask() -> str:
        async with httpx.AsyncClient(base_url=stack.server.url, trust_env=False, timeout=60) as http:
            body = {"model": "extractive", "messages": [{"role": "user", "content": QUESTION}]}
            reply = (await http.post("/v1/chat/completions", json=body)).json()
            # The last digits of a score depend on the company that the question had in its forward pass.
            passages = [{**passage, "score": round(passage["score"], 2)} for passage in reply["rag"]["passages"]]
            return json.dumps([reply["choices"], passages, reply["rag"]["generation"]])

    answers: set[str] = set()
    metrics = ""

    async def both() -> bool:
        """The second one may still start."""
        nonlocal metrics
        answers.update(await asyncio.gather(*(ask() for _ in range(20))))
        metrics = await stack.metrics()
        served = [line for line in metrics.splitlines() if line.startswith("anchorage_answers_total{")]
        return len({line.split('replica="')[1].split('"')[0] for line in served}) == 2

    await until(both, 60)
    assert len(answers) == 1
    assert metrics.count("# TYPE anchorage_answers_total ") == 1
    assert "anchorage_embedder_passes_total{" in metrics


async def test_tokens_are_streamed_as_they_come_with_usage_at_the_end(stack: Stack) -> None:
    """One event a token, in order, then the reason and the usage."""
    await warm(stack)
    stream = await stack.client.chat.completions.create(
        model=NO_RETRIEVAL,
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=50,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert words == [f" w{number}" for number in range(50)]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 50
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


async def test_a_client_that_goes_away_stops_its_generation(stack: Stack) -> None:
    """After the first token the client hangs up, and the engine's count of running requests goes to none."""
    await warm(stack)
    stream = await stack.client.chat.completions.create(
        model=NO_RETRIEVAL, messages=[{"role": "user", "content": "hello"}], stream=True
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    await until(partial(runs, stack, 1), 30)
    await stream.close()
    # Long before the answer's own end.
    await until(partial(runs, stack, 0), 30)


async def test_a_dead_engine_is_a_clear_error_and_is_replaced(stack: Stack) -> None:
    """The engine fails in the middle of an answer: an error that says so; the next replica answers."""
    await warm(stack)
    failed = await stack.chat(NO_RETRIEVAL, "!die")
    assert failed.status_code == 502
    assert "engine is dead" in failed.json()["error"]["message"]
    await warm(stack)


async def test_a_killed_replica_interrupts_an_answer(stack: Stack) -> None:
    """The only replica is killed while it streams: others are served, and the next replica goes on with the answer."""
    await warm(stack)
    stream = await stack.client.chat.completions.create(
        model=NO_RETRIEVAL, messages=[{"role": "user", "content": "hello"}], max_tokens=400, stream=True
    )
    words = []
    async for chunk in stream:
        words += (chunk.choices[0].delta.content or "").split() if chunk.choices else []
        if len(words) == 10:
            for replica in stack.processes("ray::ServeReplica:anchorage:Llm"):
                replica.kill()
            assert (await stack.chat("extractive", QUESTION)).status_code == 200
    assert words == [f"w{number}" for number in range(400)]
