"""What `anchorage guard` sees of an LLM's start that Serve does not: whether its node or its image is waited for."""

from __future__ import annotations

import asyncio
import time

from serving.client import Client, Refused, ServerUnreachable
from serving.deployments.timeline import STAGES

#: Asked no more often than this, and waited for no longer, seconds: an answer to a caller hangs on it.
_ASK_S, _PATIENCE_S = 2.0, 1.0


class Guard:
    """`GET /llm` of the guard: {"stage": one of the timeline's, ...}."""

    def __init__(self, url: str) -> None:
        self._client = Client(url)
        self._asked_at = -_ASK_S
        self._stage: str | None = None

    async def stage(self) -> str | None:
        """None when the guard does not know, or does not answer."""
        if time.monotonic() - self._asked_at >= _ASK_S:
            self._asked_at = time.monotonic()
            self._stage = await self._ask()
        return self._stage

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                stage = (await self._client.get("/llm")).get("stage")
        except (ServerUnreachable, Refused, TimeoutError):
            return None
        return stage if stage in STAGES else None
