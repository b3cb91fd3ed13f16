"""What clients get: the shapes of the answers' parts, and their schemas for OpenAPI."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from serving.answer import Citation, Report
from serving.generation import Usage
from serving.index.types import Passage


def passage_of(passage: Passage) -> dict[str, Any]:
    """A retrieved passage, as /v1/search and the `rag` object show it."""
    return {
        "chunk_id": passage.chunk_id,
        "uri": passage.uri,
        "title": passage.title,
        "text": passage.text,
        "start": passage.start,
        "end": passage.end,
        "heading": passage.heading,
        "score": round(float(passage.score), 6),
        "metadata": dict(passage.metadata),
    }


def report_of(report: Report) -> dict[str, Any]:
    """The `rag` object. `passages[n - 1]` is the one cited as `[n]`."""
    return {
        "outcome": report.outcome,
        "engine": report.engine,
        "model": report.model,
        "collection": report.collection,
        "generation": report.generation,
        "cold": report.cold,
        "resumed": report.resumed,
        "passages": [passage_of(passage) for passage in report.passages],
        "dropped": [passage_of(passage) for passage in report.dropped],
        "timings_ms": {stage: round(value, 3) for stage, value in report.timings_ms.items()},
    }


def annotation_of(citation: Citation) -> dict[str, Any]:
    """OpenAI's `url_citation`; offsets are characters of the answer's text. `number` and `chunk_id` are ours."""
    return {
        "type": "url_citation",
        "url_citation": {
            "start_index": citation.start_index,
            "end_index": citation.end_index,
            "title": citation.title,
            "url": citation.uri,
            "number": citation.number,
            "chunk_id": citation.chunk_id,
        },
    }


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class UsageBody(BaseModel):
    """Tokens, counted by the engine's own tokenizer."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: dict[str, int] | None = None


class PassageBody(BaseModel):
    """A retrieved passage: `text` is characters [start, end) of the document at `uri`."""

    chunk_id: str
    uri: str
    title: str
    text: str
    start: int
    end: int
    heading: list[str]
    score: float
    metadata: dict[str, Any]


class ReportBody(BaseModel):
    """How an answer came about."""

    outcome: Literal["answered", "no_context", "extractive"]
    engine: Literal["vllm", "extractive"]
    model: str
    collection: str | None
    generation: int | None
    cold: bool
    resumed: int
    passages: list[PassageBody]
    dropped: list[PassageBody]
    timings_ms: dict[str, float]


class UrlCitation(BaseModel):
    """Characters [start_index, end_index) of the answer rest on passage `number`."""

    start_index: int
    end_index: int
    title: str
    url: str
    number: int
    chunk_id: str


class Annotation(BaseModel):
    """OpenAI's."""

    type: Literal["url_citation"]
    url_citation: UrlCitation


class AnswerMessage(BaseModel):
    """OpenAI's."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Annotation]
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(BaseModel):
    """OpenAI's."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: str


class ChatReply(BaseModel):
    """OpenAI's, with `rag`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody | None
    rag: ReportBody | None


class TextChoice(BaseModel):
    """OpenAI's, with the annotations that a chat message would have."""

    index: Literal[0]
    text: str
    annotations: list[Annotation]
    logprobs: dict[str, Any] | None
    finish_reason: str


class CompletionReply(BaseModel):
    """OpenAI's, with `rag`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody | None
    rag: ReportBody | None


class ModelBody(BaseModel):
    """OpenAI's."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    max_model_len: int | None = None


class ModelList(BaseModel):
    """OpenAI's."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class EmbeddingBody(BaseModel):
    """OpenAI's."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """OpenAI's."""

    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str
    usage: UsageBody


class SearchReply(BaseModel):
    """Passages, best first."""

    object: Literal["list"]
    data: list[PassageBody]
    collection: str
    generation: int
    timings_ms: dict[str, float]


class ErrorDetail(BaseModel):
    """OpenAI's."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's."""

    error: ErrorDetail
