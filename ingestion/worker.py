"""`DocumentWorker`: does what was asked for over HTTP, operation by operation, and outlives every failure of its parts.

    POST, DELETE ─► Catalog.operations ─► claim ─► batches ─► apply() or erase() ─► finish, with an outcome per document

An operation is finished once, whatever dies when: until then it stays in the catalog with its documents, and doing it
again changes nothing. It knows no HTTP and no Ray: who runs it gives it the settings and the embedding models.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ingestion.parts import BulkEmbedder, Parts
from ingestion.sandbox import ParserPool
from ingestion.worker_turn import Tally, Turn
from serving.errors import AnchorageError
from serving.index.catalog import Catalog
from serving.index.milvus import Milvus
from serving.settings import Settings

_log = logging.getLogger(__name__)

#: It looks for work at least so often, whoever forgot to poke it, seconds.
_LOOK_S = 1.0
#: Collections worked on at a time: while one waits for its turn to publish, another goes on.
_SIDE_BY_SIDE = 2
#: Pauses of a collection that could not be worked on, seconds: each further one is twice as long.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 15.0
#: Parsers are ended after so long without work, seconds: they hold some 100 MB each.
_IDLE_S = 300.0


@dataclass(slots=True)
class _Pause:
    """Until when a collection is left alone, on the monotonic clock. `polite`: a new request ends it."""

    length_s: float
    until: float
    polite: bool


class DocumentWorker:
    """One per process; several at once, on one machine or many, share the work out by collection."""

    def __init__(self, settings: Settings, embedder: Callable[[str], BulkEmbedder]) -> None:
        """`embedder` gives the embedding model of a name. Connects with the first call of `run`."""
        self._settings = settings
        self._parts = Parts(Catalog.connect(settings.index), Milvus.connect(settings.index), embedder)
        self._pools: dict[str, ParserPool] = {}
        self._poked = asyncio.Event()
        self._working: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, _Pause] = {}
        #: In work when there was something new: perhaps for them, and then this turn has not seen it.
        self._asked_meanwhile: set[str] = set()
        self._tally = Tally()
        self._backlog = (0, 0.0)
        self._worked = time.monotonic()

    # -- its life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled. Raises nothing that a part of it does: that is waited out."""
        while True:
            poked = self._poked.is_set()
            self._poked.clear()
            await self._look(poked)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._poked.wait()

    def poke(self) -> None:
        """There is something new: look now."""
        self._asked_meanwhile.update(self._working)
        self._poked.set()

    async def close(self) -> None:
        """Stop; what is not finished goes on elsewhere, or after the next start."""
        for task in self._working.values():
            task.cancel()
        await asyncio.gather(*self._working.values(), return_exceptions=True)
        await self._close_pools()
        await self._parts.store.close()
        await self._parts.catalog.close()

    # -- finding work --------------------------------------------------------------------------------------------------

    async def _look(self, poked: bool) -> None:
        try:
            waiting = await self._parts.catalog.operations.waiting()
            self._backlog = await self._parts.catalog.operations.backlog() if waiting else (0, 0.0)
        except AnchorageError as error:
            _log.warning("%s; looking for work again in %g s", error, _LOOK_S)
            return
        for collection in waiting:
            if len(self._working) >= _SIDE_BY_SIDE:
                return
            if collection not in self._working and self._due(collection, poked):
                self._asked_meanwhile.discard(collection)
                self._working[collection] = asyncio.create_task(self._work(collection))
        if not waiting and not self._working and time.monotonic() - self._worked > _IDLE_S:
            await self._close_pools()

    def _due(self, collection: str, poked: bool) -> bool:
        pause = self._pauses.get(collection)
        return pause is None or (poked and pause.polite) or time.monotonic() >= pause.until

    async def _work(self, collection: str) -> None:
        try:
            turn = Turn(self._settings, self._parts, collection, self._pool, self._tally)
            await turn.run()
            self._rest(collection, turn.again, polite=turn.polite)
        except AnchorageError as error:
            # Another worker has the collection, or the catalog is away: what was claimed is claimed again.
            _log.warning("Collection %s: %s", collection, error)
            self._rest(collection, True, polite=False)
        except Exception:  # noqa: BLE001 - the task's edge: whatever fails in one collection, the others go on
            _log.exception("Collection %s: unexpected error", collection)
            self._rest(collection, True, polite=False)
        finally:
            self._worked = time.monotonic()
            del self._working[collection]
        pause = self._pauses.get(collection)
        if pause is None or (pause.polite and collection in self._asked_meanwhile):
            self._poked.set()

    def _rest(self, collection: str, again: bool, *, polite: bool) -> None:
        before = self._pauses.pop(collection, None)
        if again:
            length = min(2 * before.length_s, _LONGEST_PAUSE_S) if before else _FIRST_PAUSE_S
            self._pauses[collection] = _Pause(length, time.monotonic() + length, polite)

    # -- parsers -------------------------------------------------------------------------------------------------------

    def _pool(self, model: str) -> ParserPool:
        if model not in self._pools:
            self._pools[model] = ParserPool(self._settings.ingestion, model)
        return self._pools[model]

    async def _close_pools(self) -> None:
        while self._pools:
            await self._pools.popitem()[1].close()

    # -- metrics -------------------------------------------------------------------------------------------------------

    def metrics(self) -> str:
        """Prometheus's text format."""
        waiting, oldest = self._backlog
        age = max(0.0, time.time() - oldest) if waiting else 0.0
        lines = [
            "# HELP anchorage_operations_waiting Uploads and deletions that are not finished.",
            "# TYPE anchorage_operations_waiting gauge",
            f"anchorage_operations_waiting {waiting}",
            "# HELP anchorage_operations_oldest_seconds How long the oldest of them has waited.",
            "# TYPE anchorage_operations_oldest_seconds gauge",
            f"anchorage_operations_oldest_seconds {age:.3f}",
            "# HELP anchorage_operations_finished_total Uploads and deletions that are finished.",
            "# TYPE anchorage_operations_finished_total counter",
        ]
        lines += [
            f'anchorage_operations_finished_total{{kind="{kind}",state="{state}"}} {number}'
            for (kind, state), number in sorted(self._tally.finished.items())
        ]
        lines += [
            "# HELP anchorage_uploaded_documents_total Documents of finished operations, by what became of them.",
            "# TYPE anchorage_uploaded_documents_total counter",
        ]
        lines += [
            f'anchorage_uploaded_documents_total{{state="{state}"}} {number}'
            for state, number in sorted(self._tally.documents.items())
        ]
        return "".join(f"{line}\n" for line in lines)
