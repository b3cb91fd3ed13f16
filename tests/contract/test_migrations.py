"""Catalogs of other versions: old ones are brought up to date with what is in them, newer ones are left alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from serving.errors import ConfigurationError
from serving.index import migrations
from serving.index.catalog import Catalog
from serving.index.catalog_models import DocumentRecord, Recipe, document_id
from serving.index.catalog_tables import metadata
from serving.index.types import Collection
from serving.settings import IndexSettings

_VERSIONS = Path(migrations.__file__).parent / "versions"

#: What the first version created, on both databases, before there were migrations.
_FIRST = (
    """CREATE TABLE collections (tenant VARCHAR(64) NOT NULL, name VARCHAR(128) NOT NULL, generation BIGINT NOT NULL,
    index_name VARCHAR(255) NOT NULL, embedding_model TEXT NOT NULL, documents INTEGER NOT NULL, chunks BIGINT NOT NULL,
    created_at FLOAT(53) NOT NULL, published_at FLOAT(53) NOT NULL, PRIMARY KEY (tenant, name))""",
    """CREATE TABLE documents (tenant VARCHAR(64) NOT NULL, collection VARCHAR(128) NOT NULL, uri TEXT NOT NULL,
    source TEXT NOT NULL, state VARCHAR(16) NOT NULL, generation BIGINT NOT NULL, seen BIGINT NOT NULL,
    title TEXT NOT NULL, content_hash VARCHAR(128) NOT NULL, size BIGINT NOT NULL, mtime FLOAT(53) NOT NULL,
    chunks INTEGER NOT NULL, reason TEXT NOT NULL, updated_at FLOAT(53) NOT NULL, PRIMARY KEY (tenant, collection, uri),
    FOREIGN KEY(tenant, collection) REFERENCES collections (tenant, name))""",
    "CREATE INDEX documents_by_state ON documents (tenant, collection, state)",
    """CREATE TABLE runs (tenant VARCHAR(64) NOT NULL, collection VARCHAR(128) NOT NULL, generation BIGINT NOT NULL,
    state VARCHAR(16) NOT NULL, started_at FLOAT(53) NOT NULL, finished_at FLOAT(53) NOT NULL, summary TEXT NOT NULL,
    PRIMARY KEY (tenant, collection, generation),
    FOREIGN KEY(tenant, collection) REFERENCES collections (tenant, name))""",
)
_ROWS = (
    "INSERT INTO collections VALUES ('t', 'docs', 2, 'anchorage_v1_m_1a2b3c4d_384', 'm', 2501, 7000, 10.5, 40.5)",
    "INSERT INTO collections VALUES ('t', 'begun', 0, 'odd', 'm', 0, 0, 11.5, 0)",
    "INSERT INTO runs VALUES ('t', 'docs', 1, 'published', 10.5, 20.5, '{\"new\": 2}')",
    "INSERT INTO runs VALUES ('t', 'docs', 2, 'published', 30.5, 40.5, '{\"changed\": 1}')",
    "INSERT INTO runs VALUES ('t', 'docs', 3, 'running', 50.5, 0, '{}')",
    "INSERT INTO documents VALUES ('t', 'docs', 'ü', '/d', 'failed', 2, 3, 'T', 'h', 9, 1.5, 4, 'bad', 41.5)",
)
_MANY = (
    "INSERT INTO documents VALUES ('t', 'docs', :uri, '/d', 'live', 1, 3, 'T', 'h', 9, 1.5, 2, '', 42.5)",
    [{"uri": f"file:///{i:05d}"} for i in range(2_500)],
)

_CONNECT = """
import asyncio, sys
from serving.index.catalog import Catalog
from serving.index.catalog_models import Recipe
from serving.settings import IndexSettings

async def main(url):
    catalog = Catalog.connect(IndexSettings(catalog_url=url, tenant="t"))
    print((await catalog.create("docs", Recipe("m", 384, 200))).generation)
    await catalog.close()

asyncio.run(main(sys.argv[1]))
"""


def driver_url(url: str) -> str:
    return url.replace("sqlite://", "sqlite+aiosqlite://").replace("postgresql://", "postgresql+asyncpg://")


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the test's own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    server = request.getfixturevalue("postgresql")
    name = f"d{uuid.uuid4().hex}"
    engine = create_async_engine(driver_url(server), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return f"{server.rpartition('/')[0]}/{name}"


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(driver_url(url))
    yield engine
    await engine.dispose()


@pytest.fixture
async def old(engine: AsyncEngine) -> None:
    """A database as the first version left it, in the middle of its third run."""
    async with engine.begin() as connection:
        for statement in (*_FIRST, *_ROWS):
            await connection.execute(text(statement))
        await connection.execute(text(_MANY[0]), _MANY[1])


async def differences(engine: AsyncEngine) -> list[object]:
    def compare(connection: Connection) -> list[object]:
        found: list[object] = compare_metadata(MigrationContext.configure(connection), metadata)
        return found

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


async def opened(url: str) -> Catalog:
    catalog = Catalog.connect(IndexSettings(catalog_url=url, tenant="t"))
    await catalog.ping()
    return catalog


async def test_a_new_database_has_the_tables_that_the_code_reads(url: str, engine: AsyncEngine) -> None:
    """Made step by step by the migrations, they are those of catalog_tables; a second opening changes nothing."""
    for _ in range(2):
        await (await opened(url)).close()
        assert await differences(engine) == []


@pytest.mark.usefixtures("old")
async def test_an_old_database_keeps_what_is_in_it(url: str, engine: AsyncEngine) -> None:
    """Its collections are builds, its generations snapshots, its documents the same; readers see what they saw."""
    catalog = await opened(url)
    assert await differences(engine) == []
    index = "anchorage_v1_m_1a2b3c4d_384"
    assert await catalog.collection("docs") == Collection("docs", 2, 2, "docs", index, "m", 2501, 7000)
    build = await catalog.live_build("docs")
    assert build is not None
    assert (build.recipe, build.created_at, build.published_at) == (Recipe("m", 384, 200), 10.5, 40.5)
    assert (await catalog.collection("begun")).generation == 0
    assert await catalog.states("docs") == {"live": 2_500, "failed": 1}
    failed = DocumentRecord("ü", "/d", "failed", 2, "", "T", "h", "", 9, 1.5, 4, "bad", updated_at=41.5)
    assert await catalog.lookup("docs", ["ü"]) == {"ü": failed}
    assert await catalog.document("docs", document_id("ü")) == failed
    assert len([record async for record in catalog.documents("docs")]) == 2_501
    await catalog.close()


@pytest.mark.usefixtures("old")
async def test_an_old_run_can_be_gone_on_from(url: str) -> None:
    """Published generations are listed, and the next runs publish the third one."""
    catalog = await opened(url)
    build = await catalog.live_build("docs")
    assert build is not None
    found = await catalog.generations("docs", keep=3)
    assert [(run.generation, run.snapshot, run.state) for run in found] == [
        (0, 3, "running"),
        (2, 2, "published"),
        (1, 1, "published"),
    ]
    assert [(run.documents, run.chunks, run.summary) for run in found[1:]] == [
        (2501, 7000, {"changed": 1}),
        (0, 0, {"new": 2}),
    ]
    assert [run.retained for run in found] == [False, True, False]
    run = await catalog.begin_run(build, "bulk")
    assert (run.snapshot, run.published, run.resumed) == (3, 2, True)
    assert (await catalog.publish(run, chunks=7_000, summary={})).generation == 3
    assert (await catalog.begin_run(build, "bulk")).snapshot == 1 << 20
    await catalog.close()


@pytest.mark.usefixtures("old")
async def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    """All of them find the old data in the new tables."""
    arguments = (sys.executable, "-c", _CONNECT, url)
    processes = [
        await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    said = await asyncio.wait_for(asyncio.gather(*(process.communicate() for process in processes)), 60)
    # Nothing of it is told to the terminal.
    assert said == [(b"2\n", b"")] * 3


@pytest.mark.usefixtures("old")
async def test_a_migration_that_fails_leaves_the_old_database(
    url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction: the next try begins from the same place."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE leases (tenant INTEGER)"))  # in the way of a new table
    from serving.errors import CatalogUnavailable

    with pytest.raises(CatalogUnavailable, match="leases"):
        await opened(url)
    async with engine.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM documents WHERE seen = 3"))).scalar() == 2_501
        await connection.execute(text("DROP TABLE leases"))
    catalog = await opened(url)
    assert (await catalog.collection("docs")).generation == 2
    await catalog.close()


async def test_a_newer_database_is_left_alone(url: str, engine: AsyncEngine) -> None:
    """The error names both versions; nothing is changed."""
    await (await opened(url)).close()
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match=r"newer version of Anchorage.*'9999'.*'0002'"):
        await opened(url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar() == "9999"


async def test_starting_on_a_current_database_is_light(url: str) -> None:
    """Alembic is imported only when there is something to migrate."""
    await (await opened(url)).close()
    code = f"{_CONNECT}\nassert 'alembic' not in sys.modules, 'alembic'\n"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert await asyncio.wait_for(process.communicate(), 60) == (b"0\n", b"")


def test_the_newest_step_is_the_one_the_code_expects() -> None:
    """And every step is in the package that is installed."""
    assert f'revision = "{migrations.NEWEST}"' in "".join(path.read_text() for path in _VERSIONS.glob("*.py"))
    assert (_VERSIONS / "__init__.py").exists()
