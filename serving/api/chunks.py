"""Answer events to server-sent events. The hot path of this server: every token of every stream passes here once.

The constant head and tail of a token's event are made once per stream; per token only its text is escaped. A batch
becomes one bytes object, one event per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from serving.answer import AnswerBatch, Citation, Report
from serving.api.replies import annotation_of, report_of, usage_of
from serving.api.tally import Tally
from serving.generation import Done, Progress, Token, Usage

END = b"data: [DONE]\n\n"

#: Stands where the text goes while head and tail are made; no model name or id can hold a control character unescaped.
_HOLE = "\x00"
_HOLE_JSON = b'"\\u0000"'


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % orjson.dumps(data)


class Chunks:
    """The chunks of one stream, in OpenAI's shape.

    `open_delta` is what the first chunk says besides its `rag` object; `with_text` puts a text where a token's text
    belongs, `with_delta` other fields (tool calls, annotations). `logprobs` among those belong to the choice.
    """

    def __init__(self, base: dict[str, Any], tally: Tally, *, chat: bool, include_usage: bool) -> None:
        self._base = base
        self._tally = tally
        self._chat = chat
        self._include_usage = include_usage
        self._opened = False
        self.finished = False
        template = event(self._chunk(self._choice({"content": _HOLE} if chat else {"text": _HOLE})))
        self._head, _, self._tail = template.rpartition(_HOLE_JSON)
        self._others: dict[type, Callable[[Any], bytes]] = {
            Token: self._rich_token,
            Report: self._report,
            Citation: self._citation,
            Progress: self._progress,
            Usage: self._usage,
            Done: self._done,
        }

    def encode(self, batch: AnswerBatch) -> bytes:
        """The batch as bytes for one write; b"" if nothing of it is for the client yet."""
        head, tail, dumps = self._head, self._tail, orjson.dumps
        parts: list[bytes] = []
        add = parts.append
        for item in batch:
            if type(item) is Token and item.delta is None:
                add(head)
                add(dumps(item.text))
                add(tail)
            else:
                add(self._others[type(item)](item))
        return b"".join(parts)

    def _report(self, report: Report) -> bytes:
        self._tally.report = report
        if self._opened:
            return b""
        self._opened = True
        delta = {"role": "assistant", "content": ""} if self._chat else {"text": ""}
        return event({**self._chunk(self._choice(delta)), "rag": report_of(report)})

    def _rich_token(self, token: Token) -> bytes:
        delta = dict(token.delta or {})
        logprobs = delta.pop("logprobs", None)
        if token.text or not self._chat:
            delta["content" if self._chat else "text"] = token.text
        return event(self._chunk(self._choice(delta, logprobs=logprobs)))

    def _citation(self, citation: Citation) -> bytes:
        self._tally.citations.append(citation)
        annotations = {"annotations": [annotation_of(citation)]}
        return event(self._chunk(self._choice(annotations if self._chat else {"text": "", **annotations})))

    def _progress(self, progress: Progress) -> bytes:
        """A comment: it keeps the connection open, and clients that do not know it skip it."""
        said: dict[str, Any] = {"stage": progress.stage, "elapsed_s": round(progress.elapsed_s, 1)}
        if progress.estimate_s:
            said["estimate_s"] = round(progress.estimate_s)
        return b": %b\n\n" % orjson.dumps(said)

    def _usage(self, usage: Usage) -> bytes:
        self._tally.usage = usage
        return b""

    def _done(self, done: Done) -> bytes:
        """The last chunks: the reason, the usage if it was asked for, and on the very last the whole `rag` object."""
        self.finished = True
        last = [self._chunk(self._choice({} if self._chat else {"text": ""}, reason=done.reason))]
        if self._include_usage:
            usage = self._tally.usage
            last.append({**self._base, "choices": [], "usage": usage_of(usage) if usage else None})
        if self._tally.report is not None:
            last[-1]["rag"] = report_of(self._tally.report)
        return b"".join(map(event, last))

    def _choice(self, fields: dict[str, Any], *, logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        content = {"delta": fields} if self._chat else fields
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": reason}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._base, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def is_report_only(batch: AnswerBatch) -> bool:
    """Whether a batch holds nothing yet that a client would wait for."""
    return all(type(item) is Report for item in batch)
