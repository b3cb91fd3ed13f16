"""What OpenAPI says about errors: every status a route really returns, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.api.replies import ErrorBody

_MEANINGS = {
    400: "The request is not valid; `param` names the field.",
    401: "API keys are configured, and this request carries none that is known.",
    404: "No such model, collection, document or operation.",
    413: "The body is larger than the server accepts.",
    415: "The body is of a kind that is not read here.",
    429: "More requests are waiting than the server queues.",
    500: "The server failed; its log has the reason.",
    502: "The LLM was there and failed.",
    503: "A part is down or not ready yet; `code` names it.",
    504: "The request's time ran out.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}

#: Of routes that take a body and do work.
WORK = (400, 401, 404, 413, 415, 429, 500, 503, 504)
ANSWERS = (*WORK, 502)
READS = (401, 500, 503)


def statuses(*codes: int, also: dict[int | str, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route."""
    documented: dict[int | str, dict[str, Any]] = {}
    for code in sorted(codes):
        documented[code] = {"model": ErrorBody, "description": _MEANINGS[code]}
        if code in (429, 502, 503, 504):
            documented[code]["headers"] = _RETRY_AFTER
    return {**documented, **(also or {})}


def document(app: FastAPI, bodies: Sequence[type[BaseModel]] = ()) -> None:
    """Make `app.openapi()` leave out FastAPI's own 422 (ours is 400) and name the key scheme.

    `bodies` are those that a route reads by itself.
    """
    _, unparsed = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    unparsed = unparsed.get("$defs", {})

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if "401" in operation["responses"]:
                        operation["security"] = [{"bearer": []}, {}]
            components = schema["components"]
            components["schemas"] |= unparsed
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for unused in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
