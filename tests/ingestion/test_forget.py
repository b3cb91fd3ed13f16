"""What is forgotten is gone from everything that keeps it, proven, and stays away until it is allowed again."""

from __future__ import annotations

from ingestion.erase import erase
from ingestion.receipt import digest
from tests.ingestion.conftest import Shelf
from tests.ingestion.test_ingest import PAGE


async def test_an_erased_document_is_gone_from_every_generation(shelf: Shelf) -> None:
    """Rows, text and counts; the other documents are as they were; the receipt says what was looked for."""
    path = shelf.put("a.md", PAGE.format("one"))
    shelf.put("b.md", PAGE.format("two"))
    await shelf.ingest()
    shelf.put("b.md", PAGE.format("two changed"))
    await shelf.ingest()
    uri = path.as_uri()
    before = await shelf.visible()
    receipt = await erase(shelf.parts, shelf.settings, shelf.collection, [uri])
    said = receipt.as_json()
    assert receipt.proven, said
    assert said["sha256"] == digest(said)
    assert (said["documents_found"], said["texts_removed"]) == (1, 1)
    assert said["rows_removed"] == len([row for row in before if row[0] == uri])
    assert await shelf.visible() == {row for row in before if row[0] != uri}
    assert not [row for row in await shelf.rows() if row.uri == uri]
    catalog = shelf.parts.catalog
    for generation in await catalog.generations(shelf.collection):
        stored = await shelf.parts.store.count(shelf.index, shelf.collection, generation.snapshot)
        assert (generation.chunks, generation.documents) == (stored, 1 if generation.generation != 0 else 0)
    print(said)
