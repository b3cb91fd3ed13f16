"""The guard's HTTP: /metrics, /healthz, /llm."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving.cluster.guard_metrics import METRICS_TYPE
from serving.cluster.guard_watch import Guard
from serving.errors import ConfigurationError

#: Who says or takes nothing for so long is hung up on: each client holds a thread.
_STALLED_S = 10.0


@contextmanager
def serving(guard: Guard, host: str, port: int, *, stalled_s: float = _STALLED_S) -> Iterator[int]:
    """The port. Raises ConfigurationError for one that is taken."""

    class Requests(BaseHTTPRequestHandler):
        timeout = stalled_s

        def do_GET(self) -> None:
            status, kind, body = _answer(guard, self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every second: they are not worth a line."""

    class Http(ThreadingHTTPServer):
        daemon_threads = True

    try:
        http = Http((host, port), Requests)
    except OSError as error:
        raise ConfigurationError(f"{host}:{port} cannot be listened on: {error.strerror}.") from error
    with http:
        threading.Thread(target=http.serve_forever, name="http", daemon=True).start()
        try:
            yield http.server_port
        finally:
            http.shutdown()


def _answer(guard: Guard, path: str) -> tuple[int, str, bytes]:
    """(status, content type, body)"""
    if path == "/metrics":
        return 200, METRICS_TYPE, guard.metrics.render()
    if path == "/healthz":
        return 200, "text/plain", b"ok\n"
    if path == "/llm":
        told = guard.llm()
        if told is None:
            return 503, "application/json", b'{"error": "the pods have not been listed yet"}\n'
        return 200, "application/json", json.dumps(told).encode() + b"\n"
    return 404, "text/plain", b"there are /metrics, /healthz and /llm\n"
