"""The proof of a deletion: what was asked, what was removed where, what was checked with what result, and what it does
not cover. For people and, as JSON with a digest over its content, for archives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

#: Documents that a receipt names one by one; of more it keeps the number.
MAX_LISTED = 1_000


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the store or the catalog, asked after the removal. `asked` is how many times it was put.

    `answers` are those that should not have come: uris, at most a few.
    """

    check: str
    where: str
    asked: int
    passed: bool
    at: str
    answers: tuple[str, ...] = ()


@dataclass(slots=True)
class Removed:
    """What one build held of the documents. `generation` is the one that readers see without them."""

    build: str
    index: str
    rows: int = 0
    documents: int = 0
    generation: int = 0


@dataclass(slots=True)
class Receipt:
    """`asked` counts documents; `documents` has the first of them by uri, with the rows found of each in all builds.

    `texts` and `uploads` count what the catalog held. `passed_over`: ingestion does not take them again.
    """

    collection: str
    tenant: str
    asked: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    builds: list[Removed] = field(default_factory=list)
    texts: int = 0
    uploads: int = 0
    passed_over: bool = False
    checks: list[Check] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)
    asked_at: str = field(default_factory=now)
    finished_at: str = ""

    @property
    def rows(self) -> int:
        return sum(removed.rows for removed in self.builds)

    @property
    def found(self) -> int:
        """Documents that had rows."""
        return max((removed.documents for removed in self.builds), default=0)

    @property
    def proven(self) -> bool:
        """Whether every check passed."""
        return bool(self.finished_at) and all(check.passed for check in self.checks)

    def count(self, rows: Mapping[str, int]) -> None:
        """Rows by document, found in one more build."""
        for uri, number in rows.items():
            if uri in self.documents or len(self.documents) < MAX_LISTED:
                self.documents[uri] = self.documents.get(uri, 0) + number

    def note(self, limit: str) -> None:
        """Something that the receipt does not cover, said once."""
        if limit not in self.not_covered:
            self.not_covered.append(limit)

    def as_json(self) -> dict[str, Any]:
        """The names are part of the contract. `sha256` is `digest` of everything else."""
        content: dict[str, Any] = {
            "object": "erasure.receipt",
            "software": f"anchorage {version('anchorage')}",
            "tenant": self.tenant,
            "collection": self.collection,
            "asked_at": self.asked_at,
            "finished_at": self.finished_at,
            "documents_asked": self.asked,
            "documents_found": self.found,
            "documents": [{"uri": uri, "rows": rows} for uri, rows in self.documents.items()],
            "rows_removed": self.rows,
            "builds": [asdict(removed) for removed in self.builds],
            "texts_removed": self.texts,
            "uploads_removed": self.uploads,
            "passed_over_from_now_on": self.passed_over,
            "checks": [asdict(check) | {"answers": list(check.answers)} for check in self.checks],
            "proven": self.proven,
            "not_covered": list(self.not_covered),
        }
        return content | {"sha256": digest(content)}

    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over a receipt without its `sha256`: JSON with sorted keys, no blanks, UTF-8."""
    kept = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
