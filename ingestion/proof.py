"""Does anything still answer from documents that were removed? Asked as a reader would, after the removal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ingestion.receipt import Check, now
from serving.index.catalog_models import Build
from serving.index.types import Searcher, SearchRequest, Vectors
from serving.settings import SearchMode

#: Hits to look through.
_HITS = 50
#: Characters of a former chunk that are asked for: longer than any question.
_WORDS = 1_000


@dataclass(frozen=True, slots=True)
class Former:
    """A chunk that was in the index."""

    uri: str
    text: str
    vector: Vectors


async def ask(
    store: Searcher, build: Build, snapshot: int, former: Sequence[Former], removed: Collection[str]
) -> list[Check]:
    """One check for each way to search: by the former vectors, and by the former words."""
    modes: tuple[tuple[SearchMode, str], ...] = (
        ("dense", "no search by their vectors finds them"),
        ("text", "no search by their words finds them"),
    )
    checks = []
    for mode, name in modes:
        answers: set[str] = set()
        for chunk in former:
            request = SearchRequest(
                collection=build.key,
                generation=snapshot,
                index=build.index,
                text=chunk.text[:_WORDS],
                vector=chunk.vector,
                limit=_HITS,
                mode=mode,
                rrf_k=1,
            )
            hits = {hit.passage.uri for hit in await store.search(request)}
            answers |= {uri for uri in hits if uri == chunk.uri or uri in removed}
        some = tuple(sorted(answers)[:10])
        checks.append(Check(name, f"{build.key} snapshot {snapshot}", len(former), not answers, now(), some))
    return checks
