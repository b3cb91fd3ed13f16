"""One document from its source to chunks: needs neither catalog nor store, so that any machine can do it.

    read (thread) ─► nothing changed? ─► hash ─► same content? ─► load and chunk (a limited process)

What is under way is bounded in number and in bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, TypeAlias

from ingestion import chunk, load
from ingestion.budget import Budget
from ingestion.report import IngestReport
from ingestion.sandbox import Job, ParserPool, Refused
from ingestion.source import Body, Found
from serving.errors import DocumentError, DocumentGone, SourceUnavailable
from serving.index.catalog_models import Recipe
from serving.index.types import Chunk, Document, Vectors
from serving.settings import IngestionSettings

#: Bytes of files under way at a time; one file alone may be larger.
_BYTES = 128_000_000
#: Pauses before a source that did not answer is asked again, seconds.
_AGAIN_S = (0.5, 2.0, 8.0)
#: What follows from a document's place, and must not make a moved one look like another one.
_PLACE = frozenset({"path", "folder"})


@dataclass(frozen=True, slots=True)
class Task:
    """A document to read. What the index holds of it already has this fingerprint and this content hash, or ""."""

    found: Found
    known: str = ""
    content_hash: str = ""


@dataclass(frozen=True, slots=True)
class Same:
    """The index holds this very content."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class Bad:
    """It cannot be ingested. `fingerprint` is that of the bytes that failed; "" when others might come next time.

    `gone`: its source says that it no longer exists.
    """

    reason: str
    fingerprint: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Good:
    """It can. `vectors` by embedding digest, where they were calculated already."""

    document: Document
    chunks: tuple[Chunk, ...]
    content_hash: str
    fingerprint: str
    vectors: Mapping[str, Vectors] | None = None


Result: TypeAlias = Same | Bad | Good


class Work(Protocol):
    """Who reads and parses: this process, or a cluster."""

    @property
    def limit(self) -> int:
        """How many documents it is good to have under way at a time."""

    async def do(self, task: Task) -> Result:
        """Raises ConfigurationError; EmbedderUnavailable where it embeds, too."""


class Reader:
    """Reads with threads of this process and parses in those of the pool. The time it takes goes into the report."""

    def __init__(
        self,
        pool: ParserPool,
        recipe: Recipe,
        report: IngestReport,
        settings: IngestionSettings,
        *,
        collection: str,
        tenant: str,
    ) -> None:
        self._pool = pool
        self._recipe = recipe
        self._report = report
        self._settings = settings
        self._collection = collection
        self._tenant = tenant
        # The recipe is told by the mark: builds of other recipes know the same content by the same hash.
        self._hash = hashlib.sha256(f"{load.VERSION}/".encode())
        self._budget = Budget(_BYTES)

    @property
    def limit(self) -> int:
        return self._settings.read_concurrency + self._pool.workers

    async def do(self, task: Task) -> Result:
        found = task.found
        async with self._budget.taken(found.size):
            try:
                with self._report.timed("read"):
                    body = await self._read(task)
            except DocumentError as error:
                return Bad(str(error), found.fingerprint, gone=isinstance(error, DocumentGone))
            except SourceUnavailable as error:
                return Bad(str(error), "")
            if body.data is None:
                return Same(body.fingerprint)
            content_hash = await asyncio.to_thread(self._content_hash, found.name, body, body.data)
            if content_hash == task.content_hash:
                return Same(body.fingerprint)
            with self._report.timed("parse"):
                parsed = await self._pool.parse(self._job(found, body, body.data))
        if isinstance(parsed, Refused):
            return Bad(parsed.reason, body.fingerprint)
        return Good(parsed.document, parsed.chunks, content_hash, body.fingerprint)

    async def _read(self, task: Task) -> Body:
        """What the source would send once more is not sent where the index holds it already."""
        for pause in _AGAIN_S:
            try:
                return await asyncio.to_thread(task.found.read, self._settings.max_file_bytes, task.known)
            except SourceUnavailable:
                await asyncio.sleep(pause)
        return await asyncio.to_thread(task.found.read, self._settings.max_file_bytes, task.known)

    def _job(self, found: Found, body: Body, data: bytes) -> Job:
        return Job(
            uri=found.uri,
            name=found.name,
            format=body.format,
            title=body.title,
            data=data,
            metadata=body.metadata,
            collection=self._collection,
            tenant=self._tenant,
            chunk_tokens=self._recipe.chunk_tokens,
        )

    def _content_hash(self, name: str, body: Body, data: bytes) -> str:
        digest = self._hash.copy()
        told = {key: value for key, value in body.metadata.items() if key not in _PLACE}
        kind = body.format or PurePosixPath(name).suffix.lower()
        digest.update(json.dumps([kind, body.title, told], sort_keys=True, default=str).encode("utf-8", "replace"))
        digest.update(data)
        return marked(self._recipe, digest.hexdigest())


def made_by(recipe: Recipe) -> str:
    """What content is made into chunks by: another one makes others of the same bytes."""
    return f"{load.VERSION}/{chunk.VERSION}/{recipe.chunk_tokens}/{recipe.index}/"


def marked(recipe: Recipe, fingerprint: str) -> str:
    """A fingerprint or a hash as the catalog keeps it: what another recipe made is not the same. '' stays ''."""
    return f"{_mark(recipe)}:{fingerprint}" if fingerprint else ""


def unmarked(recipe: Recipe, fingerprint: str) -> str:
    """The inverse of `marked`; '' for what another recipe, or another version of this program, has marked."""
    mark, _, own = fingerprint.partition(":")
    return own if mark == _mark(recipe) else ""


def _mark(recipe: Recipe) -> str:
    return hashlib.sha256(made_by(recipe).encode()).hexdigest()[:8]
