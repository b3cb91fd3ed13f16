"""A part that goes away in the middle of a run: it is waited for, and when it stays away the run ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion.parts import open_parts
from serving.settings import Settings
from tests.contract.conftest import MilvusLiteServer
from tests.ingestion.conftest import ANCHORAGE
from tests.ingestion.test_ingest import PAGE

TIMEOUT_S = 180.0
DOCUMENTS = 40


@pytest.fixture
def milvus(tmp_path: Path) -> Iterator[MilvusLiteServer]:
    """A server that nobody restarts."""
    server = MilvusLiteServer(tmp_path / "milvus")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(DOCUMENTS):
        (folder / f"{number}.md").write_text(PAGE.format(number) * 3)
    return folder


async def begin(docs: Path, milvus: MilvusLiteServer, patience_s: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *[ANCHORAGE, "ingest", str(docs), "-c", "outage", "--data-dir", str(docs.parent / "data")],
        env={
            **os.environ,
            "ANCHORAGE_INDEX__MILVUS_URI": milvus.uri,
            "ANCHORAGE_INGESTION__WRITE_BATCH": "8",
            "ANCHORAGE_INGESTION__PATIENCE_S": str(patience_s),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


async def until_it_writes(docs: Path, process: asyncio.subprocess.Process) -> None:
    """Some documents are in the store, and others are not."""
    catalog = docs.parent / "data" / "catalog.db"
    async with asyncio.timeout(TIMEOUT_S):
        while _written(catalog) < 3:
            assert process.returncode is None
            await asyncio.sleep(0.02)


def _written(catalog: Path) -> int:
    if not catalog.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{catalog}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM documents WHERE state = 'written'").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are just being made
        return 0


async def output(process: asyncio.subprocess.Process) -> tuple[int, str]:
    out, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return process.returncode or 0, out.decode()


async def published(docs: Path, milvus: MilvusLiteServer) -> tuple[int, int, int]:
    """Documents, chunks that the catalog says, and rows that the store holds for readers."""
    settings = Settings()
    index = settings.index.model_copy(
        update={"milvus_uri": milvus.uri, "catalog_url": f"sqlite:///{docs.parent / 'data' / 'catalog.db'}"}
    )
    async with open_parts(settings.model_copy(update={"index": index})) as parts:
        collection = await parts.catalog.collection("outage")
        rows = await parts.store.count(collection.index, collection.build, collection.snapshot)
        return collection.documents, collection.chunks, rows


async def test_a_store_that_comes_back_is_waited_for(docs: Path, milvus: MilvusLiteServer) -> None:
    """The run goes on where it was, and nothing is lost or there twice."""
    process = await begin(docs, milvus, patience_s=150)
    await until_it_writes(docs, process)
    milvus.stop(signal.SIGKILL)
    await asyncio.sleep(1.0)  # an outage lasts a while
    milvus.start()
    code, said = await output(process)
    assert code == 0, said
    assert "waiting" in said
    documents, chunks, rows = await published(docs, milvus)
    assert (documents, chunks) == (DOCUMENTS, rows)


async def test_a_store_that_stays_away_ends_the_run_in_order(docs: Path, milvus: MilvusLiteServer) -> None:
    """One sentence that names the part, exit code 1, and the same command goes on later."""
    process = await begin(docs, milvus, patience_s=2)
    await until_it_writes(docs, process)
    milvus.stop(signal.SIGKILL)
    code, said = await output(process)
    assert code == 1
    assert "Milvus at" in said
    assert "Traceback" not in said
    milvus.start()
    code, said = await output(await begin(docs, milvus, patience_s=60))
    assert code == 0, said
    documents, chunks, rows = await published(docs, milvus)
    assert (documents, chunks) == (DOCUMENTS, rows)
