"""GET /healthz, /readyz and /metrics: open without a key, see serving.api.auth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from serving.api.services import Probe, Services
from serving.errors import AnchorageError, EngineCold
from serving.telemetry import METRICS_TYPE

#: A probe that takes longer is not ready; Kubernetes asks every 10 s by default.
_PROBE_S = 5.0


class Alive(BaseModel):
    """This process answers."""

    status: Literal["alive"]


class Part(BaseModel):
    """One part: `reason` says what is missing."""

    ready: bool
    reason: str | None = None


class Ready(BaseModel):
    """`missing` are the parts without which requests fail; a cold LLM is not among them."""

    ready: bool
    missing: list[str]
    parts: dict[str, Part]


def health_router(services: Services, metrics: Callable[[], Awaitable[bytes]]) -> APIRouter:
    """For whoever watches over this server."""
    router = APIRouter(tags=["operation"])

    @router.get("/healthz", response_model=Alive)
    async def alive() -> Response:
        """Whether this process answers at all; says nothing about the parts behind it."""
        return Response(b'{"status":"alive"}', media_type="application/json")

    @router.get("/readyz", response_model=Ready, responses={503: {"model": Ready, "description": "Parts are missing."}})
    async def ready() -> Response:
        """Whether requests would be served now, and if not, which part is missing and why."""
        states = await asyncio.gather(*(_state(name, probe) for name, probe in services.probes.items()))
        missing = [name for name, state, needed in states if needed and not state["ready"]]
        body = {
            "ready": not missing,
            "missing": missing,
            "parts": {name: state for name, state, _ in states},
        }
        return Response(orjson.dumps(body), status_code=503 if missing else 200, media_type="application/json")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counts and times in Prometheus's text format; no label holds what a caller wrote."""
        return Response(await metrics(), headers={"content-type": METRICS_TYPE})

    return router


async def _state(name: str, probe: Probe) -> tuple[str, dict[str, Any], bool]:
    """Name, state, and whether requests fail without the part: a cold LLM is woken by the first one."""
    try:
        async with asyncio.timeout(_PROBE_S):
            await probe()
    except EngineCold as error:
        return name, {"ready": False, "reason": str(error)}, False
    except AnchorageError as error:
        return name, {"ready": False, "reason": str(error)}, True
    except TimeoutError:
        return name, {"ready": False, "reason": f"no answer within {_PROBE_S:.0f} s"}, True
    return name, {"ready": True}, True
