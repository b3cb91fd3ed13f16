"""Rag from question to cited answer, on scripted engines: order of events, cold starts, failures, deadlines."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from serving.answer import AnswerBatch, AnswerEvent, Ask, Citation, EngineInfo, Report, RetrievalOptions, Retrieved
from serving.errors import DeadlineExceeded, EngineCold, EngineUnavailable, IndexUnavailable, UnknownModel
from serving.generation import Done, Progress, Readiness, Sampling, Token, Usage
from serving.index.types import Passage
from serving.pipeline import Engine, Rag
from serving.scripted import Schedule, ScriptedGenerator

TEXT = "kubectl drain evicts all pods from the node. It waits 30 seconds."
PASSAGE = Passage("c1", "drain.md", "Draining", TEXT, 0, len(TEXT), (), 0, 0.7)
OPTIONS = RetrievalOptions("docs", 6, "hybrid", 2, True)
COLD = Readiness(ready=False, stage="node", elapsed_s=1.0, estimate_s=42.0)
WARM = Readiness(ready=True)


class Shelf:
    """A retriever with one answer for everything, or one error."""

    def __init__(self, *passages: Passage, error: Exception | None = None) -> None:
        self.passages = passages
        self.error = error
        self.questions: list[str] = []

    async def retrieve(self, question: str, options: RetrievalOptions) -> Retrieved:
        self.questions.append(question)
        if self.error is not None:
            raise self.error
        return Retrieved(self.passages, 3, {"embed": 1.0, "search": 2.0})


def rag(llm: ScriptedGenerator, shelf: Shelf | None = None) -> Rag:
    extractive = ScriptedGenerator("kubectl drain evicts all pods from the node [1].")
    return Rag(
        shelf or Shelf(PASSAGE),
        {"llm": Engine(EngineInfo("llm", "vllm"), llm)},
        Engine(EngineInfo("extractive", "extractive"), extractive),
        default_max_tokens=77,
    )


def ask(question: str = "How do I drain a node?", **changes: Any) -> Ask:
    whole = Ask("r1", "llm", ({"role": "user", "content": question},), Sampling(), OPTIONS, "reject", 30.0)
    return replace(whole, **changes)


async def collect(rag: Rag, ask: Ask) -> list[AnswerBatch]:
    return [batch async for batch in rag.answer(ask)]


async def flat(rag: Rag, ask: Ask) -> list[AnswerEvent]:
    return [event for batch in await collect(rag, ask) for event in batch]


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


async def test_an_answer_is_reported_streamed_cited_and_closed() -> None:
    """Report, text with checked markers, usage, the whole Report, Done."""
    llm = ScriptedGenerator("kubectl drain evicts pods [1][2]. It waits 40 seconds [1].")
    events = await flat(rag(llm), ask())
    first, *_, usage, last, done = events
    assert text_of(events) == "kubectl drain evicts pods [1]. It waits 40 seconds."
    assert [(e.number, e.start_index, e.end_index) for e in events if isinstance(e, Citation)] == [(1, 0, 29)]
    assert isinstance(first, Report)
    assert isinstance(last, Report)
    assert isinstance(usage, Usage)
    assert done == Done("stop")
    assert (first.outcome, first.engine, first.collection, first.generation) == ("answered", "vllm", "docs", 3)
    assert (last.passages, last.cold) == ((PASSAGE,), False)
    assert set(last.timings_ms) == {"embed", "search", "prompt", "first_token", "generate", "total"}
    assert last.timings_ms["total"] >= last.timings_ms["first_token"] > 0
    (request,) = llm.requests
    assert request.sampling.max_tokens == 77
    assert TEXT in request.messages[-1]["content"]


async def test_batches_are_never_split() -> None:
    """What the engine sends at once leaves at once."""
    llm = ScriptedGenerator([f"w{n} " for n in range(40)], Schedule(max_batch=8))
    sizes = [sum(isinstance(e, Token) for e in batch) for batch in await collect(rag(llm), ask())]
    assert sizes == [8, 8, 8, 8, 8, 0]


async def test_without_retrieval_messages_are_untouched() -> None:
    """`MODEL@none`: no passages, no citation filter, no instructions."""
    llm = ScriptedGenerator("As in [1].")
    asked = ask(retrieval=None)
    events = await flat(rag(llm), asked)
    assert llm.requests[0].messages == asked.messages
    assert text_of(events) == "As in [1]."
    assert isinstance(events[-2], Report)
    assert (events[-2].outcome, events[-2].collection) == ("answered", None)


async def test_nothing_found_is_said_without_asking_the_engine() -> None:
    """No passage: a fixed honest sentence, outcome no_context, even while the engine is cold."""
    llm = ScriptedGenerator("x", readiness=[COLD])
    events = await flat(rag(llm, Shelf()), ask())
    assert text_of(events) == "No passage in collection 'docs' answers this question."
    assert isinstance(events[-2], Report)
    assert events[-2].outcome == "no_context"
    assert (llm.requests, llm.wakes) == ([], 0)
    none = await flat(rag(llm), ask(model="extractive", retrieval=None))
    assert "no documents" in text_of(none)


async def test_a_cold_engine_rejects_with_an_honest_time() -> None:
    """503's Retry-After comes from the engine's own estimate, and the wake-up has begun."""
    llm = ScriptedGenerator("x", readiness=[COLD])
    with pytest.raises(EngineCold) as cold:
        await flat(rag(llm), ask(on_cold="reject"))
    assert (cold.value.retry_after_s, llm.wakes) == (42.0, 1)


async def test_a_cold_engine_lets_the_extractive_one_answer() -> None:
    """The Report says which engine wrote it, and why."""
    llm = ScriptedGenerator("x", readiness=[COLD])
    events = await flat(rag(llm), ask(on_cold="extractive"))
    assert isinstance(events[0], Report)
    assert (events[0].outcome, events[0].engine, events[0].model, events[0].cold) == (
        "extractive",
        "extractive",
        "extractive",
        True,
    )
    assert sum(isinstance(e, Citation) for e in events) == 1
    assert (llm.wakes, llm.requests) == (1, [])


async def test_without_passages_to_answer_from_a_cold_engine_is_cold() -> None:
    """The extractive engine cannot stand in for plain chat."""
    with pytest.raises(EngineCold):
        await flat(rag(ScriptedGenerator("x", readiness=[COLD])), ask(on_cold="extractive", retrieval=None))


async def test_a_waiting_caller_hears_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages arrive while the engine starts; then the answer."""
    monkeypatch.setattr("serving.pipeline.PROGRESS_EVERY_S", 0.01)
    llm = ScriptedGenerator("pods", readiness=[COLD, replace(COLD, stage="weights"), WARM])
    events = await flat(rag(llm), ask(on_cold="wait"))
    assert [e.stage for e in events if isinstance(e, Progress)] == ["node", "weights"]
    assert isinstance(events[0], Report)
    assert events[0].cold
    assert text_of(events) == "pods"
    assert sum(isinstance(e, Report) for e in events) == 2


async def test_an_engine_that_fails_before_its_first_token_is_stood_in_for() -> None:
    """With on_cold=extractive; otherwise its error arrives."""
    broken = Schedule(fail_after=0, failure=EngineUnavailable("worker died"))
    events = await flat(rag(ScriptedGenerator("x", broken)), ask(on_cold="extractive"))
    assert isinstance(events[0], Report)
    assert (events[0].engine, events[0].cold) == ("extractive", True)
    with pytest.raises(EngineUnavailable, match="worker died"):
        await flat(rag(ScriptedGenerator("x", broken)), ask(on_cold="wait"))


async def test_an_engine_that_fails_after_its_first_token_fails_the_answer() -> None:
    """What was sent stays; the rest is an error, never a silent end."""
    llm = ScriptedGenerator("a b c", Schedule(fail_after=1, failure=EngineUnavailable("worker died")))
    answer = rag(llm).answer(ask(on_cold="extractive"))
    assert text_of(list(await anext(answer))) == "a"
    with pytest.raises(EngineUnavailable, match="worker died"):
        await anext(answer)


@pytest.mark.parametrize(("schedule", "stage"), [(Schedule(first_s=30), "generate"), (Schedule(gap_s=30), "generate")])
async def test_the_deadline_names_its_stage(schedule: Schedule, stage: str) -> None:
    """Before the first token and between tokens; the engine is stopped."""
    llm = ScriptedGenerator("a b c", schedule)
    with pytest.raises(DeadlineExceeded) as late:
        await flat(rag(llm), ask(deadline_s=0.05))
    assert (late.value.part, llm.closed) == (stage, 1)


async def test_the_deadline_covers_a_cold_start() -> None:
    """Nobody waits for a node longer than the request may take."""
    with pytest.raises(DeadlineExceeded) as late:
        await flat(rag(ScriptedGenerator("x", readiness=[COLD])), ask(on_cold="wait", deadline_s=0.05))
    assert late.value.part == "wake"


async def test_closing_the_answer_closes_the_engine_at_once() -> None:
    """A client that goes away frees its place in the engine within a token."""
    llm = ScriptedGenerator([f"w{n} " for n in range(1000)], Schedule(gap_s=0.001, max_batch=1))
    async with aclosing(rag(llm).answer(ask())) as answer:  # type: ignore[type-var]
        async for _ in answer:
            break
    assert llm.closed == 1


async def test_a_cancelled_reader_closes_the_engine() -> None:
    """The HTTP edge cancels its task on disconnect."""
    llm = ScriptedGenerator("a b", Schedule(first_s=60))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await flat(rag(llm), ask())
    assert llm.closed == 1


async def test_errors_of_retrieval_pass_as_they_are() -> None:
    """Nothing is swallowed and no engine is woken."""
    llm = ScriptedGenerator("x", readiness=[COLD])
    with pytest.raises(IndexUnavailable):
        await flat(rag(llm, Shelf(error=IndexUnavailable("milvus is away"))), ask(on_cold="extractive"))
    assert llm.wakes == 0


async def test_a_follow_up_is_retrieved_with_the_question_before() -> None:
    """The engine still gets the messages as they were."""
    shelf = Shelf(PASSAGE)
    messages = (
        {"role": "user", "content": "How do I drain a node?"},
        {"role": "assistant", "content": "With kubectl drain."},
        {"role": "user", "content": "and how do I undo it?"},
    )
    await flat(rag(ScriptedGenerator("x"), shelf), ask(messages=messages))
    assert shelf.questions == ["How do I drain a node?\nand how do I undo it?"]


async def test_an_extractive_answer_that_cites_nothing_is_no_context() -> None:
    """The final Report takes back what the first one hoped."""
    extractive = Engine(EngineInfo("extractive", "extractive"), ScriptedGenerator("None of the passages answers."))
    events = await flat(Rag(Shelf(PASSAGE), {}, extractive), ask(model="extractive"))
    assert [e.outcome for e in events if isinstance(e, Report)] == ["extractive", "no_context"]


async def test_an_unknown_model_lists_those_there_are() -> None:
    """404 with a way out."""
    with pytest.raises(UnknownModel, match="llm, extractive"):
        await flat(rag(ScriptedGenerator("x")), ask(model="gpt"))
    assert [info.name for info in rag(ScriptedGenerator("x")).engines] == ["llm", "extractive"]
