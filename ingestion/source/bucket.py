"""Objects in `s3://`, `gs://` and `abfs://`, listed page by page. The only importer of `obstore`."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from ingestion.source import sidecar
from ingestion.source.items import Body, Found, Problem, below, ignored, place, supported, too_large, unsupported
from ingestion.source.listing import Listed, Seen
from ingestion.source.patterns import Patterns, fixed_part, glob, is_glob
from serving.errors import DocumentError, DocumentGone, SourceError, SourceUnavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

#: Each with the name that its options have in the settings.
_FAMILIES = {"s3": "s3", "s3a": "s3", "gs": "gs", "abfs": "abfs", "abfss": "abfs", "az": "abfs", "adl": "abfs"}

_SAFE = "/:@!$&'()*+,;="
_KEYS_PER_PAGE = 1000
#: Options that are no secret and help to understand a message.
_SHOWN = re.compile("endpoint|region|bucket|account_name|skip_signature", re.IGNORECASE)


class IllegalKey(DocumentError):
    """A key with an empty name, `.` or `..` between its slashes: obstore reads none, nor a listing that holds one."""


class Bucket:
    """One bucket, with how it is reached. Options may be secret, so nothing shows them."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self._options = options
        self._lock = threading.Lock()
        self._store: ObjectStore | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.url, self._options)

    def store(self) -> ObjectStore:
        """The client; a copy elsewhere makes its own. Raises SourceError."""
        with self._lock:
            if self._store is None:
                self._store = self._opened()
            return self._store

    def _opened(self) -> ObjectStore:
        import obstore.store
        from obstore.exceptions import BaseError

        options = dict(self._options)
        given, tries = options.pop("client", {}), options.pop("retry", {})
        plain = str(options.get("endpoint", "")).startswith("http://")
        client = {
            "timeout": timedelta(minutes=5),
            "connect_timeout": timedelta(seconds=10),
            "allow_http": plain,
            **given,
        }
        retry: Any = {"max_retries": 5, "retry_timeout": timedelta(minutes=2), **tries}
        try:
            store: ObjectStore = obstore.store.from_url(  # type: ignore[call-overload]
                self.url, config=options, client_options=client, retry_config=retry
            )
        except (BaseError, TypeError, ValueError) as error:
            raise SourceError(f"{self.url} cannot be used: {self._told(error)}") from None
        return store

    def close(self) -> None:
        with self._lock:
            self._store = None

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Foreign errors end here; what they say is kept without anything that was given as an option."""
        from obstore.exceptions import (
            BaseError,
            InvalidPathError,
            NotFoundError,
            PermissionDeniedError,
            UnauthenticatedError,
        )

        try:
            yield
        except (NotFoundError, FileNotFoundError):
            raise DocumentGone("the store says that it is not there") from None
        except (InvalidPathError, ValueError) as error:
            raise IllegalKey(f"the key cannot be read: {self._told(error)}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise DocumentError(f"the store refuses it: {self._told(error)}") from None
        except (BaseError, OSError) as error:
            raise SourceUnavailable(f"{what} cannot be read for now: {self._told(error)}") from None

    def _told(self, error: Exception) -> str:
        text = " ".join(str(error).split("\n\nDebug source")[0].split())
        for name, value in self._options.items():
            if isinstance(value, str) and value and not _SHOWN.search(name):
                text = text.replace(value, "***")
        return text[:400]


@dataclass(frozen=True, slots=True)
class Object:
    """What a listing says of one key."""

    key: str
    size: int
    modified: float
    fingerprint: str


@dataclass(frozen=True, slots=True)
class BucketContent:
    """An object, and the sidecar beside it, if any."""

    bucket: Bucket
    key: str
    sidecar: str | None = None

    def read(self, max_bytes: int, known: str = "") -> Body:
        data, read = self._get(self.key, max_bytes)
        if self.sidecar is None:
            return Body(data, read.fingerprint, modified=read.modified)
        try:
            beside, beside_read = self._get(self.sidecar, sidecar.MAX_BYTES)
        except DocumentError as error:
            raise DocumentError(f"its sidecar {self.sidecar}: {error}") from error
        told = sidecar.parse(self.sidecar.rpartition("/")[2], beside)
        fingerprint = _joined(read.fingerprint, beside_read.fingerprint)
        return Body(data, fingerprint, title=told.title, metadata=told.metadata, modified=read.modified)

    def _get(self, key: str, max_bytes: int) -> tuple[bytes, Object]:
        import obstore

        with self.bucket.translated(f"{self.bucket.url}/{key}"):
            result = obstore.get(self.bucket.store(), key)
            read = _object(result.meta)
            if read.size > max_bytes:
                raise DocumentError(too_large(read.size, max_bytes))
            return bytes(result.bytes()), read


class BucketSource(Listed):
    """`s3://bucket/folder`, one object, or a pattern of keys."""

    selective = True

    def __init__(
        self, text: str, options: Mapping[str, Mapping[str, Any]], suffixes: Collection[str], patterns: Patterns
    ) -> None:
        """Raises SourceError: no bucket, credentials in the address, the store's library is not installed."""
        super().__init__()
        scheme, _, rest = text.partition("://")
        host, _, key = rest.partition("/")
        if not host or (":" in host and "@" in host):
            raise SourceError(
                f"{scheme}:// needs a bucket, as in {scheme}://bucket/folder; credentials belong into the environment."
            )
        if importlib.util.find_spec("obstore") is None:
            raise SourceError(f"{scheme}:// needs a library that is not installed: pip install 'anchorage[remote]'")
        self.text = text
        self._bucket = Bucket(f"{scheme}://{host}", {**options.get(_FAMILIES[scheme], {}), **options.get(scheme, {})})
        self._bucket.store()
        self._pattern = glob(key) if is_glob(key) else None
        self._root = key.rstrip("/") if self._pattern is None else fixed_part(key)
        self._folder = key.endswith("/") or self._pattern is not None or not self._root
        self._suffixes = suffixes
        self._patterns = patterns
        self.prefix = self._uri(self._root) if self._root else f"{self._bucket.url}/"

    def covers(self, uri: str, source: str) -> bool:
        if not below(uri, self.prefix):
            return False
        return self._pattern is None or self._pattern.fullmatch(unquote(uri.removeprefix(self._uri("")))) is not None

    def close(self) -> None:
        super().close()
        self._bucket.close()

    def _items(self, seen: Seen) -> Iterator[Found | Problem]:
        try:
            single = None if self._folder else self._head(self._root)
            if single is not None:
                yield from self._one(single, seen)
                return
            try:
                yield from self._all(self._listed(), seen)
            except IllegalKey:
                yield from self._by_folder(seen)
        except (DocumentError, SourceUnavailable) as error:
            yield Problem(self.prefix, self.prefix, f"cannot be listed: {error}", failed=True, folder=True)

    def _by_folder(self, seen: Seen) -> Iterator[Found | Problem]:
        """So that an illegal key hides the keys of its own folder, and no others."""
        import obstore

        stack = [self._root]
        while stack:
            folder = stack.pop()
            try:
                with self._bucket.translated(self._uri(folder)):
                    listed = obstore.list_with_delimiter(self._bucket.store(), folder or None)
            except IllegalKey as error:
                uri = self._uri(folder)
                yield Problem(uri, uri, f"folder cannot be listed: {error}", failed=True, folder=True)
                continue
            stack.extend(sorted((one for one in listed["common_prefixes"] if one not in ("", folder)), reverse=True))
            objects = sorted(map(_object, listed["objects"]), key=lambda one: one.key)
            yield from self._all((one for one in objects if self._wanted(one.key)), seen)

    def _all(self, objects: Iterator[Object], seen: Seen) -> Iterator[Found | Problem]:
        for pair in sidecar.paired(objects, key=lambda one: one.key):
            yield from self._pair(*pair, seen, named=False)

    def _one(self, single: Object, seen: Seen) -> Iterator[Found | Problem]:
        """Somebody named it."""
        beside = next((one for name in sidecar.names_for(single.key) if (one := self._head(name))), None)
        yield from self._pair(single, beside, seen, named=True)

    def _head(self, key: str) -> Object | None:
        import obstore

        try:
            with self._bucket.translated(self._uri(key)):
                return _object(obstore.head(self._bucket.store(), key))
        except DocumentGone:
            return None

    def _listed(self) -> Iterator[Object]:
        import obstore

        with self._bucket.translated(self.prefix):
            pages = obstore.list(self._bucket.store(), self._root or None, chunk_size=_KEYS_PER_PAGE)
            for page in pages:
                for meta in page:
                    one = _object(meta)
                    if self._wanted(one.key):
                        yield one

    def _wanted(self, key: str) -> bool:
        below_root = key.removeprefix(self._root).lstrip("/")
        return not any(ignored(part) for part in below_root.split("/"))

    def _pair(self, one: Object, beside: Object | None, seen: Seen, *, named: bool) -> Iterator[Found | Problem]:
        uri, name = self._uri(one.key), f"{self._bucket.url.partition('://')[2]}/{one.key}"
        if self._pattern is not None and not self._pattern.fullmatch(one.key):
            return
        relative = one.key.removeprefix(self._root).lstrip("/") or one.key.rpartition("/")[2]
        if not self._patterns.wants(relative):
            return
        if seen.add(uri) is not None:
            return
        if sidecar.document_of(one.key) is not None:
            yield Problem(uri, name, "metadata of the document beside it (a sidecar)", failed=named)
        elif not supported(name, self._suffixes):
            yield Problem(uri, name, unsupported(name), failed=named)
        else:
            content = BucketContent(self._bucket, one.key, beside.key if beside else None)
            fingerprint = _joined(one.fingerprint, beside.fingerprint) if beside else one.fingerprint
            yield Found(uri, name, one.size, one.modified, fingerprint, content, place(name))

    def _uri(self, key: str) -> str:
        return f"{self._bucket.url}/{quote(key, safe=_SAFE)}"


def _object(meta: ObjectMeta) -> Object:
    modified = meta["last_modified"].timestamp()
    mark = meta.get("e_tag") or ""
    return Object(meta["path"], meta["size"], modified, f"{mark} {meta['size']}" if mark else "")


def _joined(first: str, second: str) -> str:
    return f"{first} + {second}" if first and second else ""
