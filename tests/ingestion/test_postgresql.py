"""The same ingestion with its catalog on PostgreSQL."""

from __future__ import annotations

import asyncio
import json

from tests.contract.conftest import postgresql as postgresql
from tests.ingestion.conftest import Shelf
from tests.ingestion.test_ingest import PAGE
from tests.ingestion.test_ingest_command import run


async def test_a_collection_lives_on_postgresql(shelf: Shelf, postgresql: str) -> None:
    """New, unchanged, changed, moved, removed and failed documents, and two runs at once."""
    shelf.environment["ANCHORAGE_INDEX__CATALOG_URL"] = postgresql
    for number in range(6):
        shelf.put(f"{number}.md", PAGE.format(number))
    code, out, err = await run(shelf, str(shelf.folder), "--json")
    assert (code, json.loads(out)["new"]) == (0, 6), err
    shelf.put("0.md", PAGE.format("changed"))
    (shelf.folder / "1.md").rename(shelf.folder / "moved.md")
    (shelf.folder / "2.md").unlink()
    shelf.put("bad.pdf", b"%PDF-1.4 no")
    both = await asyncio.gather(*(run(shelf, str(shelf.folder), "--json", "--wait", "100") for _ in range(2)))
    assert [code for code, _, _ in both] == [3, 3], both
    first, second = sorted((json.loads(out) for _, out, _ in both), key=lambda said: said["unchanged"])
    assert {change: first[change] for change in ("changed", "moved", "removed", "unchanged", "failed")} == {
        "changed": 1,
        "moved": 1,
        "removed": 1,
        "unchanged": 3,
        "failed": 1,
    }
    assert (second["unchanged"], second["published"], second["generation"]) == (5, False, 2)
    assert first["documents"] == second["documents"] == 5
