"""What `generation.Generator` promises, tried on every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from serving.generation import Batch, Done, GenerationRequest, Generator, Sampling, Token, Usage
from serving.index.types import Passage
from tests.contract.generators import GENERATORS

TEXT = (
    "You can use kubectl drain to evict all pods from a node. Draining a node respects disruption budgets. "
    "After maintenance, run kubectl uncordon to let the scheduler use the drained node again."
)
REQUEST = GenerationRequest(
    request_id="r1",
    model="m",
    messages=({"role": "user", "content": "How do I drain a node?"},),
    sampling=Sampling(max_tokens=64, temperature=0.0),
    question="How do I drain a node?",
    passages=(Passage("c1", "u", "Drain a node", TEXT, 0, len(TEXT), (), 0, 0.8),),
    deadline_s=60.0,
)


@pytest.fixture(params=sorted(GENERATORS), scope="module")
async def generator(request: pytest.FixtureRequest) -> AsyncIterator[Generator]:
    async with GENERATORS[request.param]() as made:
        yield made


async def collect(generator: Generator, **sampling: Any) -> list[Batch]:
    request = replace(REQUEST, sampling=replace(REQUEST.sampling, **sampling))
    return [batch async for batch in generator.generate(request)]


def text_of(batches: list[Batch]) -> str:
    return "".join(event.text for batch in batches for event in batch if isinstance(event, Token))


async def test_ready_generators_say_so(generator: Generator) -> None:
    """Waking one that is awake is harmless."""
    await generator.wake()
    assert (await generator.readiness()).ready


async def test_a_stream_is_text_then_usage_then_done(generator: Generator) -> None:
    """No batch is empty, no event follows Done."""
    batches = await collect(generator)
    assert all(len(batch) for batch in batches)
    *tokens, usage, done = [event for batch in batches for event in batch]
    assert tokens
    assert all(isinstance(event, Token) for event in tokens)
    assert isinstance(usage, Usage)
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 64
    assert isinstance(done, Done)
    assert text_of(batches).strip()


async def test_max_tokens_ends_with_length(generator: Generator) -> None:
    """And the usage says as much."""
    batches = await collect(generator, max_tokens=2)
    *_, usage, done = batches[-1] if len(batches[-1]) > 1 else [*batches[-2], *batches[-1]]
    assert done == Done("length")
    assert isinstance(usage, Usage)
    assert usage.completion_tokens == 2


async def test_a_stop_sequence_is_left_out(generator: Generator) -> None:
    """The text ends before it, with reason stop."""
    whole = text_of(await collect(generator))
    stop = whole[len(whole) // 2 :][:3]
    batches = await collect(generator, stop=(stop,))
    assert text_of(batches) == whole[: whole.index(stop)]
    assert batches[-1][-1] == Done("stop")


async def test_the_same_request_gives_the_same_text(generator: Generator) -> None:
    """Temperature 0 is 0."""
    assert text_of(await collect(generator)) == text_of(await collect(generator))


async def test_a_closed_stream_leaves_the_generator_usable(generator: Generator) -> None:
    """Closing cancels this generation and nothing else."""
    async with aclosing(generator.generate(REQUEST)) as stream:  # type: ignore[type-var]
        async for _ in stream:
            break
    assert text_of(await collect(generator)).strip()


async def test_requests_run_side_by_side(generator: Generator) -> None:
    """Two interleaved streams do not mix."""
    alone = text_of(await collect(generator))
    one, two = generator.generate(REQUEST), generator.generate(REQUEST)
    first = [await anext(one)]
    second = [await anext(two)]
    first.extend([batch async for batch in one])
    second.extend([batch async for batch in two])
    assert text_of(first) == text_of(second) == alone
