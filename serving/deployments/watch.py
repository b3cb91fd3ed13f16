"""Whether a deployment has replicas that answer: Serve's controller asked in the background, so that asking is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError
from ray.serve.context import _get_global_client

from serving.generation import Readiness

#: Seconds between two looks while all is well, and while something is starting.
_STEADY_S, _STARTING_S = 1.0, 0.25
#: A replica that said something within this time is there, whatever Serve knows of it.
_SILENCE_S = 5.0


class Watch:
    """Follows one deployment of an application."""

    def __init__(self, app: str, deployment: str, first_estimate_s: float) -> None:
        self._app = app
        self._deployment = deployment
        self._estimate_s = first_estimate_s
        self._since: float | None = None
        self._stage = "unknown"
        self._look_now = asyncio.Event()
        self._replicas: frozenset[str] = frozenset()
        self._looked_at = self._missed_at = 0.0
        self.after_look: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns after the first look."""
        await self._look()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def readiness(self) -> Readiness:
        if self._stage == "ready":
            return Readiness(ready=True)
        elapsed = time.monotonic() - self._since if self._since is not None else 0.0
        return Readiness(False, self._stage, elapsed, max(1.0, self._estimate_s - elapsed))

    def has_lost(self, replica: str | None, heard: float) -> bool:
        """Whether a replica last heard of then (monotonic seconds) has been silent since, and is not there any more.

        None, for one that is not known: whether any replica went away since.
        """
        if self._looked_at < heard + _SILENCE_S:
            return False
        return self._missed_at > heard if replica is None else replica not in self._replicas

    def learn(self, start_s: float) -> None:
        """What a start took before we looked, seconds."""
        self._estimate_s = max(1.0, start_s)

    def doubt(self) -> None:
        """Somebody got no answer: look again now."""
        self._look_now.set()

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STEADY_S if self._stage in ("ready", "asleep") else _STARTING_S):
                    await self._look_now.wait()
            self._look_now.clear()
            # A controller that is being replaced does not answer for a moment: what we knew stands.
            with suppress(RayError):
                await self._look()

    async def _look(self) -> None:
        began = time.monotonic()
        details = await asyncio.to_thread(_serve_details)
        application = details.get("applications", {}).get(self._app, {})
        replicas = application.get("deployments", {}).get(self._deployment, {}).get("replicas", [])
        self._note(stage_of(replicas))
        found = frozenset(str(replica["replica_id"]) for replica in replicas)
        self._looked_at = began
        if self._replicas - found:
            self._missed_at = began
        self._replicas = found
        self.after_look()

    def _note(self, stage: str) -> None:
        now = time.monotonic()
        if stage == "ready" and self._since is not None:
            self._estimate_s = max(1.0, now - self._since)
        if stage in ("ready", "asleep"):
            self._since = None
        elif self._since is None:
            self._since = now
        self._stage = stage


def stage_of(replicas: list[Mapping[str, Any]]) -> str:
    """`ready`, `weights` (a process loads the model), `node` (waits for a place to run), `asleep` (none is wanted)."""
    states = [str(getattr(replica["state"], "value", replica["state"])) for replica in replicas]
    if "RUNNING" in states:
        return "ready"
    starting = [replica for replica, state in zip(replicas, states, strict=True) if state in ("STARTING", "RECOVERING")]
    if not starting:
        return "asleep"
    return "weights" if any(replica.get("node_id") for replica in starting) else "node"


def _serve_details() -> dict[str, Any]:
    details: dict[str, Any] = _get_global_client().get_serve_details()
    return details
