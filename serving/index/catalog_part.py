"""What the parts of the catalog share: the database, the tenant, and how long lists are cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, select

from serving.index.database import Database

#: Rows of one page, parameters of one statement.
PAGE = 1_000


class Part:
    """One concern of the catalog, for one tenant."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant

    def _mine(self, table: Table, **values: Any) -> list[ColumnElement[bool]]:
        """The tenant's rows of a table where these columns have these values."""
        return [table.c.tenant == self._tenant, *(table.c[name] == value for name, value in values.items())]

    async def _uri_ranges(self, table: Table, *where: ColumnElement[bool]) -> AsyncIterator[ColumnElement[bool]]:
        """Conditions on the uri that divide these rows into pages, for changes that are too large for one transaction.

        Ranges, because PostgreSQL plans nothing else well for a table that it has no statistics of yet.
        """
        page = select(table.c.uri).where(*where).order_by(table.c.uri).limit(PAGE)
        after = ""
        while True:
            async with self._database.read() as connection:
                uris = (await connection.execute(page.where(table.c.uri > after))).scalars().all()
            if not uris:
                return
            yield (table.c.uri > after) & (table.c.uri <= uris[-1])
            after = uris[-1]


def batches(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + PAGE] for start in range(0, len(values), PAGE)]


def storable(text: str) -> str:
    """Without what a database refuses to store: NUL (PostgreSQL) and lone surrogates (both)."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
