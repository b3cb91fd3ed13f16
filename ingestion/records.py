"""Pure: a document between being found and being written, and what the catalog is told of it at each step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ingestion.source import Found
from serving.index.catalog_models import DocumentRecord, Run, State
from serving.index.types import Chunk, Metadata, Vectors

#: A document that failed this often stays as it is until it changes, or somebody asks for it.
MAX_ATTEMPTS = 5
#: After the n-th failure a document is left alone for 2**n times this, seconds, at most a day.
_BACK_OFF_S = 30.0
_LONGEST_S = 86_400.0

_UNDER_WAY: tuple[State, ...] = ("parsed", "written", "gone")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document ready to be written. `record` is what the catalog said of it before this run.

    `fingerprint` as the catalog keeps it; `vectors` by embedding digest, where they were calculated elsewhere. `text`
    is None where the catalog keeps the one that it has.
    """

    found: Found
    source: str
    title: str
    text: str | None
    metadata: Metadata
    content_hash: str
    fingerprint: str
    chunks: tuple[Chunk, ...]
    record: DocumentRecord | None
    vectors: Mapping[str, Vectors] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A document that could not be read or parsed, with what the catalog said of it.

    `fingerprint` is that of the bytes that failed; "" when others might come next time. Not `tried`: it failed before,
    and nothing speaks for another outcome now.
    """

    found: Found
    source: str
    reason: str
    fingerprint: str
    record: DocumentRecord | None
    tried: bool = True

    def as_record(self, old: DocumentRecord) -> DocumentRecord:
        """`old` is the document's last good state, which it keeps."""
        failed_before = self.record if self.record is not None and self.record.state == "failed" else None
        again = failed_before is not None and failed_before.fingerprint == self.fingerprint
        attempts = failed_before.attempts + 1 if failed_before is not None and again else 1
        return replace(
            old,
            state="failed",
            reason=self.reason,
            source=self.source,
            name=self.found.name,
            size=self.found.size,
            modified=self.found.modified,
            fingerprint=self.fingerprint,
            attempts=attempts,
            retry_at=time.time() + min(_BACK_OFF_S * 2**attempts, _LONGEST_S),
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Documents to write together, those that failed meanwhile, and the bytes of source that all of this took."""

    parsed: tuple[Parsed, ...]
    failed: tuple[Failed, ...] = ()
    size: int = 0


def failure(parsed: Parsed, reason: str) -> Failed:
    """A document that was parsed and cannot be stored."""
    return Failed(parsed.found, parsed.source, reason, parsed.fingerprint, parsed.record)


def new_record(parsed: Parsed, run: Run, state: State) -> DocumentRecord:
    """`parsed` keeps what the catalog knew of the last good state; `written` and `live` are the new one."""
    found, old = parsed.found, parsed.record
    new = DocumentRecord(
        uri=found.uri,
        source=parsed.source,
        state=state,
        snapshot=run.snapshot,
        name=found.name,
        title=parsed.title,
        content_hash=parsed.content_hash,
        fingerprint=parsed.fingerprint,
        size=found.size,
        modified=found.modified,
        chunks=len(parsed.chunks),
    )
    if state != "parsed":
        return new
    if old is None or not tells_last_good(old, run):
        return replace(new, content_hash="", fingerprint="", chunks=0)
    return replace(new, content_hash=old.content_hash, fingerprint="", chunks=old.chunks)


def tells_last_good(record: DocumentRecord, run: Run) -> bool:
    """Whether the record's hash and chunks are those of the state that readers see."""
    return record.state not in ("written", "gone") or record.snapshot <= run.published


def unfinished(record: DocumentRecord, run: Run) -> bool:
    """Whether an interrupted run of this snapshot may have touched the document's rows."""
    return record.state in _UNDER_WAY and record.snapshot == run.snapshot


def taken(record: DocumentRecord | None, run: Run) -> bool:
    """Whether another run, which has not published yet, is changing the document."""
    if record is None or record.state not in _UNDER_WAY:
        return False
    return record.snapshot > run.published and record.snapshot != run.snapshot


def still_failing(record: DocumentRecord, found: Found, fingerprint: str) -> bool:
    """Whether trying once more would only fail once more: nothing changed, or it is too soon or was too often."""
    if record.state != "failed":
        return False
    if record.fingerprint and fingerprint:
        return record.fingerprint == fingerprint
    if record.fingerprint or (found.size, found.modified) != (record.size, record.modified):
        return False
    due = next_try(record)
    return due is None or time.time() < due


def next_try(record: DocumentRecord) -> float | None:
    """When a failed document that does not change is tried again, seconds since the epoch; None: not by itself."""
    if record.fingerprint or record.attempts >= MAX_ATTEMPTS:
        return None
    return record.retry_at


def summary(counts: Mapping[Any, int]) -> dict[str, int]:
    """A report's counts as the catalog keeps them with a run."""
    return {str(change): count for change, count in counts.items() if count}
