"""POST /v1/search: the retrieval half alone."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.api.admission import Admission
from serving.api.asking import search_options
from serving.api.body import JsonRoute
from serving.api.clock import Timeout, deadline_of
from serving.api.documented import WORK, statuses
from serving.api.exchange import Exchange, Reply, Work
from serving.api.replies import SearchReply, passage_of
from serving.api.schemas import SearchBody
from serving.api.services import Services
from serving.api.trace import trace_of
from serving.errors import InvalidRequest
from serving.settings import ApiSettings


def search_router(services: Services, settings: ApiSettings, admission: Admission) -> APIRouter:
    """Question to passages, without an answer."""
    router = APIRouter(route_class=JsonRoute, tags=["search"])

    @router.post("/v1/search", responses=statuses(*WORK, also={200: {"model": SearchReply}}))
    async def search(request: Request, body: SearchBody, timeout_s: Timeout = None) -> Response:
        """The passages of a collection that fit the query best, best first."""
        if not body.query.strip():
            raise InvalidRequest("query: it is empty.", param="query")
        options = search_options(body, services)
        trace = trace_of(request.scope)

        async def found() -> bytes:
            retrieved = await services.retriever.retrieve(body.query, options)
            services.telemetry.stages(retrieved.timings_ms)
            reply = {
                "object": "list",
                "data": [passage_of(passage) for passage in retrieved.passages],
                "collection": options.collection,
                "generation": retrieved.generation,
                "timings_ms": {stage: round(value, 3) for stage, value in retrieved.timings_ms.items()},
            }
            return orjson.dumps(reply)

        async def work() -> Work:
            return Reply(found)

        return Exchange(work, admission, trace, deadline_of(trace, timeout_s, settings.deadline_s))

    return router
