"""What a deletion changes in the catalog, beside the document itself: texts, uploads, the counts of generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, delete, select, update

from serving.index.catalog_models import collection_of
from serving.index.catalog_part import Part, batches
from serving.index.catalog_tables import collections, documents, forgotten, operations, runs, texts, uploads

#: What is left of a document whose rows are erased. No snapshot has the number 0.
_ERASED = {"snapshot": 0, "title": "", "content_hash": "", "fingerprint": "", "reason": "", "chunks": 0}


class Erasures(Part):
    """`build` is a build's key, `collection` the public name. Every call raises CatalogUnavailable."""

    async def pass_over(self, collection: str, uris: Sequence[str], at: float) -> tuple[int, int]:
        """From now on ingestion passes over these documents, and no text of them is kept; one transaction.

        What is there of their texts and of the bytes of uploads that wait goes away: how many of each there were.
        """
        kept = emptied = 0
        asked = select(operations.c.id).where(*self._mine(operations, collection=collection))
        empty = update(uploads).where(*self._mine(uploads), uploads.c.operation.in_(asked), uploads.c.data != b"")
        insert = self._database.insert(forgotten).on_conflict_do_nothing()
        key = {"tenant": self._tenant, "collection": collection, "at": at}
        async with self._database.write() as connection:
            # Those that keep texts share this row: none slips in behind.
            held = select(collections.c.name).where(*self._mine(collections, name=collection))
            await connection.execute(held.with_for_update())
            for batch in batches(sorted(set(uris))):
                await connection.execute(insert, [key | {"uri": uri} for uri in batch])
                gone = await connection.execute(delete(texts).where(*self._texts(collection, batch)))
                blank = empty.where(uploads.c.uri.in_(batch)).values(data=b"", title="", metadata="{}")
                emptied += (await connection.execute(blank)).rowcount
                kept += gone.rowcount
        return kept, emptied

    async def erased(self, build: str, uris: Sequence[str], counts: Mapping[int, tuple[int, int]]) -> int:
        """Note that the rows of these `gone` documents are about to be deleted; how many texts went away with them.

        `counts` are the documents and chunks that each published snapshot loses by that. One transaction; the documents
        have the snapshot 0 then, so that nobody takes them off twice.
        """
        ordered, dropped = sorted(set(uris)), 0
        theirs = update(documents).where(*self._mine(documents, build=build, state="gone"))
        async with self._database.write() as connection:
            for snapshot, (less_documents, less_chunks) in sorted(counts.items()):
                fewer = {"documents": runs.c.documents - less_documents, "chunks": runs.c.chunks - less_chunks}
                shown = self._mine(runs, build=build, snapshot=snapshot, state="published")
                await connection.execute(update(runs).where(*shown).values(**fewer))
            for batch in batches(ordered):
                await connection.execute(theirs.where(documents.c.uri.in_(batch)).values(**_ERASED))
                gone = await connection.execute(delete(texts).where(*self._texts(collection_of(build), batch)))
                dropped += gone.rowcount
        return dropped

    async def texts_of(self, collection: str, uris: Sequence[str]) -> set[str]:
        """Those of the documents whose text is there."""
        found: set[str] = set()
        async with self._database.read() as connection:
            for batch in batches(uris):
                query = select(texts.c.uri).where(*self._texts(collection, batch))
                found |= set((await connection.execute(query)).scalars())
        return found

    async def returned(self, build: str, limit: int = 1_000) -> list[str]:
        """Forgotten documents that a run has written all the same: it had read them before they were forgotten."""
        passed_over = self._mine(forgotten, collection=collection_of(build))
        same = documents.c.uri == forgotten.c.uri
        there = [*self._mine(documents, build=build), documents.c.state.not_in(("gone", "forgotten"))]
        query = select(forgotten.c.uri).where(*passed_over).where(select(1).where(same, *there).exists())
        async with self._database.read() as connection:
            return list((await connection.execute(query.limit(limit))).scalars())

    def _texts(self, collection: str, uris: Sequence[str]) -> list[ColumnElement[bool]]:
        return [*self._mine(texts, collection=collection), texts.c.uri.in_(uris)]
