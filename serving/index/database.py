"""The catalog's SQL database: SQLite on one machine, PostgreSQL on a cluster, behind one reading and one writing door.

Every error of SQLAlchemy and of both drivers leaves here as CatalogUnavailable.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, Table, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from serving.errors import CatalogUnavailable, ConfigurationError
from serving.index import migrations

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
#: How long a writer waits for another one, and any statement for its answer, seconds.
_BUSY_S = 10.0
_CONNECT_S = 3.0
#: And for another process that migrates the tables; how often it looks.
_MIGRATION_S, _LOOK_S = 300.0, 0.02
#: Rows written until a table is counted for the first time; then after twice as many, and so on.
_COUNT_AT = 2_000
_ERRORS = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error, OSError, UnicodeEncodeError)
#: The same for all processes: holds back a second one that migrates at the same moment.
_MIGRATION_LOCK = 0x616E63686F72


class Database:
    """Connections to one database, made with the first use; from then on its tables are this version's."""

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError for a URL that is neither SQLite's nor PostgreSQL's."""
        self._url = _driver_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(self._url) if self._sqlite else _postgresql_engine(self._url)
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._grown = 0
        self._count_at = _COUNT_AT
        self._migrated = False
        self._migrating = asyncio.Lock()

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """For single statements, each its own transaction."""
        async with self._errors():
            await self._migrate()
            async with self._reader.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, which other writers wait for; rolled back when the block raises."""
        async with self._errors():
            await self._migrate()
            async with self._engine.begin() as connection:
                yield connection

    def insert(self, table: Table) -> Any:
        """An INSERT of this dialect, which knows `on_conflict_do_update`."""
        return sqlite.insert(table) if self._sqlite else postgresql.insert(table)

    async def grew(self, table: Table, rows: int) -> None:
        """Let PostgreSQL count a table again when it has grown by much.

        For rows that its statistics do not know it reads whole builds to find one document, and by itself it counts
        once a minute at most, and only after a tenth of the table has changed.
        """
        self._grown += rows
        if self._sqlite or self._grown < self._count_at:
            return
        self._count_at *= 2
        async with self._errors(), self._reader.connect() as connection:
            await connection.execute(text(f"ANALYZE (SKIP_LOCKED) {table.name}"))

    async def now(self, connection: AsyncConnection) -> float:
        """Seconds since the epoch, by one clock for all who use the database."""
        if self._sqlite:
            return time.time()
        return float((await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one())

    async def _migrate(self) -> None:
        """Raises ConfigurationError for a database of a newer version."""
        if self._migrated:
            return
        async with self._migrating:
            if self._migrated:
                return
            if self._sqlite and self._url.database:
                folder = Path(self._url.database).parent
                await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            if await self._revision() != migrations.NEWEST:
                # Before others have to wait for us.
                upgrade = await asyncio.to_thread(migrations.upgrader)
                async with self._engine.begin() as connection:
                    if not self._sqlite:
                        await _lock_migrations(connection)
                    await connection.run_sync(upgrade)
            self._migrated = True

    async def _revision(self) -> str | None:
        """None where there is no table of revisions; whatever else may be wrong shows in the migration."""
        async with self._reader.connect() as connection:
            with suppress(OperationalError, ProgrammingError):
                return (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar()
        return None

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            yield
        except _ERRORS as error:
            where = self._url.set(drivername=self._url.get_backend_name()).render_as_string(hide_password=True)
            raise CatalogUnavailable(f"The catalog {where} does not answer ({_reason(error)}).") from error


async def _lock_migrations(connection: AsyncConnection) -> None:
    """Until the transaction ends. Asked for again and again: a statement that waits would end after `_BUSY_S`."""
    lock = text("SELECT pg_try_advisory_xact_lock(:lock)")
    deadline = time.monotonic() + _MIGRATION_S
    while not (await connection.execute(lock, {"lock": _MIGRATION_LOCK})).scalar():
        if time.monotonic() > deadline:
            raise CatalogUnavailable(f"Another process has been migrating the catalog for {_MIGRATION_S:g} s.")
        await asyncio.sleep(_LOOK_S)


def _reason(error: Exception) -> str:
    """The driver's own first line, without the statement and its parameters, which SQLAlchemy appends."""
    original = getattr(error, "orig", None) or error
    lines = str(original).splitlines()
    return lines[0][:200] if lines else type(original).__name__


def _driver_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("The catalog's URL cannot be read: sqlite:///PATH or postgresql://... .") from error
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigurationError(f"The catalog is on SQLite or PostgreSQL, not on {parsed.drivername!r}.")
    return parsed.set(drivername=driver)


def _sqlite_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": _BUSY_S})

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # The driver's own BEGIN is deferred: two writers that first read would fail instead of waiting.
        connection.isolation_level = None
        cursor = connection.cursor()
        _use_wal(connection, cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL: safe at any kill of the process
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _use_wal(connection: Any, cursor: Any) -> None:
    """So that readers do not wait for the writer. SQLite itself does not wait when another process does the same to a
    new file at this moment (https://sqlite.org/c3ref/busy_handler.html: the handler is not called for every lock).
    """
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # The primary code: of several kinds of "busy" the lowest byte is the same.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        connection.run_async(lambda _: asyncio.sleep(_LOOK_S))


def _postgresql_engine(url: URL) -> AsyncEngine:
    limits = {"timeout": _CONNECT_S, "command_timeout": _BUSY_S}
    # The ping on checkout is what makes a restarted PostgreSQL unnoticed.
    return create_async_engine(url, pool_pre_ping=True, pool_timeout=_BUSY_S, connect_args=limits)
