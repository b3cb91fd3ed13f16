"""What is asked and what comes back: the values between the HTTP edge and the pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from serving.generation import Done, Progress, Sampling, Token, Usage
from serving.index.types import Passage
from serving.settings import OnCold, SearchMode

Outcome: TypeAlias = Literal["answered", "no_context", "extractive"]
EngineKind: TypeAlias = Literal["vllm", "extractive"]


@dataclass(frozen=True, slots=True)
class RetrievalOptions:
    """How to retrieve. `filter` is the caller's JSON, not yet compiled; `min_score` None means no threshold."""

    collection: str
    top_k: int
    mode: SearchMode
    per_document: int
    join_neighbours: bool
    filter: Any | None = None
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages, best first, of one published generation. `timings_ms` has `embed`, `search` (and `rerank`)."""

    passages: tuple[Passage, ...]
    generation: int
    timings_ms: Mapping[str, float]


class Retriever(Protocol):
    """Question to passages."""

    async def retrieve(self, question: str, options: RetrievalOptions) -> Retrieved:
        """Raises UnknownCollection, InvalidFilter, IndexUnavailable, CatalogUnavailable, EmbedderUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an answer. `retrieval` None: no retrieval (`MODEL@none`).

    `messages` are OpenAI's; `prompt` is set instead for a text completion without retrieval.
    `model` is the engine's own name, without `@collection`.
    """

    request_id: str
    model: str
    messages: tuple[dict[str, Any], ...]
    sampling: Sampling
    retrieval: RetrievalOptions | None
    on_cold: OnCold
    deadline_s: float
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A checked citation: passage `number` (from 1) supports characters [start_index, end_index) of the answer."""

    number: int
    start_index: int
    end_index: int
    uri: str
    title: str
    chunk_id: str


@dataclass(frozen=True, slots=True)
class Report:
    """The `rag` object of an answer. Sent before the text (without what is not known yet) and, whole, at the end.

    `engine` is the kind that wrote the answer; `dropped` are passages that did not fit the prompt;
    `timings_ms` has a value per stage (embed, search, prompt, first_token, generate, total). `resumed`: how often
    another engine went on with the answer because the one that wrote it was lost.
    """

    outcome: Outcome
    engine: EngineKind
    model: str
    collection: str | None
    generation: int | None
    passages: tuple[Passage, ...] = ()
    dropped: tuple[Passage, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    cold: bool = False
    resumed: int = 0


AnswerEvent: TypeAlias = Report | Token | Citation | Progress | Usage | Done
AnswerBatch: TypeAlias = Sequence[AnswerEvent]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine as `/v1/models` shows it."""

    name: str
    kind: EngineKind
    max_model_len: int | None = None


class Answerer(Protocol):
    """The pipeline as the HTTP edge sees it."""

    @property
    def engines(self) -> Sequence[EngineInfo]: ...

    def answer(self, ask: Ask) -> AsyncIterator[AnswerBatch]:
        """Batches of events: Report, then Progress/Token/Citation, then Usage, Report, Done.

        Closing the iterator cancels the generation. Raises any error of `serving.errors`.
        """
        ...
