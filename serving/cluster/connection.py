"""The Kubernetes API server, spoken to by the calls that a deployment needs.

Plain paths and plain JSON, as the API has them: every kind is served by the same few calls. Foreign errors end here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serving.errors import ClusterRefused, ClusterUnavailable, FieldConflict, NotFound

Json = dict[str, Any]
Query = Mapping[str, str | int | bool]

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_JSON = "application/json"
#: Seconds for a connection, and between two bytes of an answer: webhooks may take 30 s each.
_CONNECT_S, READ_S = 10.0, 65.0
#: First wait before a call is repeated; each further one is twice as long, up to the longest.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
#: Between two tries to create what may be there by now.
_AWAY_S = 2.0
#: Background: nothing waits for a garbage collector, so that it also works where none runs.
_DELETE: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
#: How long a call that may be repeated is repeated while the server is away, as it is when a control plane is upgraded.
PATIENCE_S = 60.0
#: The server has not done it, and may soon: too many requests, and what is away behind it.
_PASSING = frozenset({429, 502, 503, 504})
#: Of a 500: webhooks and the store. An object that server-side apply cannot read is a 500 too, of reason "Unknown".
_PASSING_REASONS = frozenset({"InternalError", "ServerTimeout", "Timeout"})


@dataclass(frozen=True, slots=True)
class Answer:
    """`warnings` are the server's, meant for a person."""

    status: int
    body: Json
    warnings: tuple[str, ...] = ()


class Cluster:
    """One API server. Every method raises ClusterUnavailable, ClusterRefused (FieldConflict) or NotFound."""

    def __init__(
        self,
        api: Any,
        name: str,
        *,
        renew: Callable[[], None] = lambda: None,
        patience_s: float = PATIENCE_S,
        read_s: float = READ_S,
    ) -> None:
        self._api = api
        self._renew = renew
        self._patience_s = patience_s
        self._read_s = read_s
        self.name = name

    def get(self, path: str, query: Query | None = None, *, patience_s: float | None = None) -> Json:
        return self._patiently("GET", path, query or {}, None, _JSON, patience_s).body

    def find(self, path: str, query: Query | None = None) -> Json | None:
        """None where there is no such thing."""
        try:
            return self.get(path, query)
        except NotFound:
            return None

    def items(self, path: str, query: Query | None = None) -> list[Json]:
        """All objects of a list, page by page."""
        found: list[Json] = []
        following: dict[str, str | int | bool] = {"limit": 500, **(query or {})}
        while True:
            page = self.get(path, following)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            following["continue"] = token

    def apply(self, path: str, body: Json, query: Query) -> Answer:
        """Server-side apply: repeating it changes nothing, so a call without an answer is repeated."""
        return self._patiently("PATCH", path, query, body, APPLY, None)

    def patch(self, path: str, body: Json, query: Query | None = None) -> Json:
        """A JSON merge patch."""
        return self._patiently("PATCH", path, query or {}, body, MERGE, None).body

    def create(self, path: str, body: Json, query: Query | None = None) -> Answer:
        """Repeated only where the server says that it did nothing (429)."""
        return self._patiently("POST", path, query or {}, body, _JSON, None, passing=frozenset({429}))

    def create_once(self, path: str, body: Json, query: Query, *, patience_s: float) -> None:
        """Again, where it is not known whether it was done: under one name there is one, and it is taken for ours."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self.create(path, body, query)
                return
            except ClusterRefused as refused:
                if refused.reason != "AlreadyExists":
                    raise
                return
            except ClusterUnavailable:
                if time.monotonic() + _AWAY_S > deadline:
                    raise
                time.sleep(_AWAY_S)

    def delete(self, path: str) -> Json:
        """What it owns goes after it."""
        return self._patiently("DELETE", path, {}, _DELETE, _JSON, None).body

    def text(self, path: str, query: Query | None = None, *, silence_s: float | None = None) -> str:
        """What is no JSON: logs, metrics. Asked for once."""
        return str(self._send("GET", path, query or {}, None, _JSON, read_s=silence_s).data, "utf-8", "replace")

    def events(self, path: str, query: Query, *, silence_s: float) -> Iterator[Json]:
        """A watch's events, until the server ends it. `silence_s`: a connection that says nothing so long is dead."""
        for line in self.lines(path, {**query, "watch": True}, silence_s=silence_s):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise _Passing("A watch sent what is no JSON.") from error

    def lines(self, path: str, query: Query, *, silence_s: float) -> Iterator[bytes]:
        """Whole lines as they come, a log's for example, until the server ends them; `silence_s` as of `events`."""
        response = self._send("GET", path, query, None, _JSON, read_s=silence_s, stream=True)
        try:
            with _translated(self.name):
                yield from _lines(response)
        finally:
            response.close()
            response.release_conn()

    def _patiently(
        self,
        method: str,
        path: str,
        query: Query,
        body: Json | None,
        content: str,
        patience_s: float | None,
        *,
        passing: frozenset[int] | None = None,
    ) -> Answer:
        """`passing`: the only statuses to repeat the call after; None: all that pass, and no answer at all."""
        deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        wait, renewed = _FIRST_WAIT_S, False
        while True:
            try:
                return _answer(self._send(method, path, query, body, content))
            except _Passing as away:
                if passing is not None and away.status not in passing:
                    raise
                pause = max(away.retry_after_s, wait)
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            except ClusterRefused as refused:
                # A token may have run out while we waited; who gives them may have a new one.
                if refused.status != 401 or renewed:
                    raise
                self._renew()
                renewed = True

    def _send(
        self,
        method: str,
        path: str,
        query: Query,
        body: Json | None,
        content: str,
        *,
        read_s: float | None = None,
        stream: bool = False,
    ) -> Any:
        """The response; one that is not to be streamed has been read."""
        with _translated(self.name):
            request = self._api.param_serialize(
                method,
                path,
                query_params=[(key, _plain(value)) for key, value in query.items()],
                header_params={"Accept": f"{_JSON}, */*", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._api.call_api(*request, _request_timeout=(_CONNECT_S, read_s or self._read_s))
            if not stream or answer.status >= 300:
                answer.read()
        if answer.status >= 300:
            raise _refusal(answer, path, self.name)
        return answer.response


class _Passing(ClusterUnavailable):
    """`status` is 0 where there was no answer."""

    def __init__(self, message: str, *, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


@contextmanager
def _translated(server: str) -> Iterator[None]:
    """What the client raises without an answer, as ours."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    try:
        yield
    except ApiException as error:  # its own errors of TLS
        reason = " ".join(str(error.reason).split())
        if "certificate verify failed" not in reason:
            raise _Passing(f"The Kubernetes API server {server} cannot be reached: {reason}") from error
        raise ClusterRefused(
            f"{server} is not trusted ({reason}): the certificate authority of the kubeconfig is of another server."
        ) from error
    except ReadTimeoutError as error:
        raise _Passing(f"The Kubernetes API server {server} did not answer in time.") from error
    except (HTTPError, OSError) as error:
        raise _Passing(f"The Kubernetes API server {server} cannot be reached: {_plainly(error)}") from error


def _plainly(error: BaseException) -> str:
    """Without the addresses of Python's objects."""
    return re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?|HTTPS?Connection(Pool)?\(([^)]*)\):? ?", "", str(error)).strip()


def _answer(response: Any) -> Answer:
    try:
        body = json.loads(response.data)
    except ValueError as error:
        raise ClusterRefused("What answered is no Kubernetes API server: it did not send JSON.") from error
    warnings = [re.sub(r'^\d{3} \S+ "(.*?)"( ".*")?$', r"\1", each) for each in response.headers.getlist("Warning")]
    return Answer(
        response.status, body if isinstance(body, dict) else {}, tuple(w.replace('\\"', '"') for w in warnings)
    )


def _refusal(answer: Any, path: str, server: str) -> Exception:
    """Shaped by the server's own Status object, where it sent one."""
    try:
        told = json.loads(answer.data)
    except (ValueError, TypeError):
        told = {}
    told = told if isinstance(told, dict) else {}
    status, reason = answer.status, str(told.get("reason") or "")
    text = str(told.get("message") or answer.reason or f"status {status}")
    if status == 404:
        return NotFound(text)
    if status == 401:
        return ClusterRefused(
            f"{server} does not accept the credentials (401 {text}): they may have expired; log in to the cluster "
            "again, or choose another --context.",
            status=401,
            reason=reason,
        )
    if status == 403:
        return ClusterRefused(f"Forbidden: {text}", status=403, reason=reason)
    if status in _PASSING or (status == 500 and (reason in _PASSING_REASONS or told.get("kind") != "Status")):
        after = _seconds(answer.headers.get("Retry-After"))
        return _Passing(f"The Kubernetes API server: {status} {text}", status=status, retry_after_s=after)
    managers = _managers(told) if status == 409 else {}
    if managers:
        return FieldConflict(text, managers=managers)
    if status == 409 and "the object has been modified" in text:
        return _Passing(f"The Kubernetes API server: {text}", status=status)
    return ClusterRefused(f"{text} ({status} {reason or answer.reason} of {path})", status=status, reason=reason)


def _managers(told: Json) -> dict[str, list[str]]:
    """Of a conflict of server-side apply: who set what. `conflict with "NAME" using apps/v1: .spec.replicas`."""
    found: dict[str, list[str]] = {}
    for cause in (told.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "FieldManagerConflict":
            name = re.search(r'"([^"]*)"', str(cause.get("message", "")))
            found.setdefault(name[1] if name else "unknown", []).append(str(cause.get("field", "")))
    return found


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0


def _plain(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for piece in response.stream(amt=None, decode_content=True):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
