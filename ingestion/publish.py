"""The end of a run: what was interrupted is put right, what was written is verified, and readers see it at once.

While this happens no other run publishes (its caller holds the lease), so the counts are those of one moment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ingestion.parts import Parts
from ingestion.patience import Patience
from ingestion.records import summary
from ingestion.report import IngestReport
from ingestion.verify import verify_count, verify_rows
from ingestion.write import Sample, Writer
from serving.index.catalog_models import Build, Run, State
from serving.index.leases import Lease
from serving.index.types import Vectors
from serving.settings import IngestionSettings

#: A reader that began with an earlier generation has long finished after this time, seconds.
_GRACE_S = 60.0
#: Documents looked at together; runs among which the unpublished ones are.
_PAGE = 256
_LATEST = 10
#: States whose chunks readers see, or will see.
_SEEN: tuple[State, ...] = ("live", "written", "failed")


class Publication:
    """Publishes one run over a build. `leases` are those that the run stands on, the one to publish with last."""

    def __init__(
        self,
        settings: IngestionSettings,
        parts: Parts,
        build: Build,
        run: Run,
        patience: Patience,
        leases: Sequence[Lease],
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._build = build
        self._run = run
        self._patience = patience
        self._try = patience.call
        self._leases = leases

    async def bulk(self, writer: Writer, report: IngestReport, *, repaired: bool) -> bool:
        """Publish a run that may have touched everything. False: the store lost rows, which a second pass brings back.

        Raises VerificationFailed, after the second pass also for lost rows; LeaseLost.
        """
        catalog, run = self._parts.catalog, self._run
        with report.timed("verify"):
            await self.restore_interrupted(writer)
            forgotten = await self._leave_out_forgotten(writer)
            touched = writer.touched or (run.resumed and await self._left_unpublished())
            await writer.flush()
            current = await self._current()
            snapshot = run.snapshot if touched else current.snapshot
            expected = await self._try(catalog.chunk_sum, run.build, _SEEN)
            stored = await self._try(self._parts.store.count, run.index, run.build, snapshot)
            if stored != expected and not repaired:
                return False
            verify_count(run.collection, stored=stored, expected=expected)
            if touched:
                report.verified = await self._verify(writer.sample)
        if touched:
            with report.timed("publish"):
                await self._check_leases()
                await self._try(
                    catalog.publish, run, chunks=stored, summary=summary(report.counts), lease=self._leases[-1]
                )
                await self.purge()
        if forgotten:
            await self._try(catalog.forget, run.collection, forgotten, time.time())
        await self.tell(report, published=touched)
        return True

    async def short(self, writer: Writer, report: IngestReport) -> None:
        """Publish a run over a few documents, whose rows alone are verified. Raises VerificationFailed, LeaseLost."""
        run, touched = self._run, writer.touched
        change = (writer.documents_delta, writer.chunks_delta)
        if run.resumed and (left := await self._left()):
            touched, change = True, await self._changed(left)
        if touched:
            with report.timed("verify"):
                await writer.flush()
                report.verified = await self._verify(writer.sample)
            with report.timed("publish"):
                await self._check_leases()
                await self._try(
                    self._parts.catalog.publish,
                    run,
                    documents_delta=change[0],
                    chunks_delta=change[1],
                    summary=summary(report.counts),
                    lease=self._leases[-1],
                )
                await self.purge()
        await self.tell(report, published=touched)

    async def restore_interrupted(self, writer: Writer) -> None:
        """Undo what runs that died had begun and this one did not take up; a later snapshot is somebody else's."""
        async for record in self._parts.catalog.documents(self._run.build, states=("parsed",)):
            if record.snapshot <= self._run.snapshot:
                await writer.restore(record)
        if self._run.kind == "short":
            await self.undo_rollback(writer)

    async def undo_rollback(self, writer: Writer) -> None:
        """A rollback that died is whole or nothing: what it has written is for no other run to publish."""
        catalog, build = self._parts.catalog, self._run.build
        dead = await self.dead_rollbacks()
        if not dead:
            return
        async for record in catalog.documents(build, states=("parsed", "written", "gone")):
            if record.snapshot in dead:
                await writer.restore(record)

    async def dead_rollbacks(self) -> set[int]:
        """Snapshots of rollbacks that died, for a caller whose lease keeps others from rolling back."""
        runs = await self._try(self._parts.catalog.generations, self._run.build, _LATEST)
        return {run.snapshot for run in runs if run.state == "running" and run.kind == "rollback"}

    async def _leave_out_forgotten(self, writer: Writer) -> list[str]:
        """Documents that were forgotten after this run had read them. They are forgotten again when it is published."""
        found: list[str] = []
        while uris := await self._try(self._parts.catalog.returned, self._run.build):
            records = await self._try(self._parts.catalog.lookup, self._run.build, uris)
            await writer.remove(list(records.values()))
            writer.sample.leave_out(uris)
            found += uris
        return found

    async def purge(self) -> None:
        """Delete rows that only readers of generations no longer kept could see."""
        oldest = await self._try(
            self._parts.catalog.oldest_needed, self._run.build, self._settings.keep_generations, _GRACE_S
        )
        await self._try(self._parts.store.purge, self._run.index, self._run.build, oldest)

    async def tell(self, report: IngestReport, *, published: bool) -> None:
        """What the collection has now. A run that changed nothing leaves no trace."""
        if not published:
            await self._try(self._parts.catalog.abandon, self._run)
        build = await self._current()
        report.published = published
        report.generation = build.generation
        report.documents = build.documents
        report.chunks = build.chunks

    async def _verify(self, sample: Sample) -> int:
        vectors = [(row.chunk.uri, row.vector) for row in sample.rows]
        if self._run.resumed and len(vectors) < sample.size:
            vectors += await self._try(self._written_before, sample.size - len(vectors))
        store, run = self._parts.store, self._run
        return await self._try(verify_rows, store, run.index, run.build, run.snapshot, vectors)

    async def _written_before(self, number: int) -> list[tuple[str, Vectors]]:
        """Rows that the interrupted run has written, of the first documents there are."""
        found: list[tuple[str, Vectors]] = []
        async for record in self._parts.catalog.documents(self._run.build, states=("written",)):
            if len(found) >= number:
                break
            if record.chunks:
                rows = self._parts.store.vectors(self._run.index, self._run.build, [record.uri], self._run.snapshot)
                async for _, vector in rows:
                    found.append((record.uri, vector))
                    break
        return found

    async def _left_unpublished(self) -> bool:
        """Whether an earlier run of this snapshot changed something that this one had no need to change again."""
        records = self._parts.catalog.documents(self._run.build, states=("written", "gone"))
        async for record in records:
            if record.snapshot == self._run.snapshot:
                return True
        return False

    async def _left(self) -> list[str]:
        """Documents that this run, and the one that it resumes, have written or taken away."""
        records = self._parts.catalog.documents(self._run.build, states=("written", "gone"))
        return [record.uri async for record in records if record.snapshot == self._run.snapshot]

    async def _changed(self, uris: Sequence[str]) -> tuple[int, int]:
        """By how many documents and chunks the snapshot differs from the published one: by its rows."""
        run, documents, chunks = self._run, 0, 0
        for start in range(0, len(uris), _PAGE):
            rows = await self._try(self._parts.store.keys, run.index, run.build, uris[start : start + _PAGE])
            before = [row.uri for row in rows if row.born <= run.published < row.died]
            after = [row.uri for row in rows if row.born <= run.snapshot < row.died]
            documents += len(set(after)) - len(set(before))
            chunks += len(after) - len(before)
        return documents, chunks

    async def _current(self) -> Build:
        for build in await self._try(self._parts.catalog.builds, self._run.collection):
            if build.key == self._run.build:
                return build
        raise RuntimeError(f"build {self._run.build!r} is gone although its lease is held")

    async def _check_leases(self) -> None:
        for lease in self._leases:
            await lease.check()
