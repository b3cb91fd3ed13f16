"""Files of whatever fsspec knows: archives (`zip://`), `memory://`, `sftp://` and more. The only importer of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import fsspec

from ingestion.source import sidecar
from ingestion.source.items import Body, Found, Problem, below, ignored, place, supported, too_large, unsupported
from ingestion.source.listing import Listed, Seen
from ingestion.source.patterns import Patterns, fixed_part, glob, is_glob
from serving.errors import DocumentError, DocumentGone, SourceError, SourceUnavailable

_SAFE = "/:@!$&'()*+,;="
#: What file systems say of a file that changes with its bytes.
_MARKS = frozenset(
    {"etag", "e_tag", "crc", "checksum", "md5", "md5hash", "contenthash", "content_md5", "sha256", "ino", "version_id"}
    | {"mtime", "modified", "last_modified", "lastmodified", "updated", "date_time", "created", "uid_mtime"}
)
_TIMES = ("mtime", "modified", "last_modified", "LastModified", "updated", "created")


class FileSystem:
    """An fsspec file system, opened when it is needed. Its address may hold credentials, so nothing shows it."""

    def __init__(self, url: str, shown: str, options: Mapping[str, Mapping[str, Any]]) -> None:
        self.shown = shown
        self._url = url
        self._options = options
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return FileSystem, (self._url, self.shown, self._options)

    def open(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        with self._lock:
            if self._opened is None:
                chain = {protocol: dict(self._options.get(protocol, {})) for protocol in _protocols(self._url)}
                self._opened = fsspec.core.url_to_fs(self._url, **{name: one for name, one in chain.items() if one})
            return self._opened

    def close(self) -> None:
        with self._lock:
            self._opened = None

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Foreign errors end here; what they say is kept without credentials."""
        try:
            yield
        except (DocumentError, SourceUnavailable):
            raise
        except (FileNotFoundError, NotADirectoryError, KeyError):
            raise DocumentGone("it is not there") from None
        except (PermissionError, IsADirectoryError, NotImplementedError) as error:
            raise DocumentError(f"cannot be read: {self._told(error)}") from None
        # The edge to whatever library lies behind a protocol: each raises errors of its own.
        except Exception as error:  # noqa: BLE001
            raise SourceUnavailable(f"{what} cannot be read for now: {self._told(error)}") from None

    def _told(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        for secret in _secrets(self._url, self._options):
            text = text.replace(secret, "***")
        return text[:400]


@dataclass(frozen=True, slots=True)
class RemoteContent:
    """A file, and the sidecar beside it, if any."""

    system: FileSystem
    path: str
    fingerprint: str
    sidecar: str | None = None

    def read(self, max_bytes: int, known: str = "") -> Body:
        """The listing's fingerprint is older than the bytes: what changed meanwhile will look changed."""
        data = self._get(self.path, max_bytes)
        if self.sidecar is None:
            return Body(data, self.fingerprint)
        name = self.sidecar.rpartition("/")[2]
        try:
            beside = self._get(self.sidecar, sidecar.MAX_BYTES)
        except DocumentError as error:
            raise DocumentError(f"its sidecar {name}: {error}") from error
        told = sidecar.parse(name, beside)
        return Body(data, self.fingerprint, title=told.title, metadata=told.metadata)

    def _get(self, path: str, max_bytes: int) -> bytes:
        with self.system.translated(self.system.shown):
            system, _ = self.system.open()
            with system.open(path, "rb") as file:
                data = bytes(file.read(max_bytes + 1))
        if len(data) > max_bytes:
            raise DocumentError(too_large(len(data), max_bytes))
        return data


class RemoteSource(Listed):
    """`protocol://folder`, one file, or a pattern; `zip://docs/*.md::/path/archive.zip` looks into an archive."""

    selective = True

    def __init__(
        self, text: str, options: Mapping[str, Mapping[str, Any]], suffixes: Collection[str], patterns: Patterns
    ) -> None:
        """Raises SourceError: no such protocol, or its library is not installed."""
        super().__init__()
        self.text = _shown(text)
        for protocol in _protocols(text):
            _installed(protocol)
        inner, chain, outer = text.partition("::")
        scheme, _, path = inner.partition("://")
        self._pattern = None
        root = path
        if is_glob(path):
            root = fixed_part(path)
            self._pattern = glob(path.removeprefix(root).lstrip("/"))
        self._system = FileSystem(f"{scheme}://{root}{chain}{outer}", self.text, options)
        self.prefix = _uri(scheme, root, outer)
        self._suffixes = suffixes
        self._patterns = patterns

    def covers(self, uri: str, source: str) -> bool:
        if not below(uri, self.prefix):
            return False
        return self._pattern is None or self._pattern.fullmatch(unquote(self._relative(uri))) is not None

    def close(self) -> None:
        super().close()
        self._system.close()

    def _relative(self, uri: str) -> str:
        return uri.removeprefix(self.prefix).lstrip("/")

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        try:
            with self._system.translated(self.text):
                system, root = self._system.open()
                info = {"type": "directory"} if root in ("", "/") else system.info(root)
        except (DocumentError, SourceUnavailable) as error:
            yield Problem(self.prefix, self.text, f"cannot be listed: {error}", failed=True, folder=True)
            return
        if info["type"] != "directory":
            yield from self._single(info, seen)
            return
        stack = [root]
        visited = set(stack)
        while stack:
            folder = stack.pop()
            try:
                entries = self._listed(folder)
            except (DocumentError, SourceUnavailable) as error:
                yield Problem(self._uri(folder, root), folder, f"folder cannot be read: {error}", True, folder=True)
                continue
            beside = {_name(entry): entry for entry in entries}
            for entry in reversed(entries):
                path = str(entry["name"]).rstrip("/")
                if entry["type"] == "directory" and path not in visited and not self._prunes(path, root):
                    visited.add(path)
                    stack.append(path)
            for entry in entries:
                if entry["type"] != "directory":
                    yield from self._file(entry, self._uri(str(entry["name"]), root), beside, seen, named=False)

    def _listed(self, folder: str) -> list[Mapping[str, Any]]:
        with self._system.translated(self.text):
            system, _ = self._system.open()
            entries: Sequence[Mapping[str, Any]] = system.ls(folder, detail=True, refresh=True)
        own = folder.strip("/")
        named = [entry for entry in entries if str(entry["name"]).strip("/") != own and not ignored(_name(entry))]
        return sorted(named, key=lambda entry: str(entry["name"]))

    def _single(self, info: Mapping[str, Any], seen: Seen) -> Iterator[Found | Problem]:
        """Somebody named it."""
        name = str(info["name"])
        try:
            beside = {_name(entry): entry for entry in self._listed(name.rpartition("/")[0])}
        except (DocumentError, SourceUnavailable):
            beside = {}  # a server of single files has no folders
        yield from self._file(info, self.prefix, beside, seen, named=True)

    def _file(
        self, entry: Mapping[str, Any], uri: str, beside: Mapping[str, Mapping[str, Any]], seen: Seen, *, named: bool
    ) -> Iterator[Found | Problem]:
        relative = unquote(self._relative(uri)) or _name(entry)
        if not self._patterns.wants(relative) or not (self._pattern is None or self._pattern.fullmatch(relative)):
            return
        seen.add(uri)
        name = unquote(uri.partition("://")[2] or uri)
        if sidecar.document_of(_name(entry)) is not None:
            yield Problem(uri, name, "metadata of the document beside it (a sidecar)", failed=named)
        elif not supported(name, self._suffixes):
            yield Problem(uri, name, unsupported(name), failed=named)
        else:
            told = sidecar.sidecar_of(_name(entry), beside)
            fingerprint = _fingerprint(entry, *([beside[told]] if told else []))
            path = str(entry["name"])
            content = RemoteContent(
                self._system, path, fingerprint, path.removesuffix(_name(entry)) + told if told else None
            )
            yield Found(uri, name, int(entry.get("size") or 0), _modified(entry), fingerprint, content, place(name))

    def _prunes(self, path: str, root: str) -> bool:
        return self._patterns.prunes(unquote(self._relative(self._uri(path, root))))

    def _uri(self, path: str, root: str) -> str:
        inside = path.strip("/").removeprefix(root.strip("/")).strip("/")
        return f"{self.prefix.rstrip('/')}/{quote(inside, safe=_SAFE)}"


def _protocols(url: str) -> list[str]:
    return [part.partition("://")[0] if "://" in part else part for part in url.split("::") if _is_protocol(part)]


def _is_protocol(part: str) -> bool:
    return "://" in part or (part.isalnum() and part in fsspec.available_protocols())


def _installed(protocol: str) -> None:
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise SourceError(f"{protocol}:// is nothing that documents can be read from.") from error
    except ImportError as error:
        raise SourceError(
            f"{protocol}:// needs a library that is not installed ({error}). For s3://, gs:// and abfs:// it is: "
            "pip install 'anchorage[remote]'"
        ) from error


def _uri(scheme: str, root: str, outer: str) -> str:
    """`zip:file:///a.zip!/docs` for what is inside of something, in the manner of JAR addresses."""
    path = quote(root.rpartition("@")[2] if "@" in root.partition("/")[0] else root, safe=_SAFE).rstrip("/")
    if not outer:
        return f"{scheme}://{path}"
    place_of = _shown(outer) if "://" in outer else "file://" + quote(outer, safe=_SAFE)
    return f"{scheme}:{place_of}!/{path}".rstrip("/")


def _shown(url: str) -> str:
    """Without name and password."""
    parts = []
    for part in url.split("::"):
        scheme, separator, rest = part.partition("://")
        host, slash, path = rest.partition("/")
        parts.append(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}")
    return "::".join(parts)


def _secrets(url: str, options: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for part in url.split("::"):
        host = part.partition("://")[2].partition("/")[0]
        if "@" in host:
            yield host.rpartition("@")[0]
            password = urlsplit(f"//{host}").password
            if password:
                yield password
    for group in options.values():
        yield from (value for value in group.values() if isinstance(value, str) and len(value) > 3)


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def _fingerprint(*entries: Mapping[str, Any]) -> str:
    """'' where nothing but the size is known."""
    marks = [
        {
            name: str(value)
            for name, value in sorted(entry.items())
            if name.lower() in _MARKS and value not in (None, "")
        }
        for entry in entries
    ]
    if not all(marks):
        return ""
    return json.dumps([[entry.get("size"), mark] for entry, mark in zip(entries, marks, strict=True)])


def _modified(entry: Mapping[str, Any]) -> float:
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
    return 0.0
