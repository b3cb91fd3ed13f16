"""`erase()`: take documents out of everything that keeps them, and prove it."""

from __future__ import annotations

from collections.abc import Sequence

from ingestion.parts import Parts
from ingestion.patience import Patience
from ingestion.publish import Publication
from ingestion.receipt import Check, Receipt, Removed, now, rows_by_uri
from ingestion.records import taken
from ingestion.report import IngestReport
from ingestion.write import Writer
from serving.errors import WriterBusy
from serving.index.catalog_models import Build
from serving.settings import Settings

#: Other short runs take seconds.
_WAIT_S = 60.0


async def erase(parts: Parts, settings: Settings, collection: str, uris: Sequence[str]) -> Receipt:
    """Remove every row of these documents from every build and generation, and their texts; then look for them.

    Can be repeated, also after it was killed. Raises UnknownCollection, WriterBusy when another run is changing one of
    them, LeaseLost, IndexUnavailable, CatalogUnavailable.
    """
    await parts.catalog.collection(collection)
    receipt = Receipt(collection, settings.index.tenant, asked=len(set(uris)))
    for build in await parts.catalog.builds(collection):
        receipt.builds.append(await _erase(parts, settings, build, uris, receipt))
    await parts.catalog.drop_texts(collection, uris)
    receipt.found = len(receipt.documents)
    receipt.finished_at = now()
    return receipt


async def _erase(parts: Parts, settings: Settings, build: Build, uris: Sequence[str], receipt: Receipt) -> Removed:
    catalog, store, ingestion = parts.catalog, parts.store, settings.ingestion
    async with catalog.leases.hold(f"publish/{build.key}", "a removal", wait_s=_WAIT_S) as lease:
        run = await catalog.begin_run(build, "short")
        records = await catalog.lookup(build.key, uris)
        if busy := [uri for uri, record in records.items() if taken(record, run)]:
            raise WriterBusy(f"Another run is changing {busy[0]}: erase it when that has ended.")
        report, patience = IngestReport(build.collection), Patience(0.0)
        embedder = parts.embedder(build.recipe.model)
        writer = Writer(catalog, store, embedder, run, report, patience, batch=ingestion.write_batch)
        await writer.remove([record for record in records.values() if record.state != "gone"])
        await Publication(ingestion, parts, build, run, patience, (lease,)).short(writer, report)
        rows = await store.keys(build.index, build.key, uris)
        receipt.count(rows_by_uri([row.uri for row in rows]))
        await store.delete(build.index, [row.key for row in rows])
        await store.flush(build.index)
        left = tuple(row.uri for row in await store.keys(build.index, build.key, uris))
        receipt.checks.append(Check("no row is left", build.key, 1, not left, now(), left[:10]))
        return Removed(build.key, build.index, len(rows), len({row.uri for row in rows}), report.generation)
