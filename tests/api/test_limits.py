"""Turns, deadlines, clients that leave, engines that fail or are cold."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from serving.answer import Report
from serving.api.admission import Admission
from serving.api.chunks import Chunks
from serving.api.streaming import EventStream
from serving.api.tally import Tally
from serving.api.trace import Trace
from serving.errors import (
    CatalogUnavailable,
    EmbedderUnavailable,
    EngineCold,
    EngineUnavailable,
    IndexUnavailable,
    Overloaded,
)
from serving.generation import Done, Progress, Readiness, Token, Usage
from serving.scripted import Schedule
from serving.telemetry import Telemetry
from tests.api.conftest import PASSAGES, Replay, Stage, Staging, until

ASK: Any = [{"role": "user", "content": "What is a Pod?"}]
REPORT = Report("answered", "vllm", "scripted", "default", 1, PASSAGES)
LONG = ["word "] * 10_000


def running(stage: Stage, name: str = "anchorage_requests_running", pool: str = "answers") -> float | None:
    return stage.services.telemetry.registry.get_sample_value(name, {"pool": pool})


async def test_a_stream_begins_before_the_answer_ends(staged: Staging) -> None:
    """The first token is there while the engine still has hours to write."""
    async with staged(script=LONG, schedule=Schedule(gap_s=1.0)) as stage:
        stream = await stage.client.chat.completions.create(model="scripted", messages=ASK, stream=True)
        texts = [chunk.choices[0].delta.content async for chunk in _first(stream, 2)]
        assert texts == ["", "word "]
        await stream.close()


async def _first(stream: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(stream)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_stops_its_generation(staged: Staging, streamed: bool) -> None:
    """The engine's iterator is closed and the turn given back, though the next token is a minute away."""
    async with staged(script=LONG, schedule=Schedule(gap_s=60.0), max_concurrent=1) as stage:
        body = {"model": "scripted", "messages": ASK, "stream": streamed}
        asking = asyncio.create_task(_read(stage, body))
        await until(lambda: stage.generator.requests and running(stage) == 1)
        asking.cancel()
        await until(lambda: stage.generator.closed == 1)
        await until(lambda: running(stage) == 0)
        gauge = stage.services.telemetry.registry.get_sample_value
        assert gauge("anchorage_engine_running", {"model": "scripted"}) == 0
        assert gauge("anchorage_engine_waiting", {"model": "scripted"}) == 0


async def _read(stage: Stage, body: dict[str, Any]) -> None:
    async with (
        httpx.AsyncClient(timeout=60, trust_env=False) as http,
        http.stream("POST", f"{stage.url}/v1/chat/completions", json=body) as reply,
    ):
        async for _ in reply.aiter_bytes():
            pass


async def test_beyond_the_queue_it_is_429_at_once(staged: Staging) -> None:
    """One works, one waits, the third is told when to come back; the waiting one gets its turn. Lookups go on."""
    async with staged(script=LONG, schedule=Schedule(gap_s=60.0), max_concurrent=1, max_queued=1) as stage:
        body = {"model": "scripted", "messages": ASK}
        tasks = [asyncio.create_task(_read(stage, body)) for _ in range(2)]
        await until(lambda: running(stage, "anchorage_requests_queued") == 1)
        refused = await stage.chat(stream=True)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            await stage.client.chat.completions.create(model="scripted", messages=ASK)
        assert (await stage.post("/v1/search", {"query": "Pod"})).status_code == 200
        tasks[0].cancel()
        await until(lambda: len(stage.generator.requests) == 2)
        assert running(stage, "anchorage_requests_queued") == 0
        tasks[1].cancel()
        await until(lambda: running(stage) == 0)


async def test_waiting_for_a_turn_counts_against_the_deadline(staged: Staging) -> None:
    """A request whose time runs out in the queue is a 504 that says so, and leaves the queue."""
    async with staged(script=LONG, schedule=Schedule(gap_s=60.0), max_concurrent=1) as stage:
        holder = asyncio.create_task(_read(stage, {"model": "scripted", "messages": ASK}))
        await until(lambda: running(stage) == 1)
        reply = await stage.post(
            "/v1/chat/completions", {"model": "scripted", "messages": ASK}, **{"X-Request-Timeout-Seconds": "0.05"}
        )
        assert reply.status_code == 504
        assert "queue" in reply.json()["error"]["message"]
        assert running(stage, "anchorage_requests_queued") == 0
        holder.cancel()
        await until(lambda: running(stage) == 0)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_deadline_before_the_first_token_is_504(staged: Staging, streamed: bool) -> None:
    """By setting, and shorter by header; the engine is stopped."""
    async with staged(schedule=Schedule(first_s=60.0), deadline_s=0.5) as stage:
        reply = await stage.chat(stream=streamed)
        assert reply.status_code == 504
        assert reply.json()["error"]["code"] == "deadline_exceeded"
        assert int(reply.headers["retry-after"]) >= 1
        await until(lambda: stage.generator.closed == len(stage.generator.requests))


async def test_an_answerer_that_ignores_the_deadline_is_stopped_all_the_same(staged: Staging) -> None:
    """The edge keeps the deadline itself where the parts below do not."""

    class Stuck(Replay):
        async def answer(self, ask: Any) -> Any:
            yield [REPORT]
            await asyncio.Event().wait()

    async with staged(answerer=Stuck([]), deadline_s=0.05) as stage:
        assert (await stage.chat()).status_code == 504
        assert (await stage.chat(stream=True)).status_code == 504


async def test_a_deadline_in_the_middle_of_a_stream_is_its_last_event(staged: Staging) -> None:
    """The stream ends as HTTP says, with an error that the client raises."""
    async with staged(script=LONG, schedule=Schedule(gap_s=60.0), deadline_s=1.5) as stage:
        reply = await stage.chat(stream=True)
        assert reply.status_code == 200
        *_, last = reply.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert "[DONE]" not in reply.text


@pytest.mark.parametrize("failure", [EngineUnavailable("The LLM died."), ZeroDivisionError("secret detail")])
async def test_a_failure_after_the_first_byte_is_a_last_error_event(staged: Staging, failure: Exception) -> None:
    """The openai client raises APIError on it; the text so far has arrived; nothing of the inside is told."""
    async with staged(answerer=Replay([[REPORT, Token("so far")]], failure)) as stage:
        stream = await stage.client.chat.completions.create(model="scripted", messages=ASK, stream=True)
        assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "so far"]
        with pytest.raises(openai.APIError) as broken:
            await anext(stream)
        assert not isinstance(broken.value, openai.APIConnectionError)
        assert "secret" not in str(broken.value)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (IndexUnavailable("Milvus does not answer."), 503, "milvus_unavailable"),
        (CatalogUnavailable("The catalog does not answer."), 503, "catalog_unavailable"),
        (EmbedderUnavailable("The embedder does not answer."), 503, "embedder_unavailable"),
        (Overloaded("Full.", retry_after_s=7.2), 429, "overloaded"),
    ],
)
async def test_a_part_that_is_down_is_named(staged: Staging, failure: Exception, status: int, code: str) -> None:
    """Before the first byte a failure has its own status and Retry-After, streamed or not; it recovers by itself."""
    async with staged() as stage:
        stage.shelf.failure = failure
        for reply in (
            await stage.chat(),
            await stage.chat(stream=True),
            await stage.post("/v1/search", {"query": "x"}),
        ):
            assert reply.status_code == status
            assert reply.json()["error"]["code"] == code
            assert int(reply.headers["retry-after"]) >= 1
        stage.shelf.failure = None
        assert (await stage.chat()).status_code == 200


async def test_an_engine_that_fails_at_once_has_a_status(staged: Staging) -> None:
    """The passages were found already, but no byte was sent: 502."""
    failure = EngineUnavailable("The LLM died.", retry_after_s=3)
    async with staged(answerer=Replay([[REPORT]], failure)) as stage:
        reply = await stage.chat(stream=True)
        assert (reply.status_code, reply.headers["retry-after"]) == (502, "3")


async def test_an_unforeseen_error_is_500_without_its_reason(
    staged: Staging, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client learns the request id only; the log has the traceback under that id."""
    async with staged() as stage:
        stage.shelf.failure = ZeroDivisionError("secret detail")
        reply = await stage.post("/v1/search", {"query": "x"}, **{"X-Request-Id": "find-me"})
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] == "find-me"
    logged = capsys.readouterr().out
    assert "secret detail" in logged
    assert "find-me" in logged


async def test_a_cold_engine_by_the_callers_choice(staged: Staging) -> None:
    """reject: 503 with the estimate; extractive: an answer that says so; wait: progress, then the answer."""
    cold = Readiness(ready=False, stage="weights", elapsed_s=1.0, estimate_s=42.0)
    async with staged(readiness=[cold]) as stage:
        reply = await stage.chat(rag={"on_cold": "reject"}, stream=True)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "42")
        assert reply.json()["error"]["code"] == "llm_cold"
        stood_in = (await stage.chat(rag={"on_cold": "extractive"})).json()["rag"]
        assert (stood_in["outcome"], stood_in["engine"], stood_in["cold"]) == ("extractive", "extractive", True)
        assert stage.generator.wakes >= 2
    async with staged(readiness=[cold, Readiness(ready=True)]) as stage:
        reply = await stage.chat(rag={"on_cold": "wait"}, stream=True)
        comments = [line[2:] for line in reply.text.split("\n") if line.startswith(": ")]
        assert json.loads(comments[0])["stage"] == "weights"
        assert reply.text.endswith("data: [DONE]\n\n")


async def test_the_openai_client_skips_progress(staged: Staging) -> None:
    """Comments before and between chunks are nothing to it."""
    batches = [[REPORT, Progress("node", 0.5)], [Progress("image", 1.5)], [Token("x")], [Usage(1, 1), Done("stop")]]
    async with staged(answerer=Replay(batches)) as stage:
        stream = await stage.client.chat.completions.create(model="scripted", messages=ASK, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == "x"


async def test_a_long_silence_is_broken() -> None:
    """Once the passages are there a proxy sees a byte in time: first the passages, then comments."""

    class Slow(Replay):
        async def answer(self, ask: Any) -> Any:
            yield [REPORT]
            await until(lambda: b"".join(sent).count(b": waiting") >= 2)
            yield [Token("x"), Usage(1, 1), REPORT, Done("stop")]

    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", message["type"].encode()))

    trace = Trace("id", 0.0, send)
    tally = Tally("scripted", trace, Telemetry())
    chunks = Chunks({"id": "id"}, tally, chat=True, include_usage=False)
    await EventStream(Slow([]).answer(None), chunks, tally, send, heartbeat_s=0.01).run(send)
    assert sent[0] == b"http.response.start"
    assert b'"passages"' in sent[1]
    assert sent[2].startswith(b": waiting")
    assert b"".join(sent).count(b'"role"') == 1
    assert sent[-1] == b"data: [DONE]\n\n"


async def test_turns_are_taken_in_order_and_given_back_on_errors() -> None:
    """First come, first served; an error inside a turn, or a wait that is cancelled, leaves no trace."""
    admission = Admission("answers", concurrent=1, queued=2)
    order: list[int] = []
    gate = asyncio.Event()

    async def work(number: int) -> None:
        async with admission.turn():
            await gate.wait()
            order.append(number)
            raise EngineCold("cold")

    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(work(number)))
        await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        async with admission.turn():
            pass
    tasks[1].cancel()
    gate.set()
    await asyncio.wait(tasks)
    assert order == [0, 2]
    assert (admission.running, admission.queued) == (0, 0)
