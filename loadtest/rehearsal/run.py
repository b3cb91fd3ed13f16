"""The rehearsal itself: nothing, then a burst, then nothing again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from loadtest.rehearsal import application, traffic
from loadtest.rehearsal.cluster import Cluster, keep_logs, own_folder, started
from loadtest.rehearsal.live import Live
from loadtest.rehearsal.result import Result, judge
from loadtest.rehearsal.scenario import Scenario, autoscaling_of, settings_of
from loadtest.rehearsal.timeline import (
    NODE_KILLED,
    NODES_UP,
    NODES_WANTED,
    REPLICAS_READY,
    REPLICAS_WANTED,
    ROLLING_UPDATE,
    Timeline,
    Watcher,
)
from loadtest.rehearsal.traffic import Traffic
from serving.ports import free_port
from serving.settings import IndexSettings, ScalingSettings, Settings
from serving.stack import embedded_index

#: For what must come in the end, beyond the delays that the settings make.
_PATIENCE_S = 120.0
#: How long answers must have come from several replicas before one of them is killed, seconds.
_SETTLED_S = 2.0
#: Part of all answers after which the application is updated, where their number is given.
_UPDATE_AFTER = 0.4
#: And after which time from the first replica, where it is not.
_UPDATE_AFTER_S = 8.0
_LOOK_S = 0.2


async def rehearse(
    scenario: Scenario,
    scaling: ScalingSettings,
    live: Live,
    *,
    ready: Callable[[], None] = lambda: None,
    logs: Path | None = None,
) -> Result:
    """Start everything, rehearse, end everything.

    `ready` is called once Ray has taken this process's signals; `logs`: where to keep what the parts wrote.

    Raises ConfigurationError, and Unavailable for a part that does not start.
    """
    async with own_folder() as folder:
        try:
            async with _stack(scenario, scaling, folder, live) as (cluster, settings):
                ready()
                return await _Rehearsal(scenario, settings, cluster, live).run()
        finally:
            if logs is not None:
                await asyncio.to_thread(keep_logs, folder, logs)


@asynccontextmanager
async def _stack(
    scenario: Scenario, scaling: ScalingSettings, folder: Path, live: Live
) -> AsyncIterator[tuple[Cluster, Settings]]:
    live.say("[bold]Starting[/] Milvus Lite, Ray with its autoscaler, the application …")
    embedded = Settings(index=IndexSettings())
    async with embedded_index(embedded, folder / "data") as with_index:
        live.say("Milvus Lite is up")
        settings = settings_of(scenario, scaling, with_index.index, free_port())
        async with started(scenario, settings, folder) as cluster:
            live.say("Ray is up: a head that carries the CPU plane, no GPU node")
            await application.deploy(settings, autoscaling_of(scenario, settings))
            await application.until_running()
            async with traffic.client(_url(settings)) as http:
                await application.prepare(http)
            live.say("the application is up: the LLM sleeps, documents are ingested")
            yield cluster, settings


class _Rehearsal:
    """One run on a stack that is up."""

    def __init__(self, scenario: Scenario, settings: Settings, cluster: Cluster, live: Live) -> None:
        self._scenario = scenario
        self._settings = settings
        self._cluster = cluster
        self._live = live
        self._traffic = Traffic()
        self._timeline = Timeline(live.event)
        self._watcher = Watcher(self._timeline, cluster.record)
        self._problems: list[str] = []

    async def run(self) -> Result:
        self._timeline.mark("ready")
        async with _meanwhile(self._watcher.follow()) as watching, _meanwhile(self._show()):
            began = time.monotonic()
            self._live.begins(began)
            with self._live.doing("Burst"):
                await self._burst(began)
            with self._live.doing("Nobody asks any more: waiting until all GPU nodes are gone"):
                await self._until_gone()
            if watching.done():
                # It never ends by itself: without it nothing here is true.
                watching.result()
        return self._result(began)

    async def _burst(self, began: float) -> None:
        async with traffic.client(_url(self._settings)) as http, _meanwhile(self._disturb()) as disturbing:

            def more() -> bool:
                return not disturbing.done()

            if self._scenario.streams:
                await traffic.streams(self._scenario, http, self._traffic, more)
            else:
                await traffic.burst(self._scenario, http, self._traffic, began, more)
            if (error := disturbing.exception()) is not None:
                self._problems.append(f"what was to go wrong did not: {error!r}")

    async def _disturb(self) -> None:
        """The load goes on until this has happened."""
        levels = self._timeline.levels
        if self._scenario.kill:
            async with asyncio.timeout(_PATIENCE_S):
                await _until(lambda: levels[REPLICAS_READY] >= min(2, self._settings.llm.max_replicas))
            await asyncio.sleep(_SETTLED_S)
            node_id = self._watcher.busy_node()
            assert node_id is not None
            self._timeline.mark(NODE_KILLED, node_id[-5:])
            self._watcher.killed.add(node_id)
            before = levels[REPLICAS_READY]
            await asyncio.to_thread(self._cluster.kill_node, node_id)
            await self._until_replaced(node_id, before)
        if self._scenario.rolling_update:
            await _until(lambda: levels[REPLICAS_READY] > 0)
            if self._scenario.total:
                await _until(lambda: self._traffic.done >= _UPDATE_AFTER * self._scenario.total)
            else:
                await asyncio.sleep(_UPDATE_AFTER_S)
            self._timeline.mark(ROLLING_UPDATE, "begins")
            await application.deploy(_updated(self._settings), autoscaling_of(self._scenario, self._settings))

    async def _until_replaced(self, node_id: str, before: int) -> None:
        """What the node carried was lost, and as many replicas serve as before, or as are wanted by then.

        Raises TimeoutError.
        """
        levels = self._timeline.levels
        async with asyncio.timeout(_PATIENCE_S):
            await _until(lambda: not self._watcher.carries(node_id))
            await _until(lambda: levels[REPLICAS_READY] >= min(before, levels[REPLICAS_WANTED]))

    async def _until_gone(self) -> None:
        scaling, levels = self._settings.scaling, self._timeline.levels
        delays = scaling.to_zero_delay_s + scaling.look_back_s + self._scenario.idle_s + 3 * self._scenario.reconcile_s
        with suppress(TimeoutError):
            async with asyncio.timeout(delays + _PATIENCE_S):
                await _until(lambda: not any(levels[kind] for kind in _ALL))

    def _result(self, began: float) -> Result:
        rows = self._traffic.rows
        result = Result(
            self._scenario, self._settings, self._timeline, self._watcher.delays, rows, rows[0].at if rows else began
        )
        self._timeline.mark("last_request", at=max((row.at for row in rows), default=began))
        self._timeline.mark("last_answer", at=result.ended)
        first = result.reaction()["first token of the LLM"]
        if first is not None:
            self._timeline.mark("first_llm_answer", at=result.began + first)
        result.problems = [*self._problems, *judge(result)]
        return result

    async def _show(self) -> None:
        while True:
            self._live.update(self._timeline, self._traffic)
            await asyncio.sleep(_LOOK_S)


_ALL = (NODES_UP, NODES_WANTED, REPLICAS_READY, REPLICAS_WANTED)


def _updated(settings: Settings) -> Settings:
    """Another version of the same application: every replica of it is replaced."""
    llm = settings.llm
    env = {**llm.env, "REHEARSAL_VERSION": "2"}
    return settings.model_copy(update={"llm": llm.model_copy(update={"env": env})})


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """`work` runs beside the block and ends with it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - levels that a thread sets
        await asyncio.sleep(_LOOK_S)


def _url(settings: Settings) -> str:
    return f"http://{settings.api.host}:{settings.api.port}"
