"""The FastAPI app, assembled from plain values. Importing does nothing; making one is cheap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serving.api.admission import Admission
from serving.api.auth import Auth, read_keys
from serving.api.body import invalid_request
from serving.api.documented import document
from serving.api.edge import Edge
from serving.api.problems import problem_of, respond
from serving.api.routes.answers import answers_router
from serving.api.routes.collections import collections_router
from serving.api.routes.documents import BODIES, documents_router
from serving.api.routes.embeddings import embeddings_router
from serving.api.routes.health import health_router
from serving.api.routes.models import models_router
from serving.api.routes.operations import operations_router
from serving.api.routes.search import search_router
from serving.api.services import Services
from serving.api.trace import trace_of
from serving.errors import AnchorageError
from serving.settings import ApiSettings

_DESCRIPTION = """Ask your documents: an OpenAI-compatible API whose answers are anchored in passages.

`model` is an engine, `ENGINE@COLLECTION`, or `NAME@none` for no retrieval. Errors have OpenAI's shape."""

#: Uploads that may wait while others arrive.
_WAITING_UPLOADS = 64


def create_app(
    services: Services, settings: ApiSettings, *, metrics: Callable[[], Awaitable[bytes]] | None = None
) -> FastAPI:
    """The whole HTTP edge. `metrics` gives the text of /metrics; default: this process's own.

    Raises ConfigurationError if the API keys cannot be read.
    """
    digests = read_keys(settings)
    # Answers wait for an LLM, lookups never do: each has its own turns, so a flood of one leaves room for the other.
    answers = Admission("answers", concurrent=settings.max_concurrent, queued=settings.max_queued)
    lookups = Admission("lookups", concurrent=settings.max_concurrent, queued=settings.max_queued)
    for admission in (answers, lookups):
        _watch(services, admission)

    app = FastAPI(
        title="Anchorage",
        version="1",
        description=_DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    app.state.max_body_bytes = settings.max_body_bytes
    app.state.deadline_s = settings.deadline_s
    app.include_router(answers_router(services, settings, answers))
    app.include_router(embeddings_router(services, settings, lookups))
    app.include_router(search_router(services, settings, lookups))
    app.include_router(models_router(services))
    if services.desk is not None:
        uploads = Admission("uploads", concurrent=settings.max_uploads, queued=_WAITING_UPLOADS)
        _watch(services, uploads)
        app.include_router(collections_router(services.desk))
        app.include_router(documents_router(services.desk, settings, uploads))
        app.include_router(operations_router(services.desk))
    app.include_router(health_router(services, metrics or _own_metrics(services)))
    app.add_exception_handler(AnchorageError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(Auth, digests=digests)
    app.add_middleware(Edge, telemetry=services.telemetry)
    document(app, BODIES)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = invalid_request(error)
    elif isinstance(error, HTTPException) and error.detail in ("Not Found", "Method Not Allowed"):
        said = f"{error.detail}: {request.method} {request.url.path[:200]}. See /docs for what there is."
        error = HTTPException(error.status_code, said, error.headers)
    problem = problem_of(error)
    trace_of(request.scope).error = problem.code
    return respond(problem)


def _watch(services: Services, admission: Admission) -> None:
    services.telemetry.watch_admission(admission.name, lambda: admission.running, lambda: admission.queued)


def _own_metrics(services: Services) -> Callable[[], Awaitable[bytes]]:
    async def render() -> bytes:
        return services.telemetry.render()

    return render
