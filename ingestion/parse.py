"""Found files to documents with chunks, one after the other in a thread, in groups that make good embedding batches."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from ingestion import chunk, load
from ingestion.chunk import Chunker
from ingestion.report import IngestReport
from ingestion.source import Found, Problem, Source, walk
from ingestion.write import Parsed
from serving.errors import DocumentError
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Run
from serving.settings import IngestionSettings

_log = logging.getLogger(__name__)

#: Documents looked up in the catalog at a time.
_PAGE = 64


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be parsed, with what the catalog said of it."""

    found: Found
    source: str
    reason: str
    record: DocumentRecord | None


@dataclass(frozen=True, slots=True)
class Group:
    """Documents to write together, files that failed meanwhile, and the bytes of source that all of this took."""

    parsed: tuple[Parsed, ...]
    failed: tuple[Failed, ...]
    size: int


class Parser:
    """Parses what changed. `everything` parses what did not change, too (to repair an index that lost rows)."""

    def __init__(
        self,
        catalog: Catalog,
        chunker: Chunker,
        run: Run,
        report: IngestReport,
        settings: IngestionSettings,
        *,
        everything: bool = False,
    ) -> None:
        self._catalog = catalog
        self._chunker = chunker
        self._run = run
        self._report = report
        self._settings = settings
        self._everything = everything
        recipe = f"{load.VERSION}/{chunk.VERSION}/{settings.chunk_tokens}/{run.index}/"
        self._recipe = hashlib.sha256(recipe.encode())

    async def groups(self, sources: Sequence[Source]) -> AsyncGenerator[Group]:
        """Groups of about `write_batch` chunks; problems of the walk go into the report."""
        parsed: list[Parsed] = []
        failed: list[Failed] = []
        chunks = size = 0
        async for source, found, record in self._found(sources):
            size += found.size
            outcome = await asyncio.to_thread(self._parse, source, found, record)
            if isinstance(outcome, Failed):
                failed.append(outcome)
            elif outcome is not None:
                parsed.append(outcome)
                chunks += len(outcome.chunks)
            if chunks >= self._settings.write_batch or len(parsed) + len(failed) >= 2 * _PAGE or size > 4_000_000:
                yield Group(tuple(parsed), tuple(failed), size)
                parsed, failed, chunks, size = [], [], 0, 0
        if parsed or failed or size:
            yield Group(tuple(parsed), tuple(failed), size)

    async def _found(self, sources: Sequence[Source]) -> AsyncIterator[tuple[str, Found, DocumentRecord | None]]:
        items = ((source, item) for source in sources for item in walk(source, load.SUFFIXES))
        while page := await asyncio.to_thread(lambda: list(itertools.islice(items, _PAGE))):
            known = await self._catalog.lookup(self._run.collection, [item.uri for _, item in page])
            for source, item in page:
                if isinstance(item, Found):
                    yield source.prefix, item, known.get(item.uri)
                else:
                    self._note(item)

    def _note(self, problem: Problem) -> None:
        """What the catalog knows there keeps its state: a document is live until its file is known to be gone."""
        if problem.failed:
            self._report.fail(str(problem.path), problem.reason)
        else:
            self._report.skipped[problem.reason] += 1

    def _parse(self, source: str, found: Found, record: DocumentRecord | None) -> Parsed | Failed | None:
        """None for a document that has not changed."""
        try:
            with self._report.timed("load"):
                data = load.read(found.path, self._settings.max_file_bytes)
                digest = self._recipe.copy()
                digest.update(data)
                content_hash = digest.hexdigest()
                if record is not None and self._unchanged(record, content_hash):
                    return None
                document = load.load(found.uri, found.path, data)
            with self._report.timed("chunk"):
                chunks = tuple(self._chunker.chunk(document))
        except DocumentError as error:
            return Failed(found, source, str(error), record)
        # The edge of one document: whatever a parsing library does with a hostile file, only that file fails.
        except Exception as error:  # noqa: BLE001
            _log.exception("cannot parse %s", found.path)
            return Failed(found, source, f"cannot be parsed ({type(error).__name__}: {str(error)[:200]})", record)
        return Parsed(found, source, document.title, content_hash, chunks, record)

    def _unchanged(self, record: DocumentRecord, content_hash: str) -> bool:
        if record.state != "live" or record.content_hash != content_hash or self._everything:
            return False
        if record.chunks:
            self._report.counts["unchanged"] += 1
        else:
            self._report.without_text()
        return True


def total_size(sources: Sequence[Source]) -> int:
    """Bytes of all files that a run will read, for its progress."""
    return sum(item.size for source in sources for item in _files(source))


def any_file(source: Source) -> bool:
    return next(_files(source), None) is not None


def _files(source: Source) -> Iterator[Found]:
    return (item for item in walk(source, load.SUFFIXES) if isinstance(item, Found))
