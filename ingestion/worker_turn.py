"""One turn at a collection's waiting operations: claimed together, done in batches, each finished or put back."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ingestion.apply import apply
from ingestion.erase import erase
from ingestion.parts import Parts
from ingestion.sandbox import ParserPool
from ingestion.upload import Asked, Outcome, changing, removed, uploaded
from serving.errors import AnchorageError, CallerError, LeaseLost, Unavailable, WriterBusy
from serving.index.catalog_models import Operation, OperationState
from serving.settings import Settings

_log = logging.getLogger(__name__)

#: Operations claimed in a turn.
_CLAIMED = 100
#: A batch is closed when it has so many bytes or documents; one operation alone may have more.
_BATCH_BYTES = 32_000_000
_BATCH_DOCUMENTS = 500
#: How long a removal waits for another run to end before others have their turn, seconds.
_ERASE_WAIT_S = 2.0
#: An operation that failed so often for a reason of its own is given up.
_ATTEMPTS = 5


@dataclass(slots=True)
class Tally:
    """What a worker remembers from turn to turn.

    `attempts` counts failures of unfinished operations, by id; `finished` operations by kind and state, `documents`
    their documents by state.
    """

    attempts: Counter[str] = field(default_factory=Counter)
    finished: Counter[tuple[str, str]] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)


class Turn:
    """`again`: something is left that has to wait; `polite`: only for documents that another run is changing."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        collection: str,
        pool: Callable[[str], ParserPool],
        tally: Tally,
    ) -> None:
        self.again = False
        self.polite = True
        self._settings = settings
        self._parts = parts
        self._operations = parts.catalog.operations
        self._collection = collection
        self._pool = pool
        self._tally = tally
        self._attempts = tally.attempts
        #: Documents of operations that have to wait: nothing that was asked for later may overtake those.
        self._blocked: set[str] = set()

    async def run(self) -> None:
        """Raises WriterBusy when another worker has the collection, CatalogUnavailable."""
        async with self._parts.catalog.leases.hold(f"uploads/{self._collection}", "uploads over HTTP") as lease:
            waiting = deque(await self._operations.claim(self._collection, _CLAIMED))
            held: Asked | None = None
            while waiting or held:
                await lease.check()
                asked = held or await self._read(waiting.popleft())
                batch, held = await self._batch(asked, waiting)
                if not await self._do(batch):
                    rest = [*([held.operation] if held else []), *waiting]
                    for operation in rest:
                        await self._operations.requeue(operation.id, "It waits for an earlier one.")
                    return

    # -- batches -------------------------------------------------------------------------------------------------------

    async def _read(self, operation: Operation) -> Asked:
        documents = [document async for document in self._operations.uploads(operation.id)]
        return Asked(operation, tuple(documents))

    async def _batch(self, first: Asked, waiting: deque[Operation]) -> tuple[list[Asked], Asked | None]:
        """The first one and those behind it that can be done with it; one that was read and cannot is held."""
        batch, uris = [first], first.uris
        kind, size = first.operation.kind, first.size
        while waiting and self._joins(waiting[0], kind) and not self._attempts[first.operation.id]:
            if size >= _BATCH_BYTES or len(uris) >= _BATCH_DOCUMENTS:
                break
            following = await self._read(waiting.popleft())
            if uris & following.uris:
                return batch, following
            batch.append(following)
            uris |= following.uris
            size += following.size
        return batch, None

    def _joins(self, operation: Operation, kind: str) -> bool:
        """One that failed before is tried alone, so that it takes no other with it."""
        return operation.kind == kind and not self._attempts[operation.id]

    # -- doing them ----------------------------------------------------------------------------------------------------

    async def _do(self, batch: Sequence[Asked]) -> bool:
        """False when a part is away, so that there is no use in going on."""
        free = []
        for asked in batch:
            if asked.uris & self._blocked:
                await self._put_back(asked, "It waits for an earlier one over the same document.")
            else:
                free.append(asked)
        if not free:
            return True
        try:
            if free[0].operation.kind == "upload":
                await self._upload(free)
            else:
                await self._delete(free)
        except (Unavailable, LeaseLost) as error:
            self.polite = False
            for asked in free:
                await self._put_back(asked, str(error))
            return False
        except WriterBusy as error:
            for asked in free:
                await self._put_back(asked, str(error))
        except CallerError as error:
            for asked in free:
                await self._fail(asked, str(error))
        except AnchorageError as error:
            await self._try_again(free, str(error))
        except Exception:  # noqa: BLE001 - the edge of one batch: whoever asked is told, and the next one is done
            _log.exception("Collection %s: unexpected error", self._collection)
            await self._try_again(free, "The server failed; its log has the reason.")
        return True

    async def _upload(self, batch: Sequence[Asked]) -> None:
        build = await self._parts.catalog.live_build(self._collection)
        applied = await apply(
            [found for asked in batch for found in asked.found()],
            (),
            self._collection,
            settings=self._settings,
            parts=self._parts,
            pool=self._pool(build.recipe.model if build else self._settings.embedder.model),
        )
        for asked in batch:
            if busy := asked.uris & applied.busy:
                await self._put_back(asked, changing(busy))
            else:
                await self._finish(asked, uploaded(asked, applied), generation=applied.report.generation)

    async def _delete(self, batch: Sequence[Asked]) -> None:
        """One by one: each gets a receipt of its own."""
        for asked in batch:
            uris = sorted(asked.uris)
            receipt = await erase(self._parts, self._settings, self._collection, uris, wait_s=_ERASE_WAIT_S)
            error = "" if receipt.proven else "A check failed: the receipt says which."
            seen = (await self._parts.catalog.collection(self._collection)).generation
            outcome = Outcome(removed(uris).documents, error)
            await self._finish(asked, outcome, generation=seen, receipt=receipt.as_json())

    # -- outcomes ------------------------------------------------------------------------------------------------------

    async def _finish(self, asked: Asked, outcome: Outcome, **result: object) -> None:
        operation = asked.operation
        state: OperationState = "failed" if outcome.error else "succeeded"
        told = {**operation.result, "documents": outcome.documents, **result}
        await self._operations.finish(operation.id, state, result=told, error=outcome.error)
        self._attempts.pop(operation.id, None)
        self._tally.finished[operation.kind, state] += 1
        self._tally.documents.update(document["state"] for document in outcome.documents)

    async def _fail(self, asked: Asked, error: str) -> None:
        documents = [{**told, "state": "failed", "reason": error} for told in removed(sorted(asked.uris)).documents]
        await self._finish(asked, Outcome(documents, error))

    async def _try_again(self, batch: Sequence[Asked], reason: str) -> None:
        self.polite = False
        for asked in batch:
            self._attempts[asked.operation.id] += 1
            if self._attempts[asked.operation.id] >= _ATTEMPTS:
                await self._fail(asked, reason)
            else:
                await self._put_back(asked, reason)

    async def _put_back(self, asked: Asked, reason: str) -> None:
        self.again = True
        self._blocked |= asked.uris
        await self._operations.requeue(asked.operation.id, reason)
