"""Does the store answer from what was written? Asked before readers see it: what fails is not published."""

from __future__ import annotations

from collections.abc import Sequence

from serving.errors import VerificationFailed
from serving.index.types import Searcher, SearchRequest, Vectors

#: Hits to look through. A chunk whose text stands in many documents has as many equals.
_HITS = 10
#: Cosine of a vector to itself: what the store calculates is float32.
_ITSELF = 0.999


async def verify_rows(
    store: Searcher, index: str, build: str, snapshot: int, rows: Sequence[tuple[str, Vectors]]
) -> int:
    """Find each of these rows (uri, vector) by its own vector, as a reader of `snapshot` would. How many there were.

    Raises VerificationFailed when no hit for one has that vector.
    """
    for uri, vector in rows:
        request = SearchRequest(
            collection=build,
            generation=snapshot,
            index=index,
            text="",
            vector=vector,
            limit=_HITS,
            mode="dense",
            rrf_k=1,
        )
        hits = await store.search(request)
        if not any(hit.similarity >= _ITSELF for hit in hits):
            raise VerificationFailed(
                f"{uri}: a chunk that was written is not found by its own vector. Nothing was published; run the same "
                "command again, and look at the log of Milvus if it fails again."
            )
    return len(rows)


def verify_count(collection: str, *, stored: int, expected: int) -> None:
    """Raises VerificationFailed when the store holds other rows than the catalog says."""
    if stored != expected:
        raise VerificationFailed(
            f"The index holds {stored:,} chunks of collection {collection!r} where the catalog says {expected:,}. "
            "Nothing was published. Ingest all its sources in one command to repair it."
        )
