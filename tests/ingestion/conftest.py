"""Real parts for ingestion: Milvus Lite, SQLite and MiniLM, shared by the session; every test has its own folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ingestion.load import SUFFIXES
from ingestion.options import PLAIN, Options
from ingestion.parts import Parts, open_parts
from ingestion.pipeline import ingest
from ingestion.report import IngestReport
from ingestion.source import parse_sources
from serving.index.schema import index_name
from serving.index.tokenizer import ModelTokenizer, load_tokenizer
from serving.index.types import FOREVER, StoredKey
from serving.settings import EmbedderSettings, Settings
from serving.stack import embedded_index

ANCHORAGE = str(Path(sys.executable).with_name("anchorage"))


@pytest.fixture(scope="session")
def tokenizer() -> ModelTokenizer:
    """The tokenizer of all-MiniLM-L6-v2."""
    return load_tokenizer(EmbedderSettings().model)


@pytest.fixture(scope="session")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Settings of a running Milvus Lite and a catalog beside it, with small batches so that runs have many steps."""
    small = Settings().ingestion.model_copy(update={"write_batch": 8, "max_file_bytes": 2_000_000})
    settings = Settings().model_copy(update={"ingestion": small})
    async with embedded_index(settings, tmp_path_factory.mktemp("embedded")) as found:
        yield found


@pytest.fixture(scope="session")
async def parts(embedded: Settings) -> AsyncIterator[Parts]:
    """Catalog, store and model, opened once."""
    async with open_parts(embedded) as opened:
        yield opened


@dataclass
class Shelf:
    """A folder of documents and the collection it is ingested into."""

    folder: Path
    collection: str
    settings: Settings
    parts: Parts
    environment: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    async def ingest(
        self, *sources: str | Path, collection: str | None = None, options: Options = PLAIN, **patterns: list[str]
    ) -> IngestReport:
        texts = [str(source) for source in sources or (self.folder,)]
        found = parse_sources(texts, suffixes=SUFFIXES, **patterns)
        try:
            return await ingest(
                found, collection or self.collection, settings=self.settings, parts=self.parts, options=options
            )
        finally:
            for source in found:
                source.close()

    def counts(self, report: IngestReport) -> dict[str, int]:
        return {change: number for change, number in report.counts.items() if number}

    async def visible(self, collection: str | None = None) -> set[tuple[str, str]]:
        """(uri relative to the folder, chunk id) of every row that readers of the published generation see."""
        name = collection or self.collection
        collection = await self.parts.catalog.collection(name)
        rows = [row for row in await self.rows(name) if row.born <= collection.snapshot < row.died]
        assert len(rows) == await self.parts.store.count(self.index, collection.build, collection.snapshot)
        return {(row.uri, row.chunk_id) for row in rows}

    async def rows(self, collection: str | None = None) -> list[StoredKey]:
        name = collection or self.collection
        uris = [record.uri async for record in self.parts.catalog.documents(name)]
        return await self.parts.store.keys(self.index, name, uris)

    async def dangling(self) -> list[StoredKey]:
        """Rows that an unpublished generation left behind."""
        snapshot = (await self.parts.catalog.collection(self.collection)).snapshot
        return [row for row in await self.rows() if row.born > snapshot or snapshot < row.died < FOREVER]

    @property
    def index(self) -> str:
        return index_name(self.settings.embedder.model, 384)

    def command(self, *arguments: str, program: str = "ingest") -> list[str]:
        return [ANCHORAGE, program, *arguments, "-c", self.collection, "--data-dir", str(self.folder.parent / "data")]


@pytest.fixture
def shelf(tmp_path: Path, embedded: Settings, parts: Parts, request: pytest.FixtureRequest) -> Shelf:
    """An empty folder and a collection of its own. `environment` points a subprocess to the same Milvus and catalog."""
    folder = tmp_path / "docs"
    folder.mkdir()
    # With its file: two tests of one name would share a collection.
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{request.node.path.stem}-{request.node.name}").strip("-")[:110]
    environment: dict[str, Any] = {
        **os.environ,
        "ANCHORAGE_INDEX__MILVUS_URI": embedded.index.milvus_uri,
        "ANCHORAGE_INDEX__CATALOG_URL": embedded.index.catalog_url,
        "ANCHORAGE_INGESTION__WRITE_BATCH": "8",
        "ANCHORAGE_INGESTION__MAX_FILE_BYTES": "2000000",
    }
    return Shelf(folder, name, embedded, parts, environment)
