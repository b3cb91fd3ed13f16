"""The HTTP of the API server of the tests, and its faults."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.cluster.apiserver import PATH, Fault, Json, Refused, Server, selected


@contextmanager
def serving(state: Server) -> Iterator[Server]:
    """On a free port of loopback."""

    class Http(ThreadingHTTPServer):
        daemon_threads = True
        ended = False

    with Http(("127.0.0.1", 0), Requests) as http:
        http.state = state  # type: ignore[attr-defined]
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.ended = True
        http.shutdown()


class Requests(BaseHTTPRequestHandler):
    """HTTP/1.1 over the state in `self.server.state`."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: the second would wait for the first one's acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if "watch=true" in self.path:
            self._watch()
        else:
            self._do()

    def do_POST(self) -> None:
        self._do()

    def do_PATCH(self) -> None:
        self._do()

    def do_DELETE(self) -> None:
        self._do()

    @property
    def state(self) -> Server:
        return self.server.state  # type: ignore[attr-defined, no-any-return]

    def _do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.state.requests.append(f"{self.command} {self.path}")
        fault = self._fault()
        if fault and (fault.reset or self._refused(fault)):
            self.close_connection = True
            return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        try:
            if self.state.tokens and token not in self.state.tokens:
                raise Refused(401, "Unauthorized", "Unauthorized")
            status, answer = self.state.answer(self.command, self.path, body, self.headers.get("Content-Type", ""))
        except Refused as refused:
            status, answer = refused.code, refused.body
        if fault and fault.lost:
            self.close_connection = True
            return
        if isinstance(answer, Iterator):
            self._stream(answer)
        else:
            self._send(status, answer)

    def _stream(self, pieces: Iterator[str]) -> None:
        """As they come."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if not self._chunk(piece):
                return
        self._chunk("")

    def _fault(self) -> Fault | None:
        for fault in self.state.faults:
            if fault.times and re.search(fault.pattern, f"{self.command} {self.path}"):
                fault.times -= 1
                time.sleep(fault.delay_s)
                return fault
        return None

    def _refused(self, fault: Fault) -> bool:
        if fault.status:
            body = Refused(fault.status, fault.reason, fault.message).body
            self._send(
                fault.status, body, {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
            )
        return bool(fault.status)

    def _send(self, status: int, answer: Json | str, headers: dict[str, str] | None = None) -> None:
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        sent = dict(headers or {})
        if self.command == "PATCH" and self.state.warning:
            sent["Warning"] = f'299 - "{self.state.warning}"'
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _watch(self) -> None:
        state, query = self.state, parse_qs(urlsplit(self.path).query)
        state.requests.append(f"WATCH {self.path}")
        fault = self._fault()
        if fault and fault.status:
            self._refused(fault)
            return
        found = PATH.match(urlsplit(self.path).path)
        assert found
        kind = next(
            k
            for k, (gv, p, _) in state.kinds.items()
            if p == found["plural"] and gv == (found["core"] or found["group"])
        )
        since = int(query.get("resourceVersion", ["0"])[0])
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        gone = json.dumps({"type": "ERROR", "object": Refused(410, "Expired", "too old resource version").body})
        while True:
            if state.expire_watches or since < state.oldest:
                self._chunk(gone + "\n")
                self._chunk("")
                return
            with state.changed:
                if state.latest <= since:
                    state.changed.wait(timeout=0.2)
                fresh = [entry for entry in state.history if entry[0] > since]
            for version, event, thing in fresh:
                since = version
                where = {k: v[-1] for k, v in query.items()}
                if thing["kind"] != kind or not selected(thing, where):
                    continue
                line = json.dumps({"type": event, "object": thing}) + "\n"
                if fault and fault.reset:
                    self._chunk(line[: len(line) // 2])
                    self.close_connection = True
                    return
                if not self._chunk(line):
                    return
            if getattr(self.server, "ended", False) or not self._chunk("\n"):
                return

    def _chunk(self, text: str) -> bool:
        data = text.encode()
        try:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        except OSError:
            return False
        return True

    def log_message(self, *_: Any) -> None:
        pass
