"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Send

from serving.answer import Ask
from serving.api.admission import Admission
from serving.api.asking import ask_of_chat, ask_of_completion
from serving.api.body import JsonRoute
from serving.api.chunks import Chunks
from serving.api.clock import Timeout, deadline_of, left_s
from serving.api.collecting import Collected
from serving.api.documented import ANSWERS, statuses
from serving.api.exchange import Exchange, Reply, Work
from serving.api.problems import Problem
from serving.api.replies import ChatReply, CompletionReply
from serving.api.schemas import ChatRequest, CompletionRequest, GenerationFields
from serving.api.services import Services
from serving.api.streaming import EventStream
from serving.api.tally import Tally
from serving.api.trace import Trace, trace_of
from serving.errors import InvalidFilter, UnknownCollection
from serving.settings import ApiSettings

#: From the seconds that are left and an id to what the pipeline is asked.
_Asking = Callable[[str, float], Awaitable[Ask]]

#: One server-sent event of a stream.
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "description": 'A chunk as JSON, or a last {"error": …}; [DONE] after the last.'}
    },
}


def answers_router(services: Services, settings: ApiSettings, admission: Admission) -> APIRouter:
    """Both routes; they differ in how a body becomes an Ask and in the shape of the reply."""
    router = APIRouter(route_class=JsonRoute, tags=["answers"])

    def exchange(request: Request, timeout_s: float | None, body: GenerationFields, asking: _Asking) -> Exchange:
        trace = trace_of(request.scope)
        deadline = deadline_of(trace, timeout_s, settings.deadline_s)

        async def work() -> Work:
            ask = await asking(trace.unique_id(), left_s(deadline))
            return _Answering(_work(body, ask, services, trace), body)

        return Exchange(work, admission, trace, deadline)

    @router.post("/v1/chat/completions", responses=statuses(*ANSWERS, also=_streamed(ChatReply)))
    async def chat(request: Request, body: ChatRequest, timeout_s: Timeout = None) -> Response:
        """Answer the last user message from a collection's passages, with citations; or stream the answer."""
        return exchange(request, timeout_s, body, lambda rid, left: ask_of_chat(body, services, rid, left))

    @router.post("/v1/completions", responses=statuses(*ANSWERS, also=_streamed(CompletionReply)))
    async def complete(request: Request, body: CompletionRequest, timeout_s: Timeout = None) -> Response:
        """The same for one prompt: a question where there are documents to ask, else a text to go on with."""
        return exchange(request, timeout_s, body, lambda rid, left: ask_of_completion(body, services, rid, left))

    return router


class _Answering:
    """Work on an answer, whose errors name the fields of the body rather than those of the retrieval."""

    def __init__(self, work: Work, body: GenerationFields) -> None:
        self._work = work
        self._collection = "rag.collection" if body.rag is not None and body.rag.collection is not None else "model"

    async def run(self, send: Send) -> None:
        try:
            await self._work.run(send)
        except UnknownCollection as error:
            error.param = self._collection
            raise
        except InvalidFilter as error:
            error.param = f"rag.{error.param or 'filter'}"
            raise

    async def fail(self, problem: Problem) -> bool:
        return await self._work.fail(problem)


def _work(body: GenerationFields, ask: Ask, services: Services, trace: Trace) -> Work:
    chat = isinstance(body, ChatRequest)
    trace.model = ask.model
    trace.fields["answer"] = ask.request_id
    tally = Tally(ask.model, trace, services.telemetry)
    answer = services.answerer.answer(ask)
    if not body.stream:
        base = _base(body.model, ask, "chat.completion" if chat else "text_completion", chat=chat)
        return Reply(Collected(answer, base, tally, chat=chat).body)
    base = _base(body.model, ask, "chat.completion.chunk" if chat else "text_completion", chat=chat)
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return EventStream(answer, Chunks(base, tally, chat=chat, include_usage=include_usage), tally, trace.direct)


def _base(model: str, ask: Ask, kind: str, *, chat: bool) -> dict[str, Any]:
    prefix = "chatcmpl" if chat else "cmpl"
    return {"id": f"{prefix}-{ask.request_id}", "object": kind, "created": int(time.time()), "model": model}


def _streamed(reply: type) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "model": reply,
            "description": "The answer; with `stream`, server-sent events of its chunks.",
            "content": {"text/event-stream": {"schema": _EVENT}},
        }
    }
