"""The catalog: which collections and builds there are, what is published of them, the state of every document, who may
write, and what was asked for over HTTP.

Readers ask for one row by its key; writers work in batches, and publish a snapshot in one transaction.
"""

from __future__ import annotations

from sqlalchemy import text

from serving.index.catalog_builds import Builds
from serving.index.catalog_documents import Documents
from serving.index.catalog_erasure import Erasures
from serving.index.catalog_runs import Runs
from serving.index.database import Database
from serving.index.leases import Leases
from serving.index.operations import Operations
from serving.settings import IndexSettings


class Catalog(Builds, Documents, Runs, Erasures):
    """Read and write side for one tenant. Every call raises CatalogUnavailable. Connects with its first call."""

    def __init__(self, database: Database, tenant: str) -> None:
        super().__init__(database, tenant)
        self.leases = Leases(database, tenant)
        self.operations = Operations(database, tenant)

    @classmethod
    def connect(cls, settings: IndexSettings) -> Catalog:
        """Raises ConfigurationError for a URL that is neither SQLite's nor PostgreSQL's."""
        return cls(Database(settings.catalog_url), settings.tenant)

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        """Returns when the catalog answers."""
        async with self._database.read() as connection:
            await connection.execute(text("SELECT 1"))
