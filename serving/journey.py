"""One request on its way through the pipeline: its deadline, its timings, and the Report of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from serving.answer import AnswerEvent, Ask, EngineInfo, Outcome, Report, Retrieved
from serving.errors import DeadlineExceeded
from serving.generation import Done, Token
from serving.index.types import Passage
from serving.prompt import Prompt

T = TypeVar("T")


@dataclass(slots=True)
class Journey:
    """What is known of a request so far. `engine` is the one that writes, which a cold start may change."""

    ask: Ask
    engine: EngineInfo
    question: str = ""
    retrieved: Retrieved | None = None
    prompt: Prompt | None = None
    cold: bool = False
    cited: int = 0
    resumed: int = 0
    reported: bool = False
    timings_ms: dict[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)
    _generating: float | None = None

    @property
    def passages(self) -> tuple[Passage, ...]:
        return self.retrieved.passages if self.retrieved else ()

    @property
    def left_s(self) -> float:
        return self._started + self.ask.deadline_s - time.perf_counter()

    async def within_deadline(self, stage: str, step: Awaitable[T]) -> T:
        """Await `step`, or raise DeadlineExceeded naming the stage.

        A limit for each await, not one around the whole: a generator must not hold a timeout across a yield, where it
        would cancel whoever is reading.
        """
        limit = asyncio.timeout(self.left_s)
        try:
            async with limit:
                return await step
        except TimeoutError as error:
            if not limit.expired():
                raise
            message = f"The request's time limit of {self.ask.deadline_s:g} s ran out in its stage {stage!r}."
            raise DeadlineExceeded(message, part=stage) from error

    def found(self, retrieved: Retrieved) -> None:
        self.retrieved = retrieved
        self.timings_ms.update(retrieved.timings_ms)

    def prompted(self, engine: EngineInfo, prompt: Prompt, since: float) -> None:
        """From here on the engine generates."""
        self.engine, self.prompt = engine, prompt
        self._generating = time.perf_counter()
        self.timings_ms["prompt"] = (self._generating - since) * 1000

    def opened(self, events: list[AnswerEvent]) -> list[AnswerEvent]:
        """The first events, behind the first Report."""
        if "first_token" not in self.timings_ms and any(isinstance(event, Token) for event in events):
            self.timings_ms["first_token"] = self._since(self._started)
        if self.reported:
            return events
        self.reported = True
        return [self.report(final=False), *events]

    def closed(self, events: list[AnswerEvent]) -> list[AnswerEvent]:
        """The last events, with the whole Report before Done."""
        if self._generating is not None:
            self.timings_ms["generate"] = self._since(self._generating)
        self.timings_ms["total"] = self._since(self._started)
        *before, done = events
        assert isinstance(done, Done)
        return [*before, self.report(final=True), done]

    def report(self, *, final: bool) -> Report:
        """What is known now; the first Report takes an extractive answer to have something to say."""
        retrieval = self.ask.retrieval
        return Report(
            outcome=self._outcome(final),
            engine=self.engine.kind,
            model=self.engine.name,
            collection=retrieval.collection if retrieval else None,
            generation=self.retrieved.generation if self.retrieved else None,
            passages=self.prompt.passages if self.prompt else self.passages,
            dropped=self.prompt.dropped if self.prompt else (),
            timings_ms=dict(self.timings_ms),
            cold=self.cold,
            resumed=self.resumed,
        )

    def _outcome(self, final: bool) -> Outcome:
        if self.ask.retrieval is not None and not self.passages:
            return "no_context"
        if self.engine.kind != "extractive":
            return "answered"
        return "no_context" if not self.passages or (final and not self.cited) else "extractive"

    def _since(self, then: float) -> float:
        return (time.perf_counter() - then) * 1000
