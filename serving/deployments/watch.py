"""Whether a deployment has replicas that answer: Serve's controller asked in the background, so that asking is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.serve.context import _get_global_client

from serving.deployments.guarded import Guard
from serving.deployments.timeline import ASLEEP, NODE, READY, WEIGHTS, Timeline
from serving.generation import Readiness

#: Seconds between two looks while all is well, and while something is starting.
_STEADY_S, _STARTING_S = 1.0, 0.25
#: Where routers send to. A replica whose node is drained serves until another one does.
_SERVING = frozenset(("RUNNING", "PENDING_MIGRATION"))
#: A replica that said something within this time is there, whatever Serve knows of it.
_SILENCE_S = 5.0
#: A controller that has not answered by then is as one that is away.
_ANSWER_S = 5.0


class Watch:
    """Follows one deployment of an application. `first_estimate_s`: of a start, until one was seen.

    `guard_url`: the guard of a cluster that starts nodes.
    """

    def __init__(self, app: str, deployment: str, first_estimate_s: float, guard_url: str | None = None) -> None:
        self._app = app
        self._deployment = deployment
        self._guard = Guard(guard_url) if guard_url else None
        self._timeline = Timeline(first_estimate_s, nodes=guard_url is not None)
        self._stage = "unknown"
        self._look_now = asyncio.Event()
        self._replicas: frozenset[str] = frozenset()
        self._looked_at = self._missed_at = 0.0
        self.after_look: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns after the first look: before it, nothing is known that could stand."""
        while not self._looked_at:
            with suppress(GetTimeoutError):
                await self._look()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def readiness(self) -> Readiness:
        return self._timeline.readiness

    def metrics(self) -> str:
        """Of the last start, in Prometheus's text format."""
        return self._timeline.metrics()

    def has_lost(self, replica: str | None, heard: float) -> bool:
        """Whether a replica last heard of then (monotonic seconds) has been silent since, and is not there any more.

        None, for one that is not known: whether any replica went away since.
        """
        if self._looked_at < heard + _SILENCE_S:
            return False
        return self._missed_at > heard if replica is None else replica not in self._replicas

    def learn(self, start_s: float) -> None:
        """What the engine took to start before we looked, seconds."""
        self._timeline.learn(WEIGHTS, start_s)

    def doubt(self) -> None:
        """Somebody got no answer: look again now."""
        self._look_now.set()

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STEADY_S if self._stage in (READY, ASLEEP) else _STARTING_S):
                    await self._look_now.wait()
            self._look_now.clear()
            # A controller that is being replaced, or hangs, does not answer for a moment: what we knew stands.
            with suppress(RayError):
                await self._look()

    async def _look(self) -> None:
        began = time.monotonic()
        details = await asyncio.to_thread(_serve_details)
        application = details.get("applications", {}).get(self._app, {})
        deployment = application.get("deployments", {}).get(self._deployment)
        if deployment is None and self._looked_at:
            # Seen for 2 to 8 s while Serve builds a changed application: what we knew stands.
            return
        replicas = (deployment or {}).get("replicas", [])
        self._stage = stage_of(replicas, self._stage)
        if self._stage == NODE and self._guard is not None:
            self._stage = await self._guard.stage() or NODE
        self._timeline.note(self._stage)
        found = frozenset(str(replica["replica_id"]) for replica in replicas)
        self._looked_at = began
        if self._replicas - found:
            self._missed_at = began
        self._replicas = found
        self.after_look()


def stage_of(replicas: list[Mapping[str, Any]], before: str = ASLEEP) -> str:
    """`ready`, `weights` (a process loads the model), `node` (waits for a place to run), `asleep` (none is wanted).

    `before`: the stage that was seen last.
    """
    states = [str(getattr(replica["state"], "value", replica["state"])) for replica in replicas]
    # A controller that was replaced asks those that it finds how they are; routers send to them meanwhile.
    if not _SERVING.isdisjoint(states) or (before == READY and "RECOVERING" in states):
        return READY
    starting = [replica for replica, state in zip(replicas, states, strict=True) if state in ("STARTING", "RECOVERING")]
    if not starting:
        return ASLEEP
    return WEIGHTS if any(replica.get("node_id") for replica in starting) else NODE


def _serve_details() -> dict[str, Any]:
    """Raises RayError: GetTimeoutError when there is no answer."""
    # The client's own `get_serve_details`, with a limit: a thread that hangs could not be ended.
    asked = _get_global_client()._controller.get_serve_instance_details.remote()
    details: dict[str, Any] = ray.get(asked, timeout=_ANSWER_S)
    return details
