"""The Generator protocol and its events: what every engine, real or embedded, looks like from above.

Events come in batches: everything that the engine has ready at once. A batch is one message between processes and one
write to the client, so a slow reader gets fewer, larger batches and a fast one gets each token when it is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from serving.index.types import Passage

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


class Token(NamedTuple):
    """A piece of the answer's text, as the engine decoded it (may be several tokens, may be half a word).

    A named tuple, because there is one of it for each token: it is made in 0.2 instead of 0.3 microseconds.
    `delta` carries what a chat chunk may have besides text (tool calls, logprobs), in OpenAI's shape, or None.
    """

    text: str
    delta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The engine is not answering now; `stage` says why (node, image, weights, ready; in an answer: resuming).

    `elapsed_s`: how long the caller has waited. `estimate_s`: how much longer it should take; 0 where nobody knows.
    """

    stage: str
    elapsed_s: float
    estimate_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted by the engine's own tokenizer."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of every stream that did not raise."""

    reason: FinishReason


GenerationEvent: TypeAlias = Token | Progress | Usage | Done
Batch: TypeAlias = Sequence[GenerationEvent]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters as the caller gave them: None means not given, 0 means 0."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What an engine gets. `messages` are in OpenAI's shape and already hold the passages as the prompt put them.

    `passages` and `question` are for engines that write from passages directly (extractive).
    `prompt` is set instead of `messages` for a raw text completion. `waits`: the caller rather waits for an engine to
    start than gets an error.
    """

    request_id: str
    model: str
    messages: tuple[dict[str, Any], ...]
    sampling: Sampling
    question: str
    passages: tuple[Passage, ...] = ()
    prompt: str | None = None
    deadline_s: float | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether an engine would answer now. `estimate_s`: seconds until it should, from the last starts seen."""

    ready: bool
    stage: str = "ready"
    elapsed_s: float = 0.0
    estimate_s: float = 0.0


class Generator(Protocol):
    """Writes answers. Closing the iterator cancels the generation within one token."""

    async def readiness(self) -> Readiness:
        """Cheap enough to ask on every request."""
        ...

    async def wake(self) -> None:
        """Ask for a replica where there is none; returns at once, and is harmless when repeated."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Batch]:
        """Batches of events; the last event is Done, after Usage. A batch of Progress alone: the engine was lost, and
        another one goes on with the answer.

        Raises EngineCold before the first batch when no replica is ready, EngineUnavailable when the engine fails,
        InvalidRequest or PromptTooLong when the engine refuses the request.
        """
        ...
