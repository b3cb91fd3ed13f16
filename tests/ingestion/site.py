"""A web site and an S3 store on loopback, for tests: real sockets, the standard library's server."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Answer:
    """What a path answers: `length` overrides Content-Length, `endless` repeats the body with `pause_s` between."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    endless: bool = False
    pause_s: float = 0.0


Route = Answer | Callable[[Mapping[str, str]], Answer]


@dataclass
class Site:
    """`routes` by path; `asked` holds every (path, headers in lower case) that was asked for."""

    url: str
    routes: dict[str, Route] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def page(self, path: str, text: str, kind: str = "text/html", **headers: str) -> None:
        self.routes[path] = Answer(text.encode(), headers={"content-type": kind, **headers})

    def times(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


@contextmanager
def site() -> Iterator[Site]:
    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            running.asked.append((self.path, headers))
            route = running.routes.get(self.path, Answer(status=404))
            _send(self, route if isinstance(route, Answer) else route(headers))

        def log_message(self, *_: object) -> None:
            """Silent."""

    with _served(Server) as url:
        running = Site(url)
        yield running


@dataclass
class Store:
    """One bucket named `docs`. `pages` counts listings; `keys_per_page` makes them short."""

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    keys_per_page: int = 1000
    pages: int = 0

    def options(self) -> dict[str, dict[str, object]]:
        return {
            "s3": {
                "endpoint": self.url,
                "region": "us-east-1",
                "access_key_id": "AKIATEST",
                "secret_access_key": "not-to-be-shown",
                "retry": {"max_retries": 0},
            }
        }


@contextmanager
def s3() -> Iterator[Store]:
    """ListObjectsV2, HEAD and GET of Amazon S3, as its documentation shows them."""

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
            if bucket != "docs":
                _send(self, Answer(b"<Error><Code>NoSuchBucket</Code></Error>", 404))
            elif "list-type" in parts.query:
                _send(self, Answer(_listing(store, parse_qs(parts.query)), headers={"content-type": "application/xml"}))
            elif key not in store.objects:
                _send(self, Answer(b"<Error><Code>NoSuchKey</Code></Error>", 404))
            else:
                data = store.objects[key]
                headers = {"etag": _etag(data), "last-modified": "Sun, 01 Nov 2026 10:00:00 GMT"}
                _send(self, Answer(data, headers=headers))

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Silent."""

    with _served(Server) as url:
        store = Store(url)
        yield store


@contextmanager
def _served(server: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), server)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)


def _send(server: BaseHTTPRequestHandler, answer: Answer) -> None:
    length = len(answer.body) if answer.length is None else answer.length
    server.send_response(answer.status)
    for name, value in answer.headers.items():
        server.send_header(name, value)
    if answer.endless or answer.length is not None:
        server.close_connection = True
    if not answer.endless:
        server.send_header("content-length", str(length))
    server.end_headers()
    try:
        if server.command != "HEAD":
            server.wfile.write(answer.body)
        while answer.endless:
            time.sleep(answer.pause_s)
            server.wfile.write(answer.body)
    except OSError:  # the reader has had enough
        server.close_connection = True


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _listing(store: Store, query: dict[str, list[str]]) -> bytes:
    store.pages += 1
    prefix = query.get("prefix", [""])[0]
    after = query.get("continuation-token", query.get("start-after", [""]))[0]
    folders: dict[str, None] = {}
    keys = []
    for key in sorted(store.objects, key=str.encode):
        if key.startswith(prefix) and key > after:
            inside = key.removeprefix(prefix)
            if "delimiter" in query and "/" in inside:
                folders[prefix + inside.partition("/")[0] + "/"] = None
            else:
                keys.append(key)
    page = keys[: store.keys_per_page]
    more = len(page) < len(keys)
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-01T10:00:00.000Z</LastModified>"
        f"<ETag>{_etag(store.objects[key])}</ETag><Size>{len(store.objects[key])}</Size></Contents>"
        for key in page
    )
    entries += "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>docs</Name>'
        f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}"
        "</ListBucketResult>"
    ).encode()
