"""Where documents come from: files, folders and patterns, walked without ever blocking or giving up half way.

What cannot be read is yielded as a `Problem`, never raised: one unreadable folder must not hide the rest, and must not
make the documents below it look removed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from serving.errors import SourceError

#: Written by programs for themselves; nobody asks questions about them.
_JUNK = frozenset({"__pycache__", "node_modules", "Thumbs.db", "desktop.ini"})
_MAGIC = re.compile(r"[*?\[]")
_GLOB_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """One SOURCE argument: `root` is a file or a folder; with `pattern`, only paths below it that match."""

    text: str
    root: Path
    pattern: re.Pattern[str] | None = None

    @property
    def prefix(self) -> str:
        """What the uris of all its documents begin with."""
        return uri_of(self.root)

    def covers(self, uri: str) -> bool:
        """Whether the document of this uri would be found here, if it existed."""
        if not below(uri, self.prefix):
            return False
        return self.pattern is None or self.pattern.fullmatch(str(path_of(uri))) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file that ingestion can read. `size` in bytes, `modified_ns` in nanoseconds since 1970."""

    uri: str
    path: Path
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read (`failed`) or was passed over; `folder` if it may hide documents."""

    uri: str
    path: Path
    reason: str
    failed: bool
    folder: bool = False


def uri_of(path: Path) -> str:
    """`file:///absolute/path`, percent-encoded: the same for the same path, whatever the folder one stands in."""
    return Path(os.path.abspath(path)).as_uri()


def path_of(uri: str) -> Path:
    """The path a uri of ours was made from."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def below(uri: str, prefix: str) -> bool:
    """Whether a uri is that of `prefix` itself or of something in that folder."""
    return uri == prefix or uri.startswith(prefix if prefix.endswith("/") else prefix + "/")


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Arguments to sources; one inside another is dropped. Raises SourceError for a path that is not there."""
    sources = [_parse(text) for text in texts]
    whole = [source for source in sources if source.pattern is None]
    kept: list[Source] = []
    for source in sources:
        outer = any(other is not source and other.root in source.root.parents for other in whole)
        if not outer and source not in kept:
            kept.append(source)
    return kept


def _parse(text: str) -> Source:
    try:
        path = Path(os.path.abspath(Path(text).expanduser()))
        exists = os.path.lexists(path)
    except (ValueError, RuntimeError) as error:  # a NUL in the name; a home folder that nobody has
        raise SourceError(f"{text!r} is not a usable path: {error}.") from error
    if exists:
        return Source(text, path)
    if not _MAGIC.search(text):
        raise SourceError(
            f"{text!r} does not exist. To remove the documents of deleted files, ingest the folder that held them."
        )
    parts = path.parts
    fixed = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    root = Path(*parts[:fixed])
    if not root.is_dir():
        raise SourceError(f"{text!r} matches nothing: there is no folder {str(root)!r}.")
    return Source(text, root, _pattern(path))


def _pattern(path: Path) -> re.Pattern[str]:
    """A glob as a regular expression: `**` crosses folders, `*` and `?` do not."""
    return re.compile("".join(_translate(token) for token in _GLOB_TOKEN.findall(str(path))), re.DOTALL)


def _translate(token: str) -> str:
    if token == "**/":
        return "(?:.*/)?"
    if token == "**":
        return ".*"
    if token == "*":
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if len(token) > 2 and token[0] == "[" and token[-1] == "]":
        negated = token[1] in "!^"
        return f"[{'^' if negated else ''}{re.escape(token[1 + negated : -1])}]".replace(r"\-", "-")
    return re.escape(token)


def vanished(sources: Sequence[Source], uri: str) -> bool:
    """Whether the file of a document is known to be gone; one that merely cannot be looked at is not."""
    if not any(source.covers(uri) for source in sources):
        return False
    try:
        os.lstat(path_of(uri))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def walk(source: Source, suffixes: Collection[str]) -> Iterator[Found | Problem]:
    """Everything of a source, folders in name order. Holds one folder's names in memory at a time per depth."""
    if not source.root.is_dir():
        yield _file(source.root, suffixes, named=True)
        return
    for item in _folder(source.root, suffixes):
        if source.pattern is None or source.pattern.fullmatch(str(item.path)) or _is_folder(item):
            yield item


def _is_folder(item: Found | Problem) -> bool:
    """A folder that failed may hide matches, so no pattern silences it."""
    return isinstance(item, Problem) and item.folder


def _folder(root: Path, suffixes: Collection[str]) -> Iterator[Found | Problem]:
    real_root = os.path.realpath(root)
    visited: set[tuple[int, int]] = set()
    stack = [root]
    while stack:
        folder = stack.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if not _ignored(entry.name))
        except OSError as error:
            yield Problem(uri_of(folder), folder, f"folder cannot be read: {_why(error)}", failed=True, folder=True)
            continue
        folders = []
        for name in names:
            item = _entry(folder / name, real_root, suffixes)
            if isinstance(item, Path):
                folders.append(item)
            elif item is not None:
                yield item
        stack.extend(reversed(folders))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.endswith("~") or name in _JUNK


def _entry(path: Path, real_root: str, suffixes: Collection[str]) -> Path | Found | Problem | None:
    """A folder to enter, a file, a problem, or nothing."""
    try:
        is_folder = path.is_dir()
        if not is_folder:
            return _file(path, suffixes, named=False)
        if not path.is_symlink():
            return path
        real = os.path.realpath(path, strict=True)
    except OSError as error:
        return _problem(path, _why(error))
    if real_root == real or real_root.startswith(real.rstrip("/") + "/"):
        return _problem(path, "symbolic link to a folder above itself (a loop)", failed=False)
    if real.startswith(real_root.rstrip("/") + "/"):
        return _problem(path, "symbolic link into the same source", failed=False)
    return path


def _file(path: Path, suffixes: Collection[str], *, named: bool) -> Found | Problem:
    """A file, or why not. A file that somebody `named` fails where one met on the way is passed over."""
    if path.suffix.lower() not in suffixes:
        known = ", ".join(sorted(suffixes))
        kind = f"files of kind {path.suffix!r}" if path.suffix else "files without a suffix"
        return _problem(path, f"{kind} are not supported (supported: {known})", failed=named)
    try:
        status = path.stat()
    except FileNotFoundError:
        return _problem(path, "broken symbolic link")
    except OSError as error:
        return _problem(path, _why(error))
    if not stat.S_ISREG(status.st_mode):
        return _problem(path, "not a regular file (a pipe, socket or device)")
    return Found(uri_of(path), path, status.st_size, status.st_mtime_ns)


def _problem(path: Path, reason: str, *, failed: bool = True) -> Problem:
    return Problem(uri_of(path), path, reason, failed)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
