"""The words of a source: what it finds, what it could not read, and how the bytes are had later."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Protocol

#: Written by programs for themselves; nobody asks questions about them.
_JUNK = frozenset({"__pycache__", "node_modules", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Body:
    """What reading gave. `data` is None if nothing changed since the fingerprint that the reader knew.

    `fingerprint` is that of these very bytes (and of a sidecar's), '' if it says nothing. `format`, `title` and
    `metadata` are what only reading can tell: Content-Type, sidecar.
    """

    data: bytes | None
    fingerprint: str = ""
    format: str | None = None
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    modified: float = 0.0


class Content(Protocol):
    """How to have the bytes. It can be pickled and used on another machine."""

    def read(self, max_bytes: int, known: str = "") -> Body:
        """Blocking. `known` is the fingerprint of what the reader has already.

        Raises DocumentError (final: too large, forbidden), DocumentGone (it is no longer there), SourceUnavailable (it
        may be tried again).
        """


@dataclass(frozen=True, slots=True)
class Found:
    """A document that ingestion can read.

    `name` is path-like: its suffix says the format, unless `format` does. `size` in bytes (0: unknown), `modified` in
    seconds since 1970 (0.0: unknown). Equal fingerprints mean the same bytes; '' means that only reading can tell.
    `metadata` and `title` win over what the file says of itself.
    """

    uri: str
    name: str
    size: int
    modified: float
    fingerprint: str
    content: Content
    metadata: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    title: str = ""

    def read(self, max_bytes: int, known: str = "") -> Body:
        """The content with everything that the source says of it. Raises as `Content.read`."""
        body = self.content.read(max_bytes, known)
        return replace(
            body,
            format=body.format or self.format,
            title=body.title or self.title,
            metadata={**self.metadata, **body.metadata},
            modified=body.modified or self.modified,
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read (`failed`) or was passed over; `folder` if it may hide documents."""

    uri: str
    name: str
    reason: str
    failed: bool
    folder: bool = False


class Source(Protocol):
    """One SOURCE argument."""

    @property
    def text(self) -> str:
        """As the caller wrote it; without credentials."""

    @property
    def prefix(self) -> str:
        """Recorded with its documents."""

    @property
    def selective(self) -> bool:
        """Whether it may find nothing by mistake (a pattern): then somebody should be told."""

    def walk(self) -> Iterator[Found | Problem]:
        """Everything there is, once, lazily. Blocking; never raises for what is bad in it."""

    def covers(self, uri: str, source: str) -> bool:
        """Whether a document of this uri, recorded with that source's prefix, would be found here if it existed."""

    def gone(self, uri: str) -> bool:
        """After a complete walk: whether a covered document is known to be gone. False when that is unsure."""

    def close(self) -> None:
        """Let go of connections and temporary files."""


def below(uri: str, prefix: str) -> bool:
    """Whether a uri is that of `prefix` itself or of something in that folder."""
    return uri == prefix or uri.startswith(prefix if prefix.endswith("/") else prefix + "/")


def place(name: str) -> dict[str, str]:
    """Metadata that every document has from where it lies: `path`, and the `folder` that it lies in."""
    folder = str(PurePosixPath(name).parent)
    return {"path": name} if folder == "." else {"path": name, "folder": folder}


def supported(name: str, suffixes: Collection[str]) -> bool:
    """Whether a file's suffix is among `suffixes`, or, if it has none, its whole name."""
    path = PurePosixPath(name)
    return (path.suffix or path.name).lower() in suffixes


def unsupported(name: str) -> str:
    """The reason for the reader."""
    suffix = PurePosixPath(name).suffix
    return f"files of kind {suffix!r} are not supported" if suffix else "files without a suffix are not supported"


def too_large(size: int, limit: int) -> str:
    """The reason for the reader; bytes."""
    return (
        f"too large: {size / 1e6:,.1f} MB, the limit is {limit / 1e6:,.1f} MB "
        "(setting ANCHORAGE_INGESTION__MAX_FILE_BYTES)"
    )


def ignored(name: str) -> bool:
    """Whether a folder's walk passes over a file or folder of this name."""
    return name.startswith(".") or name.endswith("~") or name in _JUNK
