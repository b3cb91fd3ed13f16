"""What a listing held: a set of uris on disk, so that what it no longer holds can be told from what was not reached."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator

from ingestion.source.items import Found, Problem


class Seen:
    """A set of any size in little memory. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The empty name is a private database in a temporary file, which SQLite removes when it is closed.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE seen (digest BLOB PRIMARY KEY, place INTEGER) WITHOUT ROWID; BEGIN;"
        )

    def add(self, text: str, place: int = 0) -> int | None:
        """None for a new one; else the place that it was first seen at."""
        digest = _digest(text)
        with self._lock:
            if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, place)).rowcount:
                return None
            row = self._database.execute("SELECT place FROM seen WHERE digest = ?", (digest,)).fetchone()
        return int(row[0])

    def remove(self, text: str) -> None:
        with self._lock:
            self._database.execute("DELETE FROM seen WHERE digest = ?", (_digest(text),))

    def __contains__(self, text: str) -> bool:
        with self._lock:
            found = self._database.execute("SELECT 1 FROM seen WHERE digest = ?", (_digest(text),)).fetchone()
        return found is not None

    def close(self) -> None:
        with self._lock:
            self._database.close()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Listed:
    """The part of a source whose documents are those that its listing names: absent from a complete one is gone."""

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._complete = False

    def walk(self) -> Iterator[Found | Problem]:
        self._forget()
        seen = self._seen = Seen()
        complete = True
        for item in self._items(seen):
            complete = complete and not (isinstance(item, Problem) and item.folder)
            yield item
        self._complete = complete

    def gone(self, uri: str) -> bool:
        return self._complete and self._seen is not None and uri not in self._seen

    def close(self) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._seen is not None:
            self._seen.close()
        self._seen, self._complete = None, False

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        """Everything, each uri added to `seen` before it is yielded; a Problem with `folder` for what was missed."""
        raise NotImplementedError
