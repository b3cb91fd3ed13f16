"""One GET over HTTP: bounded in bytes, time, attempts and redirects, and kept from addresses that nobody named.

The only importer of httpx in ingestion.
"""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from ingestion.source.address import Address, is_among, joined, origin_of, parse_address, public_addresses
from ingestion.source.items import too_large
from serving.errors import DocumentError, DocumentGone, SourceUnavailable
from serving.settings import WebSettings

_GONE = frozenset({404, 410})
_PASSING = frozenset({408, 425, 429})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})


@dataclass(frozen=True, slots=True)
class Reply:
    """`data` is None if nothing changed. `url` is where redirects ended; header names are in lower case."""

    data: bytes | None
    url: str
    headers: Mapping[str, str]
    fingerprint: str


class _Again(Exception):
    """It failed for the moment."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class Fetcher:
    """Connections to sites. `named` are the addresses that the caller gave: their hosts may be anywhere.

    May be used by several threads. A copy on another machine makes its own connection for each read.
    """

    def __init__(self, settings: WebSettings, named: tuple[Address, ...] = ()) -> None:
        self._settings = settings
        self._named = {address.origin: address for address in named}
        self._lock = threading.Lock()
        self._clients: dict[str | None, httpx.Client] | None = {}
        self._busy: dict[str, int] = {}
        self._freed = threading.Condition(self._lock)

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (self._settings, self._named)

    def close(self) -> None:
        with self._lock:
            clients, self._clients = self._clients or {}, {}
        for client in clients.values():
            client.close()

    def get(self, address: Address, max_bytes: int, known: str = "") -> Reply:
        """Raises DocumentGone (404, 410), DocumentError, SourceUnavailable (after all attempts)."""
        deadline = time.monotonic() + self._settings.total_s
        for attempt in range(self._settings.attempts):
            try:
                return self._follow(address, max_bytes, known, deadline)
            except _Again as again:
                wait = again.wait_s or self._settings.backoff_s * 2**attempt * random.uniform(0.75, 1.25)
                last = attempt + 1 == self._settings.attempts
                if last or time.monotonic() + wait > deadline:
                    tried = f"{attempt + 1} attempts" if attempt else "1 attempt"
                    message = f"{address.uri}: {again.reason} ({tried})"
                    raise SourceUnavailable(message, retry_after_s=max(wait, 5.0)) from again
            time.sleep(wait)
        raise AssertionError("every attempt returns or raises")

    def _follow(self, address: Address, max_bytes: int, known: str, deadline: float) -> Reply:
        current = address
        for _ in range(self._settings.max_redirects + 1):
            with self._slot(current.origin), self._answer(current, known) as response:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    return self._reply(current, response, max_bytes, known, deadline)
                target = joined(current.url, response.headers["location"])
            try:
                current = parse_address(target)
            except DocumentError as error:
                raise DocumentError(f"redirected to what is {error}") from error
        raise DocumentError(f"more than {self._settings.max_redirects} redirects")

    def _reply(self, address: Address, response: httpx.Response, max_bytes: int, known: str, deadline: float) -> Reply:
        status, headers = response.status_code, response.headers
        if status == httpx.codes.NOT_MODIFIED and known:
            return Reply(None, address.url, dict(headers), known)
        if status in _GONE:
            raise DocumentGone(f"the site answered {status}: it is no longer there")
        if status in _PASSING or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _Again(f"the site answered {status}", _retry_after(headers.get("retry-after", "")))
        if status not in (httpx.codes.OK, httpx.codes.NON_AUTHORITATIVE_INFORMATION):
            raise DocumentError(f"the site answered {status} {response.reason_phrase}".rstrip())
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise DocumentError(f"compressed in a way that was not asked for: {encoding[:40]!r}")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and int(length) > max_bytes:
            raise DocumentError(too_large(int(length), max_bytes))
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > max_bytes:
                raise DocumentError(too_large(len(body), max_bytes))
            if time.monotonic() > deadline:
                raise SourceUnavailable(f"{address.uri}: took longer than {self._settings.total_s:g} s")
        return Reply(bytes(body), address.url, dict(headers), _fingerprint(headers))

    @contextmanager
    def _answer(self, address: Address, known: str) -> Iterator[httpx.Response]:
        """The answer's head; its body can be read within. Foreign errors end here."""
        try:
            yield from self._stream(address, known)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
            raise DocumentError(f"cannot be asked for: {error}") from error
        except httpx.DecodingError as error:
            raise DocumentError(f"the answer cannot be unpacked: {error}") from error
        except httpx.TimeoutException as error:
            raise _Again("no answer in time") from error
        except httpx.TransportError as error:
            raise _Again(f"the connection failed: {str(error) or type(error).__name__}") from error
        except OSError as error:  # the host's name
            raise _Again(f"cannot be reached: {error.strerror or error}") from error

    def _stream(self, address: Address, known: str) -> Iterator[httpx.Response]:
        headers = {"user-agent": self._settings.user_agent, "accept-encoding": "gzip", "accept": "*/*", **_asked(known)}
        proxy = _proxy(address.url)
        hosts = self._hosts(address, proxied=proxy is not None)
        with self._client(proxy) as client:
            for left, host in zip(range(len(hosts) - 1, -1, -1), hosts, strict=True):
                request = _request(client, address, host, headers, self._credentials(address))
                try:
                    response = client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if left:
                        continue
                    raise
                try:
                    yield response
                finally:
                    response.close()
                return

    def _credentials(self, address: Address) -> tuple[str, str] | None:
        """Only for the host that they were given for, and never in the clear if that was not meant."""
        named = self._named.get(address.origin)
        if named is None or (named.url.startswith("https:") and not address.url.startswith("https:")):
            return None
        return named.credentials

    def _hosts(self, address: Address, *, proxied: bool) -> list[str]:
        """What to connect to: the host's name, or, for one that nobody named, its addresses as they were checked."""
        parts = urlsplit(address.url)
        host = parts.hostname or ""
        settings = self._settings
        if settings.allow_private or address.origin in self._named or is_among(host, settings.allowed_hosts):
            return [host]
        if proxied and not _is_literal(host):
            return [host]  # the proxy looks the name up, and has rules of its own
        return public_addresses(host, parts.port or (443 if parts.scheme == "https" else 80))

    @contextmanager
    def _client(self, proxy: str | None) -> Iterator[httpx.Client]:
        if self._clients is None:
            with self._new_client(proxy) as client:
                yield client
            return
        with self._lock:
            if proxy not in self._clients:
                self._clients[proxy] = self._new_client(proxy)
            client = self._clients[proxy]
        yield client

    def _new_client(self, proxy: str | None) -> httpx.Client:
        # The environment's certificates are wanted; its proxies were looked up for each address.
        return httpx.Client(
            verify=httpx.create_ssl_context(trust_env=True),
            trust_env=False,
            proxy=proxy,
            timeout=self._settings.timeout_s,
            follow_redirects=False,
        )

    @contextmanager
    def _slot(self, origin: str) -> Iterator[None]:
        """No more than a few requests to one host at a time."""
        with self._freed:
            while self._busy.get(origin, 0) >= self._settings.per_host:
                self._freed.wait()
            self._busy[origin] = self._busy.get(origin, 0) + 1
        try:
            yield
        finally:
            with self._freed:
                self._busy[origin] -= 1
                if not self._busy[origin]:
                    del self._busy[origin]
                self._freed.notify_all()


def _copied(settings: WebSettings, named: dict[str, Address]) -> Fetcher:
    copy = Fetcher(settings)
    copy._named = named
    copy._clients = None
    return copy


def _request(
    client: httpx.Client, address: Address, host: str, headers: dict[str, str], credentials: tuple[str, str] | None
) -> httpx.Request:
    url = httpx.URL(address.url)
    extensions: dict[str, Any] = {}
    if host != url.host:
        # The certificate is still that of the name.
        headers = {**headers, "host": origin_of(address.url)}
        extensions["sni_hostname"] = url.host
        url = url.copy_with(host=host)
    request = client.build_request("GET", url, headers=headers, extensions=extensions)
    if credentials is not None:
        request = next(httpx.BasicAuth(*credentials).auth_flow(request))
    return request


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdecimal() or host == "localhost" or host.endswith(".localhost")


def _asked(known: str) -> dict[str, str]:
    kind, _, value = known.partition(" ")
    name = {"etag": "if-none-match", "modified": "if-modified-since"}.get(kind)
    return {name: value} if name and value else {}


def _fingerprint(headers: httpx.Headers) -> str:
    """What a conditional request can ask about."""
    if etag := headers.get("etag", "").strip():
        return f"etag {etag}" if len(etag) <= 512 else ""
    if modified := headers.get("last-modified", "").strip():
        return f"modified {modified}" if len(modified) <= 64 else ""
    return ""


def _retry_after(value: str) -> float:
    """Seconds, from a number or a date; 0 if it says nothing."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
