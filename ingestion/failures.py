"""What could not be ingested, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ingestion.apply import UPLOADED
from serving.errors import SourceError
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord


async def failed_documents(catalog: Catalog, collection: str) -> AsyncIterator[DocumentRecord]:
    """By uri, with the reason, the number of attempts and when the next one is due. Raises UnknownCollection."""
    await catalog.collection(collection)
    build = await catalog.live_build(collection)
    if build is not None:
        async for record in catalog.documents(build.key, states=("failed",)):
            yield record


async def failed_sources(catalog: Catalog, collection: str) -> list[str]:
    """What to walk to meet all of them again. Raises UnknownCollection, SourceError when there is nothing to walk."""
    sources = {record.source async for record in failed_documents(catalog, collection)}
    if sources == {UPLOADED}:
        raise SourceError(f"What has failed in collection {collection!r} came over HTTP: upload it again.")
    sources.discard(UPLOADED)
    if not sources:
        raise SourceError(f"No document of collection {collection!r} has failed: there is nothing to retry.")
    return sorted(sources)
