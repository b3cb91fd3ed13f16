"""An engine that stands where vLLM stands and says known words at known times, for measurements and failure tests.

It has the methods of `ray.llm`'s `LLMEngine` that a chat needs, so it runs in our `Llm` deployment and, unchanged, in
Ray Serve's own `build_openai_app`. It never imports vLLM. Word n of an answer is one token with the id n; a text
completion whose prompt is ids goes on counting after the last of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

#: JSON of a Script, in the environment of the engine's process.
SCRIPT_VARIABLE = "ANCHORAGE_SCRIPT"
#: A user message that makes the engine fail for good, as vLLM does when its worker process dies: what is asked for then
#: is refused, and what was under way says an error first, and ends later.
DIE = "!die"
#: The same, after one word of the answer.
DIE_SPEAKING = "!speak and die"
#: What every other prompt is: tokens that say nothing.
_PROMPT_IDS = (-1,) * 7


class Script(BaseModel):
    """`tokens` words; the first after `first_s` seconds, then `burst` words every `gap_s` seconds.

    `start_s`: how long the engine takes to start; `end_s`: the time between the error that a dead engine's answers say
    and their end. Without gaps the engine still yields to others between bursts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_s: float = 0.0
    end_s: float = 0.0
    first_s: float = 0.0
    gap_s: float = 0.0
    tokens: int = 4096
    burst: int = 1

    @classmethod
    def from_environment(cls) -> Script:
        return cls.model_validate_json(os.environ.get(SCRIPT_VARIABLE) or "{}")


class EngineDead(Exception):
    """The engine was told to die."""


class ScriptedEngine:
    """Takes what `LLMServer` gives an engine; `running` is the number of requests in work."""

    def __init__(self, llm_config: Any) -> None:
        self._script = Script.from_environment()
        self._dead = False
        self.running = 0

    async def start(self) -> None:
        await asyncio.sleep(self._script.start_s)

    async def check_health(self) -> None:
        if self._dead:
            raise EngineDead(_DEAD)

    async def shutdown(self) -> None:
        """Nothing to release."""

    def get_tokenizer(self) -> ScriptedTokens:
        return ScriptedTokens()

    def routing_stats(self) -> dict[str, Any]:
        return {}

    def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[str]:
        return self._stream(_fields(request))

    def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[str]:
        return self._stream(_fields(request))

    async def _stream(self, request: Mapping[str, Any]) -> AsyncIterator[str]:
        await self.check_health()
        chat = request.get("messages") is not None
        said = str(request["messages"]) if chat else ""
        if DIE in said:
            self._dead = True
        prompt = request["prompt"] if isinstance(request.get("prompt"), list) else _PROMPT_IDS
        first = max(prompt[-1] + 1, 0)
        end = min(self._script.tokens, first + (request.get("max_tokens") or self._script.tokens))
        ids = bool(request.get("return_token_ids"))
        self.running += 1
        try:
            async for number in self._numbers(first, end):
                if self._dead:
                    yield _sse({"error": {"message": _DEAD, "type": "EngineDeadError", "code": 500}})
                    await asyncio.sleep(self._script.end_s)
                    yield _DONE
                    return
                if ids and number == first:
                    yield _sse({**_HEAD, "choices": [], "prompt_token_ids": prompt})
                yield _word(chat, number, ids)
                if DIE_SPEAKING in said:
                    self._dead = True
        finally:
            self.running -= 1
        yield _chunk(chat, "", reason="stop" if end == self._script.tokens else "length")
        yield _usage(prompt_tokens=len(prompt), completion_tokens=end - first)
        yield _DONE

    async def _numbers(self, first: int, end: int) -> AsyncIterator[int]:
        script = self._script
        for number in range(first, end):
            if (number - first) % script.burst == 0:
                await asyncio.sleep(script.gap_s if number > first else script.first_s)
            yield number


class ScriptedTokens:
    """The methods of a tokenizer that `serving.resuming` needs."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(f" w{number}" for number in ids if number >= 0)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [int(word.removeprefix("w")) for word in text.split()]


def _fields(request: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = request if isinstance(request, Mapping) else request.model_dump()
    return fields


@cache
def _word(chat: bool, number: int, ids: bool) -> str:
    """Made once: what the engine itself costs is not what a measurement is after."""
    return _chunk(chat, f" w{number}", [number] if ids else None)


def _chunk(chat: bool, text: str, ids: list[int] | None = None, *, reason: str | None = None) -> str:
    piece: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    choice = {"index": 0, **piece, "logprobs": None, "finish_reason": reason, "token_ids": ids}
    return _sse({**_HEAD, "choices": [choice]})


def _usage(prompt_tokens: int, completion_tokens: int) -> str:
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return _sse({**_HEAD, "choices": [], "usage": usage})


_DEAD = "the scripted engine is dead"
_DONE = "data: [DONE]\n\n"
_HEAD = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": "scripted"}


def _sse(chunk: Mapping[str, Any]) -> str:
    return f"data: {orjson.dumps(chunk).decode()}\n\n"
