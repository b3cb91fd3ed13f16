"""An engine that says what it is told, when it is told: known text, known timings, known failures.

It stands where vLLM stands, so that what the stack adds can be measured against timings that are known exactly, and
so that cold starts and failures can be seen without waiting for one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from serving.errors import AnchorageError, EngineCold
from serving.generation import (
    Batch,
    Done,
    GenerationEvent,
    GenerationRequest,
    Readiness,
    Token,
    Usage,
)
from serving.limits import limited, pieces_of

#: A fixed text, one per request, or ready pieces (one Token each).
Script: TypeAlias = str | Sequence[str] | Callable[[GenerationRequest], str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each token is ready, and what goes wrong.

    Token `i` is ready `first_s + i * gap_s` seconds after the call, whether or not anybody reads: a slow reader gets
    what has become ready meanwhile in one batch, of at most `max_batch` tokens. `failure` is raised once `fail_after`
    tokens are out (0: instead of the first).
    """

    first_s: float = 0.0
    gap_s: float = 0.0
    max_batch: int = 64
    fail_after: int | None = None
    failure: AnchorageError | None = None


class ScriptedGenerator:
    """Implements `generation.Generator`.

    `readiness` values are given out one per call, the last one for ever. `requests`, `wakes` and `closed` (calls ended
    by their reader before Done) are for whoever watches.
    """

    def __init__(
        self,
        script: Script,
        schedule: Schedule = Schedule(),
        readiness: Sequence[Readiness] = (Readiness(ready=True),),
    ) -> None:
        self._script = script
        self._schedule = schedule
        self._readiness = list(readiness)
        self.requests: list[GenerationRequest] = []
        self.wakes = 0
        self.closed = 0

    async def readiness(self) -> Readiness:
        return self._readiness.pop(0) if len(self._readiness) > 1 else self._readiness[0]

    async def wake(self) -> None:
        self.wakes += 1

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Batch]:
        """Usage counts pieces: words with the white space before them."""
        started = time.perf_counter()
        self.requests.append(request)
        now = self._readiness[0]
        if not now.ready:
            raise EngineCold(f"The scripted engine is cold ({now.stage}).", retry_after_s=now.estimate_s)
        pieces, reason = limited(self._pieces(request), request.sampling)
        try:
            async for batch in self._on_schedule(pieces, started):
                yield batch
        except (GeneratorExit, asyncio.CancelledError):
            self.closed += 1
            raise
        yield [Usage(prompt_tokens=_prompt_tokens(request), completion_tokens=len(pieces)), Done(reason)]

    def _pieces(self, request: GenerationRequest) -> list[str]:
        script = self._script(request) if callable(self._script) else self._script
        return pieces_of(script) if isinstance(script, str) else list(script)

    async def _on_schedule(self, pieces: Sequence[str], started: float) -> AsyncIterator[list[GenerationEvent]]:
        plan = self._schedule
        last = len(pieces) if plan.fail_after is None else min(plan.fail_after, len(pieces))
        sent = 0
        while sent < last:
            await asyncio.sleep(max(0.0, started + plan.first_s + sent * plan.gap_s - time.perf_counter()))
            ready = self._ready(time.perf_counter() - started, last)
            upto = min(max(ready, sent + 1), sent + plan.max_batch)
            yield [Token(piece) for piece in pieces[sent:upto]]
            sent = upto
        if plan.fail_after is not None and plan.failure is not None:
            raise plan.failure

    def _ready(self, elapsed_s: float, last: int) -> int:
        if self._schedule.gap_s <= 0:
            return last
        return min(last, int((elapsed_s - self._schedule.first_s) / self._schedule.gap_s) + 1)


def _prompt_tokens(request: GenerationRequest) -> int:
    texts = [request.prompt or "", *(str(message.get("content") or "") for message in request.messages)]
    return sum(len(pieces_of(text)) for text in texts)
