"""What the parts of the catalog share: the database, the tenant, and how long lists are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table

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


def batches(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + PAGE] for start in range(0, len(values), PAGE)]


def storable(text: str) -> str:
    """Without what a database refuses to store: NUL (PostgreSQL) and lone surrogates (both)."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
