"""Rag: retrieve ► prompt ► generate ► cite. The file to read first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import cast

from serving.answer import AnswerBatch, AnswerEvent, Ask, EngineInfo, Retriever
from serving.citation import CitationFilter
from serving.errors import EngineCold, EngineUnavailable, UnknownModel
from serving.generation import Batch, Done, GenerationRequest, Generator, Progress, Token, Usage
from serving.journey import Journey
from serving.prompt import Budget, Prompt, build_prompt, plain_prompt, question_of
from serving.tokens import TokenCounter

#: How often a waiting caller hears of a cold start, seconds.
PROGRESS_EVERY_S = 1.0
#: Longer conversations are counted in a thread; a tokenizer takes about 1 ms for 10,000 characters.
_INLINE_CHARACTERS = 50_000


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, wired. `tokens` None: its prompts are not counted."""

    info: EngineInfo
    generator: Generator
    tokens: TokenCounter | None = None


class Rag:
    """Implements `answer.Answerer`. `engines` by the name clients use; `extractive` also stands in for a cold one."""

    def __init__(
        self, retriever: Retriever, engines: Mapping[str, Engine], extractive: Engine, *, default_max_tokens: int = 512
    ) -> None:
        self._retriever = retriever
        self._engines = {**engines, extractive.info.name: extractive}
        self._extractive = extractive
        self._default_max_tokens = default_max_tokens

    @property
    def engines(self) -> Sequence[EngineInfo]:
        return [engine.info for engine in self._engines.values()]

    async def answer(self, ask: Ask) -> AsyncIterator[AnswerBatch]:
        *before, last = self._candidates(ask)
        journey = Journey(ask, (before or [last])[0].info)
        if ask.retrieval is not None:
            journey.question = question_of(ask.messages)
            finding = self._retriever.retrieve(journey.question, ask.retrieval)
            journey.found(await journey.within_deadline("retrieval", finding))
        if not journey.passages and (ask.retrieval is not None or last is self._extractive):
            yield _nothing_found(journey)
            return
        for engine in (*before, last):
            try:
                async with aclosing(self._write(journey, engine)) as batches:
                    async for batch in batches:
                        yield batch
                return
            except (EngineCold, EngineUnavailable):
                if journey.reported or engine is last:
                    raise
                journey.cold = True

    def _candidates(self, ask: Ask) -> list[Engine]:
        """The engine asked for and, if the caller takes it, the one that answers when that one cannot."""
        engine = self._engines.get(ask.model)
        if engine is None:
            raise UnknownModel(
                f"There is no model {ask.model!r}; there are: {', '.join(self._engines)}.", param="model"
            )
        if engine is self._extractive or ask.on_cold != "extractive" or ask.retrieval is None:
            return [engine]
        return [engine, self._extractive]

    async def _write(self, journey: Journey, engine: Engine) -> AsyncGenerator[AnswerBatch, None]:
        """Wake the engine as the caller wants it, then relay what it writes."""
        while True:
            async with aclosing(self._wake(journey, engine)) as waiting:
                async for progress in waiting:
                    yield journey.opened([progress])
            try:
                async with aclosing(self._relay(journey, engine)) as batches:
                    async for batch in batches:
                        yield batch
                return
            except EngineCold:
                # It went to sleep between the two questions.
                await journey.within_deadline("wake", engine.generator.wake())
                if journey.ask.on_cold != "wait":
                    raise
                await journey.within_deadline("wake", asyncio.sleep(PROGRESS_EVERY_S))

    async def _wake(self, journey: Journey, engine: Engine) -> AsyncGenerator[Progress, None]:
        since = time.perf_counter()
        now = await journey.within_deadline("wake", engine.generator.readiness())
        while not now.ready:
            journey.cold = True
            await journey.within_deadline("wake", engine.generator.wake())
            if journey.ask.on_cold != "wait":
                message = f"Model {engine.info.name!r} is starting ({now.stage}); about {now.estimate_s:.0f} s to go."
                raise EngineCold(message, retry_after_s=max(1.0, now.estimate_s))
            yield Progress(now.stage, time.perf_counter() - since, now.estimate_s)
            await journey.within_deadline("wake", asyncio.sleep(PROGRESS_EVERY_S))
            now = await journey.within_deadline("wake", engine.generator.readiness())

    async def _relay(self, journey: Journey, engine: Engine) -> AsyncGenerator[AnswerBatch, None]:
        since = time.perf_counter()
        prompt = await journey.within_deadline("prompt", self._prompt(journey, engine))
        journey.prompted(engine.info, prompt, since)
        citations = CitationFilter(prompt.passages) if prompt.passages else None
        # The contract lets the iterator be closed, which AsyncIterator does not say.
        stream = cast(AsyncGenerator[Batch, None], engine.generator.generate(_request(journey, engine, prompt)))
        async with aclosing(stream):
            while (batch := await journey.within_deadline("generate", anext(stream, None))) is not None:
                events: list[AnswerEvent] = citations.batch(batch) if citations else list(batch)
                if not events:
                    continue
                if isinstance(events[0], Progress):
                    journey.resumed += 1
                if "first_token" not in journey.timings_ms:
                    events = journey.opened(events)
                if isinstance(events[-1], Done):
                    journey.cited = citations.cited if citations else 0
                    yield journey.closed(events)
                    return
                yield events
        raise EngineUnavailable(f"Model {engine.info.name!r} ended its answer without finishing it.")

    async def _prompt(self, journey: Journey, engine: Engine) -> Prompt:
        ask = journey.ask
        if engine is self._extractive or ask.prompt is not None:
            return Prompt(ask.messages, journey.passages, max_tokens=ask.sampling.max_tokens)
        if sum(len(str(message.get("content"))) for message in ask.messages) > _INLINE_CHARACTERS:
            return await asyncio.to_thread(self._build, journey, engine.tokens)
        return self._build(journey, engine.tokens)

    def _build(self, journey: Journey, tokens: TokenCounter | None) -> Prompt:
        ask = journey.ask
        budget = Budget(tokens, ask.sampling.max_tokens, self._default_max_tokens, ask.sampling.extra.get("tools"))
        if ask.retrieval is None:
            return plain_prompt(ask.messages, budget)
        return build_prompt(ask.messages, journey.passages, budget)


def _request(journey: Journey, engine: Engine, prompt: Prompt) -> GenerationRequest:
    ask = journey.ask
    return GenerationRequest(
        request_id=ask.request_id,
        model=engine.info.name,
        messages=prompt.messages,
        sampling=replace(ask.sampling, max_tokens=prompt.max_tokens),
        question=journey.question,
        passages=prompt.passages,
        prompt=ask.prompt,
        deadline_s=journey.left_s,
        waits=ask.on_cold == "wait",
    )


def _nothing_found(journey: Journey) -> list[AnswerEvent]:
    """An honest answer without asking any engine."""
    retrieval = journey.ask.retrieval
    text = "There are no documents to answer from yet: ingest some, or name a collection."
    if retrieval is not None:
        text = f"No passage in collection {retrieval.collection!r} answers this question."
    opened = journey.opened([Token(text)])
    return journey.closed([*opened, Usage(prompt_tokens=0, completion_tokens=0), Done("stop")])
