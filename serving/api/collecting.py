"""An answer as one JSON body: all its events gathered, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import orjson

from serving.answer import AnswerBatch, AnswerEvent, Citation, Report
from serving.api.replies import annotation_of, report_of, usage_of
from serving.api.tally import Tally
from serving.errors import EngineUnavailable
from serving.generation import Done, FinishReason, Token, Usage


class Collected:
    """Gathers one answer."""

    def __init__(self, answer: AsyncIterator[AnswerBatch], base: dict[str, Any], tally: Tally, *, chat: bool) -> None:
        self._answer = answer
        self._base = base
        self._tally = tally
        self._chat = chat
        self._texts: list[str] = []
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._others: dict[str, Any] = {}
        self._logprobs: dict[str, Any] | None = None
        self._reason: FinishReason | None = None

    async def body(self) -> bytes:
        """The whole response. Raises what the answer raises, and EngineUnavailable if it ends without a reason."""
        try:
            async with aclosing(cast("AsyncGenerator[AnswerBatch, None]", self._answer)) as batches:
                seen_token = False
                async for batch in batches:
                    for event in batch:
                        self._take(event)
                    seen_token = seen_token or self._tally.watch_for_token(batch)
        finally:
            self._tally.close(finished=self._reason is not None)
        if self._reason is None:
            raise EngineUnavailable("The engine ended its answer without saying why.")
        return orjson.dumps(self._response())

    def _take(self, event: AnswerEvent) -> None:
        match event:
            case Token():
                self._texts.append(event.text)
                if event.delta:
                    self._take_delta(event.delta)
            case Report():
                self._tally.report = event
            case Citation():
                self._tally.citations.append(event)
            case Usage():
                self._tally.usage = event
            case Done():
                self._reason = event.reason

    def _take_delta(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name == "tool_calls":
                for part in value:
                    _merge(self._tool_calls.setdefault(part.get("index", 0), {}), part)
            elif name == "logprobs":
                self._logprobs = self._logprobs or {}
                _merge(self._logprobs, value)
            else:
                _merge(self._others, {name: value})

    def _response(self) -> dict[str, Any]:
        tally = self._tally
        return {
            **self._base,
            "choices": [self._chat_choice() if self._chat else self._text_choice()],
            "usage": usage_of(tally.usage) if tally.usage else None,
            "rag": report_of(tally.report) if tally.report else None,
        }

    def _chat_choice(self) -> dict[str, Any]:
        text = "".join(self._texts)
        message: dict[str, Any] = {
            **self._others,
            "role": "assistant",
            "content": None if self._tool_calls and not text else text,
            "refusal": None,
            "annotations": self._annotations(),
        }
        if self._tool_calls:
            calls = (self._tool_calls[index] for index in sorted(self._tool_calls))
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
        return {"index": 0, "message": message, "logprobs": self._logprobs, "finish_reason": self._reason}

    def _text_choice(self) -> dict[str, Any]:
        return {
            "index": 0,
            "text": "".join(self._texts),
            "annotations": self._annotations(),
            "logprobs": self._logprobs,
            "finish_reason": self._reason,
        }

    def _annotations(self) -> list[dict[str, Any]]:
        return [annotation_of(citation) for citation in self._tally.citations]


#: Parts of a delta that every piece repeats whole, where other texts go on from piece to piece.
_WHOLE = frozenset({"id", "type", "name", "role"})


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Add a streamed piece: texts and lists go on where they were, objects merge, the rest is replaced."""
    for name, value in part.items():
        before = whole.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(before, str) and isinstance(value, str) and name not in _WHOLE:
            whole[name] = before + value
        elif isinstance(before, list) and isinstance(value, list):
            whole[name] = [*before, *value]
        elif value is not None or before is None:
            whole[name] = dict(value) if isinstance(value, dict) else value
