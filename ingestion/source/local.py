"""Files, folders and globs, walked without ever blocking or giving up half way.

What cannot be read is yielded as a `Problem`, never raised: one unreadable folder must not hide the rest, and must not
make the documents below it look removed.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ingestion.source import sidecar
from ingestion.source.items import Body, Found, Problem, below, ignored, place, supported, too_large, unsupported
from ingestion.source.patterns import Patterns, glob, is_glob
from serving.errors import DocumentError, DocumentGone, SourceError, SourceUnavailable

#: A file that changed so recently may change again without a change of its times: git calls it racily clean.
_RACY_S = 2.0
#: A network file system that is away says these; so does a machine that is short of something for a moment.
_PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY}
)


@dataclass(frozen=True, slots=True)
class LocalContent:
    """A file, and the sidecar beside it, if any."""

    path: Path
    sidecar: Path | None = None

    def read(self, max_bytes: int, known: str = "") -> Body:
        """The fingerprint is taken before the bytes: a file that changes meanwhile will look changed."""
        data, status = _read(self.path, max_bytes, known if self.sidecar is None else "")
        if self.sidecar is None:
            return Body(data, _fingerprint(status), modified=status.st_mtime)
        try:
            beside, beside_status = _read(self.sidecar, sidecar.MAX_BYTES, "")
        except DocumentError as error:
            raise DocumentError(f"its sidecar {readable(self.sidecar)}: {error}") from error
        told = sidecar.parse(readable(Path(self.sidecar.name)), beside or b"")
        fingerprint = _fingerprint(status, beside_status)
        return Body(data, fingerprint, title=told.title, metadata=told.metadata, modified=status.st_mtime)


@dataclass(frozen=True, slots=True)
class LocalSource:
    """`root` is a file or a folder; with `pattern`, only paths below it that match."""

    text: str
    root: Path
    suffixes: Collection[str]
    pattern: re.Pattern[str] | None = None
    patterns: Patterns = field(default_factory=Patterns)
    #: What the uris of all its documents begin with. Every known document is compared with it.
    prefix: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", uri_of(self.root))

    @property
    def selective(self) -> bool:
        return self.pattern is not None

    def covers(self, uri: str, source: str = "") -> bool:
        if not below(uri, self.prefix):
            return False
        return self.pattern is None or self.pattern.fullmatch(str(path_of(uri))) is not None

    def gone(self, uri: str) -> bool:
        """Excluded, or its file does not exist; one that merely cannot be looked at is not gone."""
        path = path_of(uri)
        if not self.patterns.wants(self._relative(path)):
            return True
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):
            return False
        return False

    def walk(self) -> Iterator[Found | Problem]:
        """Folders in name order. Holds one folder's names in memory at a time per depth."""
        if not self.root.is_dir():
            if self.patterns.wants(self._relative(self.root)):
                yield _file(self.root, self.suffixes, _Beside(self.root.parent), named=True)
            return
        for path, item in self._folder():
            hiding = isinstance(item, Problem) and item.folder  # it may hide matches, so no pattern silences it
            if hiding or self._matches(path):
                yield item

    def close(self) -> None:
        """Nothing is held."""

    def _matches(self, path: Path) -> bool:
        if self.pattern is not None and not self.pattern.fullmatch(str(path)):
            return False
        return self.patterns.wants(self._relative(path))

    def _relative(self, path: Path) -> str:
        return path.name if path == self.root else os.path.relpath(path, self.root)

    def _folder(self) -> Iterator[tuple[Path, Found | Problem]]:
        real_root = os.path.realpath(self.root)
        visited: set[tuple[int, int]] = set()
        stack = [self.root]
        while stack:
            folder = stack.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if not ignored(entry.name))
            except OSError as error:
                reason = f"folder cannot be read: {_why(error)}"
                yield folder, Problem(uri_of(folder), readable(folder), reason, failed=True, folder=True)
                continue
            folders = []
            beside = frozenset(names)
            for name in names:
                item = _entry(folder / name, real_root, self.suffixes, beside)
                if not isinstance(item, Path):
                    yield folder / name, item
                elif not self.patterns.prunes(self._relative(item)):
                    folders.append(item)
            stack.extend(reversed(folders))


@dataclass(frozen=True, slots=True)
class _Beside:
    """The names in a folder, without listing it."""

    folder: Path

    def __contains__(self, name: object) -> bool:
        return os.path.lexists(self.folder / str(name))


def local_source(text: str, suffixes: Collection[str], patterns: Patterns) -> LocalSource:
    """An argument as a path. Raises SourceError for one that is not there."""
    written = os.fsdecode(unquote_to_bytes(text.removeprefix("file://"))) if text.startswith("file://") else text
    try:
        path = Path(os.path.abspath(Path(written).expanduser()))
        exists = os.path.lexists(path)
    except (ValueError, RuntimeError) as error:  # a NUL in the name; a home folder that nobody has
        raise SourceError(f"{text!r} is not a usable path: {error}.") from error
    if exists:
        return LocalSource(text, path, suffixes, None, patterns)
    if not is_glob(written):
        raise SourceError(
            f"{text!r} does not exist. To remove the documents of deleted files, ingest the folder that held them."
        )
    fixed = next(i for i, part in enumerate(path.parts) if is_glob(part))
    root = Path(*path.parts[:fixed])
    if not root.is_dir():
        raise SourceError(f"{text!r} matches nothing: there is no folder {str(root)!r}.")
    try:
        return LocalSource(text, root, suffixes, glob(str(path)), patterns)
    except re.error as error:
        raise SourceError(f"{text!r} cannot be understood as a pattern: {error}.") from error


def uri_of(path: Path) -> str:
    """`file:///absolute/path`, percent-encoded: the same for the same path, whatever the folder one stands in."""
    return Path(os.path.abspath(path)).as_uri()


def path_of(uri: str) -> Path:
    """The path a uri of ours was made from."""
    return Path(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))))


def readable(path: Path) -> str:
    """A path as text: bytes that are not UTF-8 become question marks."""
    return os.fsencode(path).decode("utf-8", "replace")


def _entry(path: Path, real_root: str, suffixes: Collection[str], beside: Container[str]) -> Path | Found | Problem:
    """A folder to enter, a file, or a problem."""
    try:
        is_folder = path.is_dir()
        if not is_folder:
            return _file(path, suffixes, beside, named=False)
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


def _file(path: Path, suffixes: Collection[str], beside: Container[str], *, named: bool) -> Found | Problem:
    """A file, or why not. A file that somebody `named` fails where one met on the way is passed over."""
    if sidecar.document_of(path.name) is not None:
        return _problem(path, "metadata of the document beside it (a sidecar)", failed=named)
    if not supported(path.name, suffixes):
        return _problem(path, unsupported(readable(Path(path.name))), failed=named)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return _problem(path, "not a regular file (a pipe, socket or device)")
        name = sidecar.sidecar_of(path.name, beside)
        told = None if name is None else path.with_name(name)
        fingerprint = _fingerprint(status) if told is None else _fingerprint(status, told.stat())
    except FileNotFoundError:
        return _problem(path, "broken symbolic link")
    except OSError as error:
        return _problem(path, _why(error))
    shown = readable(path)
    content = LocalContent(path, told)
    return Found(uri_of(path), shown, status.st_size, status.st_mtime, fingerprint, content, place(shown))


def _fingerprint(*statuses: os.stat_result) -> str:
    """Nothing of what changed just now: a change within the clock's tick would not show."""
    changed = max(max(status.st_mtime, status.st_ctime) for status in statuses)
    if time.time() - changed < _RACY_S:
        return ""
    return "+".join(f"{s.st_size}/{s.st_mtime_ns}/{s.st_ctime_ns}/{s.st_ino}" for s in statuses)


def _read(path: Path, max_bytes: int, known: str) -> tuple[bytes | None, os.stat_result]:
    """The bytes of a regular file, None if its fingerprint is the known one; a pipe is never waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DocumentError("not a regular file (a pipe, socket or device)")
            if known and known == _fingerprint(status):
                return None, status
            if status.st_size > max_bytes:
                raise DocumentError(too_large(status.st_size, max_bytes))
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DocumentGone("it was removed while it was about to be read") from error
    except OSError as error:
        if error.errno in _PASSING:
            raise SourceUnavailable(f"{readable(path)} cannot be read for now: {_why(error)}") from error
        raise DocumentError(f"cannot be read: {_why(error)}") from error
    if len(data) > max_bytes:  # it grew meanwhile, or its file system does not know sizes
        raise DocumentError(too_large(len(data), max_bytes))
    return data, status


def _problem(path: Path, reason: str, *, failed: bool = True) -> Problem:
    return Problem(uri_of(path), readable(path), reason, failed)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
