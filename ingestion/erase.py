"""`erase()`: take documents out of everything that keeps them, and prove it.

    each build: publish them away (a short run) ─► count them off, drop texts ─► delete their rows ─► look for them

Readers first see a generation without the documents, then the rows go, those that older generations kept included. It
may be killed at any point: the same call goes on from there.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from ingestion.parts import Parts
from ingestion.patience import Patience
from ingestion.proof import Former, ask
from ingestion.publish import Publication
from ingestion.receipt import Check, Receipt, Removed, now
from ingestion.records import taken
from ingestion.report import IngestReport
from ingestion.write import Writer
from serving.index.catalog_models import Build, DocumentRecord, Generation, Run, State
from serving.index.leases import Lease
from serving.index.types import StoredKey
from serving.settings import Settings

#: Documents by uri, a page at a time, as often as they are asked for.
Pages: TypeAlias = Callable[[], AsyncIterator[list[str]]]

#: Other short runs take seconds.
_WAIT_S = 60.0
#: Documents looked at together.
_PAGE = 256
#: Generations whose counts may still be asked for.
_GENERATIONS = 1_000
#: Former chunks that are searched for, in each build.
_SAMPLES = 20
_AWAY: tuple[State, ...] = ("gone", "forgotten")


async def erase(
    parts: Parts,
    settings: Settings,
    collection: str,
    uris: Sequence[str],
    *,
    wait_s: float = _WAIT_S,
    for_good: bool = False,
) -> Receipt:
    """Remove every row of these documents from every build and generation, and their texts; then look for them.

    Documents that come again are ingested again, unless they are removed `for_good`. Can be repeated, also after it was
    killed; documents that are not there are looked for all the same. A check that fails is in the receipt. Raises
    UnknownCollection, WriterBusy (when a run is still changing one of them after `wait_s`), LeaseLost,
    IndexUnavailable, CatalogUnavailable.
    """
    asked = sorted(set(uris))

    async def pages() -> AsyncIterator[list[str]]:
        for start in range(0, len(asked), _PAGE):
            yield asked[start : start + _PAGE]

    return await erase_pages(parts, settings, collection, pages, wait_s=wait_s, for_good=for_good)


async def erase_pages(
    parts: Parts,
    settings: Settings,
    collection: str,
    pages: Pages,
    *,
    wait_s: float = _WAIT_S,
    for_good: bool = False,
) -> Receipt:
    """The same for any number of documents in bounded memory. The live build is the last one."""
    catalog = parts.catalog
    await catalog.collection(collection)
    receipt = Receipt(collection, settings.index.tenant, passed_over=for_good)
    builds = sorted(await catalog.builds(collection), key=lambda build: build.live)
    erasures = [Erasure(parts, settings, build, pages, receipt, wait_s) for build in builds]
    for erasure in erasures:
        await erasure.wait()
    async for page in pages():
        receipt.asked += len(page)
        if for_good:
            texts, uploads = await catalog.pass_over(collection, page, time.time())
            receipt.texts, receipt.uploads = receipt.texts + texts, receipt.uploads + uploads
    for erasure in erasures:
        await erasure.run()
    if for_good:
        async for page in pages():
            await catalog.forget(collection, page, time.time())
    await _look_for_texts(parts, receipt)
    receipt.not_covered += await asyncio.to_thread(_not_covered, receipt)
    receipt.finished_at = now()
    return receipt


class Erasure:
    """The documents' way out of one build."""

    def __init__(
        self, parts: Parts, settings: Settings, build: Build, pages: Pages, receipt: Receipt, wait_s: float
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._build = build
        self._pages = pages
        self._receipt = receipt
        self._wait_s = wait_s
        self._removed = Removed(build.key, build.index)
        self._former: dict[int, Former] = {}
        self._seen = 0
        self._dice = random.Random(build.snapshot)
        self._left: list[str] = []

    async def wait(self) -> None:
        """Until no run is changing one of the documents. Raises WriterBusy; nothing is begun then."""
        async with self._leases():
            pass

    async def run(self) -> None:
        async with self._leases() as leases:
            if self._build.snapshot and self._build.state != "dropping" and await self._there():
                await self._publish_away(leases)
            generations = await self._parts.catalog.generations(self._build.key, limit=_GENERATIONS)
            async for page in self._pages():
                await self._delete(page, generations)
            self._receipt.builds.append(self._removed)
            await self._prove()

    # -- leases --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _leases(self) -> AsyncIterator[list[Lease]]:
        """The turn to publish; and while a bulk run has begun one of the documents, the turn to run.

        Raises WriterBusy when they do not come in time.
        """
        deadline = time.monotonic() + self._wait_s
        publish = f"publish/{self._build.key}"
        if not await self._under_way():
            async with self._held([publish], deadline) as leases:
                if not await self._under_way():
                    yield leases
                    return
            # While we waited for our turn, a run has begun one of them.
        async with self._held([f"run/{self._build.key}", publish], deadline) as leases:
            yield leases

    @asynccontextmanager
    async def _held(self, names: Sequence[str], deadline: float) -> AsyncIterator[list[Lease]]:
        hold = self._parts.catalog.leases.hold
        async with AsyncExitStack() as stack:
            leases = []
            for name in names:
                left_s = max(0.0, deadline - time.monotonic())
                leases.append(await stack.enter_async_context(hold(name, "a removal", wait_s=left_s)))
            yield leases

    async def _under_way(self) -> str:
        """One of the documents that another, unpublished run has changed, or ""."""
        run = await self._next_run()
        async for page in self._pages():
            for uri, record in (await self._parts.catalog.lookup(self._build.key, page)).items():
                if taken(record, run):
                    return uri
        return ""

    async def _next_run(self) -> Run:
        """What `begin_run` would give, without beginning it."""
        build = self._build
        builds = await self._parts.catalog.builds(build.collection)
        published = next((other.snapshot for other in builds if other.key == build.key), build.snapshot)
        return Run(build.collection, build.key, build.index, published + 1, published, "short")

    # -- out of readers' sight -----------------------------------------------------------------------------------------

    async def _there(self) -> bool:
        """Whether readers, or those of a snapshot to come, see one of them."""
        published = (await self._next_run()).published
        async for page in self._pages():
            for record in (await self._parts.catalog.lookup(self._build.key, page)).values():
                if record.state not in _AWAY or record.snapshot > published:
                    return True
        return False

    async def _publish_away(self, leases: Sequence[Lease]) -> None:
        catalog, ingestion, build = self._parts.catalog, self._settings.ingestion, self._build
        run = await catalog.begin_run(build, "short")
        report, patience = IngestReport(build.collection), Patience(0.0)
        embedder = self._parts.embedder(build.recipe.model)
        writer = Writer(catalog, self._parts.store, embedder, run, report, patience, batch=ingestion.write_batch)
        publication = Publication(ingestion, self._parts, build, run, patience, leases)
        await publication.restore_interrupted(writer)
        async for page in self._pages():
            for record in (await catalog.lookup(build.key, page)).values():
                if taken(record, run):  # by a run that is dead: its lease is ours
                    await writer.restore(record)
            records = (await catalog.lookup(build.key, page)).values()
            await writer.remove([record for record in records if record.state not in _AWAY])
        await publication.short(writer, report)

    # -- out of the store ----------------------------------------------------------------------------------------------

    async def _delete(self, uris: Sequence[str], generations: Sequence[Generation]) -> None:
        catalog, store, build = self._parts.catalog, self._parts.store, self._build
        records = await catalog.lookup(build.key, uris)
        rows = await store.keys(build.index, build.key, uris)
        await self._sample(rows)
        found = Counter(row.uri for row in rows)
        self._receipt.count({uri: found[uri] for uri in uris})
        self._removed.rows += len(rows)
        self._removed.documents += len(found)
        await catalog.record(build.key, self._unpublished(records))
        self._receipt.texts += await catalog.erased(build.key, uris, _lost(rows, records, generations))
        await store.delete(build.index, [row.key for row in rows])
        self._left += [row.uri for row in await store.keys(build.index, build.key, uris)]

    def _unpublished(self, records: dict[str, DocumentRecord]) -> list[DocumentRecord]:
        """In a build that nobody has read yet there is nothing to publish: its documents are gone at once."""
        if self._build.snapshot or self._build.state == "dropping":
            return []
        return [replace(record, state="gone") for record in records.values() if record.state not in _AWAY]

    async def _sample(self, rows: Sequence[StoredKey]) -> None:
        """Each row with the same chance to be looked for afterwards (Vitter's algorithm R)."""
        chosen: dict[int, str] = {}
        for row in rows:
            place = self._seen if self._seen < _SAMPLES else self._dice.randrange(self._seen + 1)
            self._seen += 1
            if place < _SAMPLES:
                chosen[place] = row.key
        places = {key: place for place, key in chosen.items()}
        async for stored in self._parts.store.chunks(self._build.index, self._build.key, list(places)):
            self._former[places[stored.key]] = Former(stored.chunk.uri, stored.chunk.context(), stored.vector)

    # -- proof ---------------------------------------------------------------------------------------------------------

    async def _prove(self) -> None:
        build, receipt = self._build, self._receipt
        await self._parts.store.flush(build.index)
        asked = await self._parts.store.compact(build.index)
        receipt.note(
            "Bytes on disk: Milvus frees deleted rows at its next compaction"
            f"{', which it was asked for' if asked else ''}, and a database the space of deleted texts in its own time."
        )
        check = Check("no row is left", build.key, receipt.asked, not self._left, now(), tuple(self._left[:10]))
        receipt.checks.append(check)
        builds = {other.key: other for other in await self._parts.catalog.builds(build.collection)}
        current = builds.get(build.key, build)
        self._removed.generation = current.generation
        snapshots = {current.snapshot, current.pinned} - {0}
        listed = frozenset(receipt.documents)
        for snapshot in sorted(snapshots):
            receipt.checks += await ask(self._parts.store, build, snapshot, list(self._former.values()), listed)


def _lost(
    rows: Sequence[StoredKey], records: dict[str, DocumentRecord], generations: Sequence[Generation]
) -> dict[int, tuple[int, int]]:
    """Documents and chunks that each published snapshot has less without these rows.

    Documents with the snapshot 0 have been counted off before their rows were deleted, by a call that was killed.
    """
    counted = [row for row in rows if row.uri in records and records[row.uri].snapshot]
    lost = {}
    for generation in generations:
        snapshot = generation.snapshot
        seen = [row.uri for row in counted if row.born <= snapshot < row.died]
        if generation.state == "published" and seen:
            lost[snapshot] = (len(set(seen)), len(seen))
    return lost


async def _look_for_texts(parts: Parts, receipt: Receipt) -> None:
    left = sorted(await parts.catalog.texts_of(receipt.collection, list(receipt.documents)))
    asked = len(receipt.documents)
    receipt.checks.append(Check("no text is left", "catalog", asked, not left, now(), tuple(left[:10])))


def _not_covered(receipt: Receipt) -> list[str]:
    """What else may hold the documents. Blocking: looks for their files."""
    files = [uri for uri in receipt.documents if urlsplit(uri).scheme == "file"]
    there = [uri for uri in files if Path(unquote(urlsplit(uri).path)).exists()]
    others = [uri for uri in receipt.documents if urlsplit(uri).scheme not in ("file", "anchorage", "")]
    again = "" if receipt.passed_over else " An ingestion that covers it brings it back."
    said = []
    if there:
        more = f" and {len(there) - 1:,} more" if len(there) > 1 else ""
        said.append(f"The source still exists: {there[0]}{more}.{again}")
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        said.append(f"The source may still exist: {others[0]}{more}.{again}")
    said.append("Backups of Milvus and of the catalog that were made before.")
    said.append("Answers that were given before, and logs that others keep of them.")
    return said
