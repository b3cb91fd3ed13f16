"""The end of a run: what was interrupted is put right, what was written is verified, and readers see it at once.

While this happens no other run publishes (its caller holds the lease), so the counts are those of one moment.
"""

from __future__ import annotations

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
#: States whose chunks readers see, or will see.
_SEEN: tuple[State, ...] = ("live", "written", "failed")


class Publication:
    """Publishes one run over a build. `leases` are those that the run stands on."""

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
                await self._try(catalog.publish, run, chunks=stored, summary=summary(report.counts))
                await self.purge()
        await self.tell(report, published=touched)
        return True

    async def short(self, writer: Writer, report: IngestReport) -> None:
        """Publish a run over a few documents, whose rows alone are verified. Raises VerificationFailed, LeaseLost."""
        if writer.touched:
            with report.timed("verify"):
                await writer.flush()
                report.verified = await self._verify(writer.sample)
            with report.timed("publish"):
                await self._check_leases()
                await self._try(
                    self._parts.catalog.publish,
                    self._run,
                    documents_delta=writer.documents_delta,
                    chunks_delta=writer.chunks_delta,
                    summary=summary(report.counts),
                )
                await self.purge()
        await self.tell(report, published=writer.touched)

    async def restore_interrupted(self, writer: Writer) -> None:
        """Undo what runs that died had begun and this one did not take up; a later snapshot is somebody else's."""
        async for record in self._parts.catalog.documents(self._run.build, states=("parsed",)):
            if record.snapshot <= self._run.snapshot:
                await writer.restore(record)

    async def purge(self) -> None:
        """Delete rows that only readers of generations no longer kept could see."""
        oldest = await self._try(
            self._parts.catalog.oldest_needed, self._run.build, self._settings.keep_generations, _GRACE_S
        )
        await self._try(self._parts.store.purge, self._run.index, self._run.build, oldest)

    async def tell(self, report: IngestReport, *, published: bool) -> None:
        """What the collection has now."""
        build = await self._current()
        report.published = published
        report.generation = build.generation
        report.documents = build.documents
        report.chunks = build.chunks

    async def _verify(self, sample: Sample) -> int:
        vectors = [(row.chunk.uri, row.vector) for row in sample.rows]
        if self._run.resumed and len(vectors) < sample.size:
            vectors += await self._written_before(sample.size - len(vectors))
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

    async def _current(self) -> Build:
        for build in await self._try(self._parts.catalog.builds, self._run.collection):
            if build.key == self._run.build:
                return build
        raise RuntimeError(f"build {self._run.build!r} is gone although its lease is held")

    async def _check_leases(self) -> None:
        for lease in self._leases:
            await lease.check()
