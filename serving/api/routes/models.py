"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from serving.answer import EngineInfo
from serving.api.documented import READS, statuses
from serving.api.names import parse_model, plain_names
from serving.api.replies import ModelBody, ModelList
from serving.api.services import Services

_OWNER = "anchorage"
#: OpenAI's clients need a number; when a model was made is not known here, and two replicas must say the same.
_CREATED = 0


def models_router(services: Services) -> APIRouter:
    """Every name that a request may carry as its model."""
    router = APIRouter(tags=["models"])
    embedding = services.embedding.name

    @router.get("/v1/models", responses=statuses(*READS), response_model=ModelList)
    async def list_models() -> Response:
        """Each engine, each engine with each collection, and the embedding model."""
        engines = services.answerer.engines
        collections = [collection.name for collection in await services.collections.collections()]
        models = [_model(name, engine) for engine in engines for name in plain_names(engine)]
        models += [_model(f"{engine.name}@{name}", engine) for engine in engines for name in collections]
        return _json(ModelList(data=[*models, _model(embedding, None)]))

    @router.get("/v1/models/{model:path}", responses=statuses(*READS, 400, 404), response_model=ModelBody)
    async def get_model(model: str) -> Response:
        """One of them."""
        if model == embedding:
            return _json(_model(embedding, None))
        named = parse_model(model, services.answerer.engines)
        if named.collection is not None and not named.without_retrieval:
            await services.collections.collection(named.collection)
        return _json(_model(model, named.engine))

    return router


def _model(name: str, engine: EngineInfo | None) -> ModelBody:
    length = engine.max_model_len if engine is not None else None
    return ModelBody(id=name, created=_CREATED, owned_by=_OWNER, max_model_len=length)


def _json(body: ModelBody | ModelList) -> Response:
    return Response(body.model_dump_json(exclude_none=True), media_type="application/json")
