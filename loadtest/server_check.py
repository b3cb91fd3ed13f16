"""Looks at the server before any load: is it there, is it ready, has it the model, is it idle?"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.target import Target
from serving.client import Client, Refused
from serving.errors import ConfigurationError

#: Single requests, one after the other.
_PROBES = 3
#: A server whose single requests take so many times as long as before the load is still busy with it.
_QUIET = 2.0
#: Beyond which a difference matters, seconds.
_LEAST_S = 0.02
_PAUSE_S = 1.0
_ANSWER_TOKENS = 8
#: For one probe.
_TIMEOUT_S = 60.0


async def check(target: Target) -> str:
    """The model that will be asked. Raises ServerUnreachable, Refused, ConfigurationError that say what is wrong."""
    client = _client(target)
    if not target.plain:
        ready = await _readiness(client)
        if "ready" not in ready:
            raise ConfigurationError(
                f"{target.url} is no server of Anchorage's make: add --plain to test another OpenAI-compatible server"
            )
        if not ready["ready"]:
            raise ConfigurationError(f"{target.url} is not ready: {_missing(ready)}")
    listed = [str(model["id"]) for model in (await client.get("/v1/models")).get("data", [])]
    if target.model and listed and target.model not in listed:
        raise ConfigurationError(f"{target.url} has no model {target.model!r}; it has {', '.join(listed)}")
    if not target.model and not listed:
        raise ConfigurationError(f"{target.url} lists no model: name one with --model")
    return target.model or listed[0]


async def _readiness(client: Client) -> Mapping[str, Any]:
    """Empty: what answers there is not ours."""
    try:
        return await client.readiness()
    except Refused:
        return {}


def _missing(ready: Mapping[str, Any]) -> str:
    parts = ready.get("parts", {})
    reasons = [f"{name}: {parts.get(name, {}).get('reason') or 'not ready'}" for name in ready.get("missing", [])]
    return "; ".join(reasons) or "it does not say why"


@dataclass
class Quiet:
    """Whether the server is as idle as before the first level, by single requests. `model`: that is asked."""

    target: Target
    model: str
    usual_s: float | None = None

    async def learn(self) -> None:
        """How long a request takes that is alone. The first one is left out: it warms what has to be warm."""
        await self._probe_s()
        self.usual_s = await self._median_s()

    async def until_idle(self, longest_s: float) -> bool:
        """False: it was not within this time. Raises ServerUnreachable where it is gone."""
        assert self.usual_s is not None
        deadline = time.monotonic() + longest_s
        limit_s = max(_QUIET * self.usual_s, self.usual_s + _LEAST_S)
        # One that is quick is enough: nothing stood before it in a line. One that is slow may be slow by itself.
        while await self._probe_s() > limit_s and await self._median_s() > limit_s:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PAUSE_S)
        return True

    async def _median_s(self) -> float:
        return statistics.median([await self._probe_s() for _ in range(_PROBES)])

    async def _probe_s(self) -> float:
        """A request that is refused (a queue that is full) counts as a long one."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Are you there?"}],
            "max_tokens": _ANSWER_TOKENS,
        }
        began = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                async for _ in _client(self.target).stream(body):
                    pass
        except (Refused, TimeoutError):
            return _TIMEOUT_S
        return time.monotonic() - began


def _client(target: Target) -> Client:
    return Client(target.root, target.api_key or None)
