"""One question over HTTP as an OpenAI client asks it, and whether its answer came whole."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import httpx

from loadtest.rehearsal.scenario import MODEL, QUESTION
from serving.settings import OnCold

#: `failed`: nothing of an answer came; `cut`: something came, and then it did not end as it should.
Outcome: TypeAlias = Literal["llm", "extractive", "rejected", "failed", "cut"]

_DATA = "data: "
_END = "[DONE]"


@dataclass(slots=True)
class Row:
    """One request. Times are seconds from its intended start, `at` is that of `time.monotonic`."""

    at: float
    on_cold: OnCold
    answer_tokens: int
    prompt_tokens: int = 0
    outcome: Outcome = "failed"
    ttft_s: float | None = None
    done_s: float | None = None
    #: The application said that no LLM was ready when the question came.
    cold: bool = False
    #: How often another replica went on with the answer.
    resumed: int = 0
    #: Stages that were reported while the caller waited, in their order.
    stages: list[str] = field(default_factory=list)
    retry_after_s: float | None = None
    #: What went wrong.
    error: str = ""

    def as_json(self, start: float) -> dict[str, Any]:
        """`start`: where the clock of the whole rehearsal begins."""
        fields = asdict(self)
        return {"t_s": round(fields.pop("at") - start, 3), **{k: _rounded(v) for k, v in fields.items()}}


@dataclass
class _Heard:
    """What came of a stream so far."""

    pieces: list[str] = field(default_factory=list)
    reason: str | None = None
    ended: bool = False
    error: str = ""
    report: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)


async def ask(http: httpx.AsyncClient, row: Row) -> None:
    """Ask, read to the end and fill in the row. Raises nothing of what the server or the network does."""
    heard = _Heard()
    try:
        await _stream(http, row, heard)
    except httpx.HTTPError as error:
        heard.error = f"{type(error).__name__}: {error}"
    row.done_s = time.monotonic() - row.at
    if row.outcome != "rejected":
        _judge(row, heard)


async def _stream(http: httpx.AsyncClient, row: Row, heard: _Heard) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": row.answer_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "rag": {"on_cold": row.on_cold},
    }
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            _refused(row, heard, response, text)
            return
        async for line in response.aiter_lines():
            _take(row, heard, line)


def _refused(row: Row, heard: _Heard, response: httpx.Response, text: str) -> None:
    retry_after = response.headers.get("retry-after")
    if response.status_code == 503 and row.on_cold == "reject" and retry_after is not None:
        row.outcome, row.cold, row.retry_after_s = "rejected", True, float(retry_after)
        return
    heard.error = f"HTTP {response.status_code}: {text[:300]}"


def _take(row: Row, heard: _Heard, line: str) -> None:
    """One line of the stream: a comment, an event, or the empty one between two."""
    if line.startswith(": {"):
        stage = json.loads(line.removeprefix(": ")).get("stage", "")
        if stage not in row.stages:
            row.stages.append(stage)
    if not line.startswith(_DATA):
        return
    text = line.removeprefix(_DATA)
    if text == _END:
        heard.ended = True
        return
    said = json.loads(text)
    if "error" in said:
        heard.error = f"error event: {said['error'].get('message')}"
    heard.report = said.get("rag") or heard.report
    heard.usage = said.get("usage") or heard.usage
    for choice in said.get("choices", ()):
        heard.reason = choice.get("finish_reason") or heard.reason
        if piece := choice["delta"].get("content"):
            if row.ttft_s is None:
                row.ttft_s = time.monotonic() - row.at
            heard.pieces.append(piece)


def _judge(row: Row, heard: _Heard) -> None:
    report = heard.report
    row.cold = bool(report.get("cold"))
    row.resumed = int(report.get("resumed") or 0)
    row.prompt_tokens = int(heard.usage.get("prompt_tokens") or 0)
    written = "extractive" if report.get("outcome") == "extractive" else "llm"
    row.error = heard.error or _missing(row, heard, written)
    if row.error:
        row.outcome = "cut" if heard.pieces or heard.ended else "failed"
    else:
        row.outcome = "extractive" if written == "extractive" else "llm"


def _missing(row: Row, heard: _Heard, written: str) -> str:
    """What an answer lacks; of the scripted engine every word is known."""
    if not heard.ended:
        return "the stream ended without [DONE]"
    if heard.reason is None:
        return "no finish_reason"
    if not heard.pieces:
        return "no text"
    if written == "extractive":
        return ""
    text, wanted = "".join(heard.pieces), "".join(f" w{number}" for number in range(row.answer_tokens))
    if text != wanted:
        said, words = text.split(), wanted.split()
        at = next((n for n, pair in enumerate(zip(said, words, strict=False)) if len(set(pair)) > 1), len(words))
        return f"{len(said)} words of {row.answer_tokens}, wrong from number {at} on: {' '.join(said[at : at + 5])!r}"
    if (count := heard.usage.get("completion_tokens")) != row.answer_tokens:
        return f"usage says {count} of {row.answer_tokens} tokens"
    return ""


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
