"""A request body to what the pipeline and the retriever are asked, defaults filled in from the settings."""

from __future__ import annotations

from typing import Any

from serving.answer import Ask, RetrievalOptions
from serving.api.names import Named, parse_model
from serving.api.schemas import ChatRequest, CompletionRequest, GenerationFields, Message, RagOptions, SearchBody
from serving.api.services import Services
from serving.errors import InvalidRequest, UnknownCollection
from serving.generation import Sampling
from serving.settings import RetrievalSettings

#: Fields that engines get as they came.
_PASSED_ON = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
)
_NOTHING = RagOptions()


async def ask_of_chat(body: ChatRequest, services: Services, request_id: str, deadline_s: float) -> Ask:
    """Raises InvalidRequest, UnknownModel, CatalogUnavailable."""
    messages = tuple(_message(message, place) for place, message in enumerate(body.messages))
    if not any(message.role == "user" for message in body.messages):
        raise InvalidRequest("messages: there is no message of role 'user'.", param="messages")
    sampling = _sampling(body, body.max_completion_tokens or body.max_tokens)
    return await _ask(body, services, sampling, messages, request_id=request_id, deadline_s=deadline_s)


async def ask_of_completion(body: CompletionRequest, services: Services, request_id: str, deadline_s: float) -> Ask:
    """A prompt is a question if there is something to retrieve from, else raw text to go on with."""
    text = body.text()
    if not text.strip():
        raise InvalidRequest("prompt: it is empty.", param="prompt")
    sampling = _sampling(body, body.max_tokens)
    messages = ({"role": "user", "content": text},)
    return await _ask(body, services, sampling, messages, request_id=request_id, deadline_s=deadline_s, prompt=text)


def search_options(body: SearchBody, services: Services) -> RetrievalOptions:
    """Without `min_score` nothing is left out: a search shows what there is, and the score with it."""
    settings = services.retrieval
    return RetrievalOptions(
        collection=body.collection or services.index.default_collection,
        top_k=_top_k(body.top_k, settings.search_top_k, settings.max_top_k, "top_k"),
        mode=body.mode or settings.mode,
        per_document=body.per_document or settings.search_per_document,
        join_neighbours=False,
        filter=body.filter,
        min_score=body.min_score,
    )


async def _ask(
    body: GenerationFields,
    services: Services,
    sampling: Sampling,
    messages: tuple[dict[str, Any], ...],
    *,
    request_id: str,
    deadline_s: float,
    prompt: str | None = None,
) -> Ask:
    named = parse_model(body.model, services.answerer.engines)
    rag = body.rag or _NOTHING
    collection = await _collection(named, rag, services)
    return Ask(
        request_id=request_id,
        model=named.engine.name,
        messages=messages,
        sampling=sampling,
        retrieval=None if collection is None else _retrieval(collection, rag, services.retrieval),
        on_cold=rag.on_cold or services.llm.on_cold,
        deadline_s=deadline_s,
        prompt=prompt if collection is None else None,
    )


async def _collection(named: Named, rag: RagOptions, services: Services) -> str | None:
    """The collection to ask, or None for no retrieval. A named one need not exist: the retriever says so."""
    if named.collection is not None and rag.collection not in (None, named.collection):
        raise InvalidRequest(
            f"rag.collection is {rag.collection!r}, but the model's name says {named.collection!r}.",
            param="rag.collection",
        )
    if named.without_retrieval:
        return None
    if wanted := named.collection or rag.collection:
        return wanted
    try:
        return (await services.collections.collection(services.index.default_collection)).name
    except UnknownCollection:
        return None


def _retrieval(collection: str, rag: RagOptions, settings: RetrievalSettings) -> RetrievalOptions:
    return RetrievalOptions(
        collection=collection,
        top_k=_top_k(rag.top_k, settings.top_k, settings.max_top_k, "rag.top_k"),
        mode=rag.mode or settings.mode,
        per_document=rag.per_document or settings.per_document,
        join_neighbours=settings.join_neighbours if rag.join_neighbours is None else rag.join_neighbours,
        filter=rag.filter,
        min_score=settings.min_score if rag.min_score is None else rag.min_score,
    )


def _top_k(given: int | None, default: int, largest: int, param: str) -> int:
    if given is not None and given > largest:
        raise InvalidRequest(f"{param}: {given} is more than the {largest} this server gives.", param=param)
    return given or min(default, largest)


def _message(message: Message, place: int) -> dict[str, Any]:
    """OpenAI's shape with the content as one string, as every chat template takes it.

    `developer` is OpenAI's newer word for `system`, which templates know.
    """
    text = message.text()
    may_be_empty = message.role == "assistant" or (message.role == "tool" and message.content is not None)
    if not may_be_empty and not text.strip():
        param = f"messages[{place}].content"
        raise InvalidRequest(f"{param}: it is empty.", param=param)
    plain: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": text}
    for name in ("name", "tool_calls", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            plain[name] = value
    return plain


def _sampling(body: ChatRequest | CompletionRequest, max_tokens: int | None) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    given = {name: getattr(body, name, None) for name in _PASSED_ON}
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=tuple(stop),
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        extra={name: value for name, value in given.items() if value is not None},
    )
