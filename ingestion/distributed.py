"""The reading, parsing and embedding of a run on a Ray cluster, as a Ray Data pipeline; the rest stays in the driver.

    Parser ─► do() ─► Pages ═ Desk ═► Feed ─► Parse (actors) ─► Embed (actors) ═► results ─► Writer
              (here)                  (distributed_stages.py, on the cluster)     (here, as on one machine)

What bounds the memory: `limit` documents and `_BYTES` a worker are under way in the whole cluster at a time, whatever
the sources hold. The driver takes the next page of results when it has handed the last one over, and Ray Data starts
no work whose results it has no room for.

What is lost with a worker is done again (distributed_careful.py). The driver alone writes; killed, it is started anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import ray

from ingestion.budget import Budget
from ingestion.distributed_desk import start_desk
from ingestion.distributed_pages import PAGE_DOCUMENTS, Pages
from ingestion.distributed_ray import connected
from ingestion.distributed_stages import pipeline, unpickled
from ingestion.distributed_words import Begin, Done, Make, NextPages, Question, Stored
from ingestion.patience import Patience
from ingestion.task import Result, Task, Work
from ingestion.work import Assignment, OpenWork
from serving.errors import AnchorageError, WorkersUnavailable

#: Bytes of files under way per worker; one file alone may be larger.
_BYTES = 16_000_000
#: Pages under way per worker: one being parsed, one being embedded, and one before each of them.
_PAGES = 4
#: Running work is waited for so long when a run is stopped, seconds.
_STOP_S = 20.0


def on_cluster(address: str | None = None, workers: int | None = None) -> OpenWork:
    """Work by the Ray at `address`, "auto" for the one of this machine; None starts a private one for each run.

    Where this process is connected to a Ray already, that one is used. `workers` overrides the setting.
    """

    @asynccontextmanager
    async def open_work(assignment: Assignment) -> AsyncIterator[Work]:
        cluster = assignment.settings.ingestion.cluster
        if workers:
            cluster = cluster.model_copy(update={"max_workers": workers})
        work = ClusterWork(assignment, address, cluster.max_workers)
        try:
            yield work
        except BaseException:
            await asyncio.shield(work.close(wanted=False))
            raise
        await work.close(wanted=True)

    return open_work


class ClusterWork:
    """Implements `task.Work`. Ray is started or joined when there is something to do."""

    def __init__(self, assignment: Assignment, address: str | None, workers: int) -> None:
        self._assignment = assignment
        self._address = address
        self._workers = workers
        self._pages = Pages(workers)
        self._budget = Budget(workers * _BYTES)
        self._patience = Patience(assignment.settings.ingestion.patience_s)
        self._running: asyncio.Task[None] | None = None

    @property
    def limit(self) -> int:
        return self._workers * _PAGES * PAGE_DOCUMENTS

    async def do(self, task: Task) -> Result:
        async with self._budget.taken(task.found.size):
            if self._running is None:
                self._running = asyncio.create_task(self._run())
            return await self._pages.add(task)

    async def close(self, *, wanted: bool) -> None:
        """The end of the run: with its results still `wanted`, or for another reason."""
        self._pages.end(None if wanted else WorkersUnavailable("The run was stopped."))
        if self._running is None:
            return
        _, late = await asyncio.wait([self._running], timeout=None if wanted else _STOP_S)
        for running in late:
            running.cancel()
            await asyncio.wait([running])
        if wanted:
            await self._running

    # -- the pipeline, from start to end -------------------------------------------------------------------------------

    async def _run(self) -> None:
        """What goes wrong is told to whoever waits for a result."""
        try:
            async with connected(self._address, self._assignment.settings.ingestion.cluster, self._workers) as private:
                await self._flow(private)
        except ray.exceptions.RayError as error:
            self._pages.end(WorkersUnavailable(f"The Ray cluster failed: {_first_line(error)}"))
        except AnchorageError as error:
            self._pages.end(error)
        finally:
            self._pages.end(WorkersUnavailable("The work on the cluster ended before it was done."))

    async def _flow(self, private: bool) -> None:
        desk = start_desk()
        answering = asyncio.create_task(self._answer(desk))
        answering.add_done_callback(self._answered)
        try:
            blocks = await asyncio.to_thread(self._blocks, desk, private)
            while (bundle := await asyncio.to_thread(next, blocks, None)) is not None:
                for block in bundle.block_refs:
                    for done in unpickled(await block):
                        self._take(done)
        finally:
            await asyncio.wait([answering, asyncio.ensure_future(desk.close.remote())], timeout=_STOP_S)
            answering.cancel()

    def _blocks(self, desk: Any, private: bool) -> Iterator[Any]:
        assignment = self._assignment
        settings = assignment.settings
        make = Make(settings, assignment.recipe, assignment.run.collection, reuse=assignment.run.published > 0)
        gpus = settings.ingestion.cluster.embed_gpus
        if gpus == "auto":
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        embed = not assignment.dry
        stages = pipeline(make, desk, workers=self._workers, fixed=private, gpus=gpus, embed=embed)
        bundles: Iterator[Any] = stages.iter_internal_ref_bundles()
        return bundles

    def _take(self, done: Done) -> None:
        if done.error is not None:
            raise done.error
        if self._pages.done(done):
            report = self._assignment.report
            report.embedded += done.embedded
            report.seconds.update(done.seconds or {})

    # -- what workers ask ----------------------------------------------------------------------------------------------

    async def _answer(self, desk: Any) -> None:
        async with asyncio.TaskGroup() as answers:
            while questions := await desk.asked.remote():
                for ticket, question in questions:
                    answers.create_task(self._reply(desk, ticket, question))

    def _answered(self, answering: asyncio.Task[None]) -> None:
        """Nobody may wait for what will not be asked any more."""
        if not answering.cancelled() and (error := answering.exception()) is not None:
            self._pages.end(WorkersUnavailable(f"The work on the cluster was lost: {error!r}"))

    async def _reply(self, desk: Any, ticket: str, question: Question) -> None:
        await desk.answer.remote(ticket, await self._answer_to(question))

    async def _answer_to(self, question: Question) -> Any:
        if isinstance(question, NextPages):
            return await self._pages.told(question.first)
        if isinstance(question, Begin):
            return self._pages.begun(question)
        try:
            return await self._stored(question)
        except AnchorageError as error:
            self._pages.end(error)
            return frozenset()

    async def _stored(self, question: Stored) -> frozenset[str]:
        """As `Writer` looks for them: in the document itself, and in another one of the same content.

        Raises IndexUnavailable, CatalogUnavailable.
        """
        run, parts = self._assignment.run, self._assignment.parts
        same = await self._patience.call(parts.catalog.same_content, run.build, list(question.content.values()))
        uris = {*question.content, *same.values()}

        async def digests() -> frozenset[str]:
            return frozenset([digest async for digest, _ in parts.store.vectors(run.index, run.build, list(uris))])

        return await self._patience.call(digests)


def _first_line(error: Exception) -> str:
    """What went wrong, without the traceback of another machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else repr(error))[:500]
