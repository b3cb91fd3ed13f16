"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.api.admission import Admission
from serving.api.body import JsonRoute
from serving.api.clock import Timeout, deadline_of
from serving.api.documented import WORK, statuses
from serving.api.exchange import Exchange, Reply, Work
from serving.api.replies import EmbeddingList
from serving.api.schemas import EmbeddingsRequest
from serving.api.services import EmbeddingModel, Services
from serving.api.trace import trace_of
from serving.errors import InvalidRequest, UnknownModel
from serving.index.types import Vectors
from serving.settings import ApiSettings

#: Vectors written as JSON before other requests get the event loop: about a millisecond.
_ROWS = 64


def embeddings_router(services: Services, settings: ApiSettings, admission: Admission) -> APIRouter:
    """Vectors of texts, by the model that the collections are indexed with."""
    router = APIRouter(route_class=JsonRoute, tags=["embeddings"])
    model = services.embedding

    @router.post("/v1/embeddings", responses=statuses(*WORK, also={200: {"model": EmbeddingList}}))
    async def embed(request: Request, body: EmbeddingsRequest, timeout_s: Timeout = None) -> Response:
        """Unit vectors, in the order of the texts."""
        _check(body, model)
        trace = trace_of(request.scope)
        trace.model = model.name

        async def work() -> Work:
            return Reply(lambda: _embed(body, model))

        return Exchange(work, admission, trace, deadline_of(trace, timeout_s, settings.deadline_s))

    return router


def _check(body: EmbeddingsRequest, model: EmbeddingModel) -> None:
    if body.model != model.name:
        raise UnknownModel(f"There is no embedding model {body.model!r}; there is {model.name!r}.", param="model")
    if body.dimensions not in (None, model.dimension):
        raise InvalidRequest(
            f"dimensions: {model.name!r} has {model.dimension} and cannot be shortened.", param="dimensions"
        )


async def _embed(body: EmbeddingsRequest, model: EmbeddingModel) -> bytes:
    texts = body.texts()
    vectors, tokens = await asyncio.gather(model.embedder.embed(texts), model.count_tokens(texts))
    rows: list[bytes] = []
    for first in range(0, len(texts), _ROWS):
        rows.append(_rows(vectors[first : first + _ROWS], first, base64_asked=body.encoding_format == "base64"))
        await asyncio.sleep(0)
    tail = orjson.dumps({"model": model.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    return b'{"object":"list","data":[%b],%b' % (b",".join(rows), tail[1:])


def _rows(vectors: Vectors, first: int, *, base64_asked: bool) -> bytes:
    """The list's elements, without its brackets. base64 is of little-endian float32, as OpenAI's is."""
    rows: list[dict[str, Any]] = []
    for index, vector in enumerate(np.ascontiguousarray(vectors, dtype="<f4"), start=first):
        embedding = base64.b64encode(vector.tobytes()).decode() if base64_asked else vector
        rows.append({"object": "embedding", "index": index, "embedding": embedding})
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
