"""Pure: what the catalog should say of a document in one build, by what it says of it in another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Literal, TypeAlias

from ingestion.records import unfinished
from ingestion.task import marked, unmarked
from serving.index.catalog_models import Build, DocumentRecord, Run

#: copy: it must be chunked anew. remove: it goes. note: only the catalog's record differs.
Step: TypeAlias = Literal["copy", "remove", "note", "nothing"]
Pair: TypeAlias = tuple[DocumentRecord | None, DocumentRecord | None]

_AWAY = ("gone", "forgotten")


class Mirror:
    """Looks from the build that readers read to the one that `run` writes."""

    def __init__(self, live: Build, beside: Build, run: Run) -> None:
        self._live = live
        self._beside = beside
        self._run = run

    def step(self, theirs: DocumentRecord | None, ours: DocumentRecord | None, *, everything: bool = False) -> Step:
        """What is to be done about a document. `everything`: chunk also what is as it should be."""
        if theirs is not None and held(theirs):
            if everything or ours is None or not (self._done(ours) and self._alike(theirs, ours)):
                return "copy"
            return "nothing" if self.noted(theirs, ours) == ours else "note"
        if ours is not None and (held(ours) or ours.state == "parsed"):
            return "remove"
        if theirs is not None and theirs.state in ("live", "failed"):
            return "nothing" if ours is not None and self.noted(theirs, ours) == ours else "note"
        return "nothing" if ours is None or ours.state in _AWAY else "remove"

    def noted(self, theirs: DocumentRecord, ours: DocumentRecord | None) -> DocumentRecord:
        """Our record with everything that is not about our rows as theirs has it."""
        if ours is None or not held(theirs):
            own = replace(theirs, snapshot=ours.snapshot if ours else 0, content_hash=self.content_hash(theirs))
        elif theirs.state == "failed":
            own = replace(ours, state="failed")
        else:
            own = replace(ours, state="written" if ours.state == "failed" else ours.state)
        return replace(
            own,
            source=theirs.source,
            name=theirs.name,
            title=theirs.title,
            size=theirs.size,
            modified=theirs.modified,
            fingerprint=self.fingerprint(theirs),
            reason=theirs.reason,
            attempts=theirs.attempts,
            retry_at=theirs.retry_at,
            updated_at=ours.updated_at if ours else 0.0,
        )

    def content_hash(self, theirs: DocumentRecord) -> str:
        """That of the same content, made by our recipe."""
        return marked(self._beside.recipe, text_hash(theirs.content_hash))

    def fingerprint(self, theirs: DocumentRecord) -> str:
        """Their fingerprint as our recipe marks it: a later ingestion need not read the document again."""
        return marked(self._beside.recipe, unmarked(self._live.recipe, theirs.fingerprint))

    def interrupted(self, theirs: DocumentRecord) -> bool:
        """Whether a run that has not published is changing the document, or died while it did."""
        return theirs.state in ("parsed", "written", "gone") and theirs.snapshot > self._live.snapshot

    def _alike(self, theirs: DocumentRecord, ours: DocumentRecord) -> bool:
        """Whether both are made of the same content, and ours as it would be made now."""
        text = text_hash(theirs.content_hash)
        return bool(text) and ours.content_hash == marked(self._beside.recipe, text)

    def _done(self, ours: DocumentRecord) -> bool:
        """Whether our rows are those that the record tells of."""
        return ours.state in ("live", "failed") or (ours.state == "written" and unfinished(ours, self._run))


def held(record: DocumentRecord) -> bool:
    """Whether readers see something of the document."""
    return record.chunks > 0 and record.state not in _AWAY


async def paired(
    theirs: AsyncIterator[DocumentRecord], ours: AsyncIterator[DocumentRecord]
) -> AsyncIterator[tuple[str, Pair]]:
    """Two lists, each by uri, as one: (uri, (theirs, ours))."""
    left, right = await anext(theirs, None), await anext(ours, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.uri < right.uri):
            assert left is not None
            yield left.uri, (left, None)
            left = await anext(theirs, None)
        elif left is None or right.uri < left.uri:
            yield right.uri, (None, right)
            right = await anext(ours, None)
        else:
            yield left.uri, (left, right)
            left, right = await anext(theirs, None), await anext(ours, None)


def text_hash(content_hash: str) -> str:
    """The part of a content hash that is the same for every recipe."""
    return content_hash.rpartition(":")[2]
