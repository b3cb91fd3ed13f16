"""What a run did, for people and for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal, TypeAlias

Change: TypeAlias = Literal["new", "changed", "moved", "unchanged", "removed", "failed"]
Stage: TypeAlias = Literal["read", "parse", "embed", "write", "verify", "publish"]

CHANGES: tuple[Change, ...] = ("new", "changed", "moved", "unchanged", "removed", "failed")
#: Failures kept with their reasons: the report of a million broken files stays small. The catalog keeps them all.
MAX_LISTED = 1_000


@dataclass(frozen=True, slots=True)
class Failure:
    """A document, file or folder that could not be ingested. `path` is what its source calls it."""

    path: str
    reason: str


@dataclass(slots=True)
class IngestReport:
    """Counts by change, failures with reasons, what was passed over and why, and where the time went.

    `notes` are sentences for whoever reads the report.
    `chunks` is how many the collection has now, `written` how many rows this run wrote, of which `embedded` needed the
    model and the others had their vector already. `missing` documents have vanished from their source and were kept.
    `seconds` by stage are sums of work, which may overlap, `total_s` is the time on the clock.
    """

    collection: str
    generation: int = 0
    published: bool = False
    dry_run: bool = False
    counts: Counter[Change] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    missing: int = 0
    documents: int = 0
    chunks: int = 0
    written: int = 0
    embedded: int = 0
    verified: int = 0
    receipt: dict[str, Any] | None = None
    seconds: Counter[Stage] = field(default_factory=Counter)
    total_s: float = 0.0

    def without_text(self) -> None:
        """A page that has a title and nothing to ask about, as sites have for their folders."""
        self.skipped["no text below the front matter"] += 1

    def fail(self, path: str, reason: str) -> None:
        self.counts["failed"] += 1
        if len(self.failures) < MAX_LISTED:
            self.failures.append(Failure(path, reason))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - started  # type: ignore[assignment]

    def as_json(self) -> dict[str, Any]:
        """For `--json`. The names are part of the command's contract."""
        return {
            "collection": self.collection,
            "generation": self.generation,
            "published": self.published,
            "dry_run": self.dry_run,
            **{change: self.counts[change] for change in CHANGES},
            "missing": self.missing,
            "failures": [{"path": failure.path, "reason": failure.reason} for failure in self.failures],
            "skipped": dict(self.skipped),
            "notes": self.notes,
            "documents": self.documents,
            "chunks": self.chunks,
            "chunks_written": self.written,
            "chunks_embedded": self.embedded,
            "chunks_verified": self.verified,
            "receipt": self.receipt,
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()} | {"total": self.total_s},
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in bytes of source files; `total` is 0 while it is not known. `waiting_for`: a part that is
    away."""

    done: int
    total: int
    documents: int
    chunks: int
    waiting_for: str = ""


OnProgress: TypeAlias = Callable[[Progress], None]
