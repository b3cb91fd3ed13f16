"""One request as its user lived it: from an `Ask` to a `Record`. Runs in locust's process, on gevent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from loadtest.connection import Connections, pause
from loadtest.failures import Failure, shortened
from loadtest.lived import Lived, mapping
from loadtest.record import Record
from loadtest.reply import Streamed, Whole
from loadtest.target import Target
from loadtest.transfer import Clock
from loadtest.workload import Ask
from serving.errors import ConfigurationError, Unavailable

_CHAT = "/v1/chat/completions"
#: Between two looks at an upload that the server does not wait for any longer.
_POLL_S = 0.25
_READY_POLL_S = 0.5
#: Nobody needs to know them so much that a load has to wait any longer.
_FACTS_S = 10.0
_MOST_MODELS = 10


class Exchange:
    """With one target: all users of a process share it, and its connections. Nothing here limits how many wait."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._connections = Connections(target)
        key = f"Authorization: Bearer {target.api_key}\r\n" if target.api_key else ""
        self._headers = f"Host: {target.authority}\r\nUser-Agent: anchorage-loadtest\r\n{key}"

    def perform(self, ask: Ask, at_s: float, clock: Clock) -> Iterator[Record]:
        """One record per request, when it is over; of a conversation, one per turn.

        A later turn is meant to start when the answer before it is over; the first that fails is the last.
        `at_s`: the intended start, on `clock`, which says seconds since the start of the run. What server and network
        do is in the records, never raised. A greenlet that is killed gets the record of what was under way
        (`unfinished`); asked for another one, this raises GreenletExit again. So loop over it, and keep each at once.
        """
        if ask.task in ("stream", "ask", "turn"):
            yield from self._conversation(ask, at_s, clock)
            return
        lived = Lived(ask, at_s, clock, self.target.limits.timeout_s)
        with lived:
            if ask.task == "search":
                self._search(lived)
            else:
                self._upload(lived)
        yield from lived.records()

    def wait_ready(self, ready_s: float) -> None:
        """Until the target can answer. Raises Unavailable when it cannot in time, ConfigurationError if it never will.

        Ours says so at /readyz; of others it is enough that they list their models.
        """
        path = "/v1/models" if self.target.plain else "/readyz"
        until = time.perf_counter() + ready_s
        while True:
            try:
                self._got(path, time.perf_counter, max(until, time.perf_counter() + _READY_POLL_S))
            except Failure as failure:
                if failure.kind == "http_4xx":
                    raise ConfigurationError(
                        f"{self.target.url}{path} says {failure}. Is it the right URL and key? "
                        "Somebody else's server is tested with --plain."
                    ) from failure
                if time.perf_counter() + _READY_POLL_S > until:
                    raise Unavailable(
                        f"{self.target.url} was not ready within {ready_s:g} s: {failure.kind}: {failure}"
                    ) from failure
            else:
                return
            pause(_READY_POLL_S)

    def choose_model(self) -> str:
        """The target's, or the first that the server lists. Raises Unavailable, ConfigurationError."""
        if not self.target.model:
            try:
                until = time.perf_counter() + self.target.limits.timeout_s
                reply = self._got("/v1/models", time.perf_counter, until)
            except Failure as failure:
                raise Unavailable(f"{self.target.url} does not list its models: {failure.kind}: {failure}") from failure
            names = _models(reply.data)
            if not names:
                raise ConfigurationError(f"{self.target.url} lists no model: name one with --model")
            self.target = dataclasses.replace(self.target, model=names[0])
        return self.target.model

    def said(self) -> dict[str, str]:
        """What the target says of itself, for people: its models, and of ours the parts. Without what does not come."""
        found: dict[str, str] = {}
        paths = ("/v1/models",) if self.target.plain else ("/v1/models", "/readyz")
        for path in paths:
            try:
                data = self._got(path, time.perf_counter, time.perf_counter() + _FACTS_S).data
            except Failure:
                continue
            if names := _models(data):
                found["models"] = ", ".join(names[:_MOST_MODELS]) + (", …" if len(names) > _MOST_MODELS else "")
            if parts := data.get("parts"):
                found["parts"] = ", ".join(_part(name, state) for name, state in mapping(parts).items())
        return found

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        self._connections.close()

    def _conversation(self, ask: Ask, at_s: float, clock: Clock) -> Iterator[Record]:
        messages = ask.messages(plain=self.target.plain)
        for turn in (ask, *ask.turns):
            if turn is not ask:
                messages = [*messages, {"role": "user", "content": turn.text}]
            lived = Lived(turn, at_s, clock, self.target.limits.timeout_s)
            lived.record.cold_collection = ask.cold_collection
            with lived:
                self._answer(lived, messages, ask.collection)
            yield from lived.records()
            if lived.record.error is not None:
                return
            messages = [*messages, {"role": "assistant", "content": lived.text}]
            at_s = lived.record.at_s + lived.record.total_s

    def _answer(self, lived: Lived, messages: Sequence[Mapping[str, str]], collection: str | None) -> None:
        """Raises Failure."""
        reply = Whole() if lived.ask.task == "ask" else Streamed()
        request = self._post(_CHAT, self._chat(lived.ask, messages, collection, streams=isinstance(reply, Streamed)))
        lived.begin(reply)
        self._connections.send(request, reply, lived.clock, lived.until)
        lived.read(reply)

    def _chat(
        self, ask: Ask, messages: Sequence[Mapping[str, str]], collection: str | None, *, streams: bool
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.target.model, "messages": messages}
        if ask.max_tokens is not None:
            body["max_tokens"] = ask.max_tokens
        if self.target.ignore_eos:
            body["ignore_eos"] = True
        if streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        rag = {"collection": collection, "on_cold": self.target.on_cold}
        if not self.target.plain and (known := {name: value for name, value in rag.items() if value}):
            body["rag"] = known
        return body

    def _search(self, lived: Lived) -> None:
        """Raises Failure."""
        ask, reply = lived.ask, Whole()
        request = self._post(
            "/v1/search", {"query": ask.text} | ({"collection": ask.collection} if ask.collection else {})
        )
        lived.begin(reply)
        self._connections.send(request, reply, lived.clock, lived.until)
        lived.found(reply)

    def _upload(self, lived: Lived) -> None:
        """Until it can be found: a server that answers before is asked until it says so. Raises Failure."""
        ask, reply = lived.ask, Whole()
        document = {"uri": ask.uri, "title": ask.title, "text": ask.text}
        path = f"/v1/collections/{quote(ask.collection or 'default', safe='')}/documents?wait=true"
        # Or a silence that is only patience would count as one of the server's.
        patience = f"X-Request-Timeout-Seconds: {self.target.limits.stall_s / 2:.3f}\r\n"
        request = self._post(path, {"documents": [document]}, patience)
        lived.begin(reply)
        self._connections.send(request, reply, lived.clock, lived.until)
        while reply.data.get("status") in ("queued", "running"):
            lived.reply = None  # what goes wrong from here on came after it
            pause(_POLL_S)
            path = f"/v1/operations/{quote(str(reply.data.get('id')), safe='')}"
            reply = lived.reply = self._got(path, lived.clock, lived.until)
        if reply.data.get("status") != "succeeded":
            raise Failure("error_event", f"the upload: {reply.data.get('error') or reply.data.get('status')}")

    def _got(self, path: str, clock: Clock, until: float) -> Whole:
        """Raises Failure."""
        reply = Whole()
        request = f"GET {self.target.prefix}{path} HTTP/1.1\r\n{self._headers}Accept: application/json\r\n\r\n"
        self._connections.send(request.encode(), reply, clock, until)
        return reply

    def _post(self, path: str, body: Mapping[str, Any], header: str = "") -> bytes:
        data = orjson.dumps(body)
        head = (
            f"POST {self.target.prefix}{path} HTTP/1.1\r\n{self._headers}{header}Content-Type: application/json\r\n"
            f"Accept: {'text/event-stream' if body.get('stream') else 'application/json'}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


def _models(data: Mapping[str, Any]) -> list[str]:
    """The names in a list of models; none in anything else."""
    listed = data.get("data")
    return (
        [str(one["id"]) for one in listed if isinstance(one, dict) and "id" in one] if isinstance(listed, list) else []
    )


def _part(name: str, state: Any) -> str:
    said = mapping(state)
    return f"{name} ready" if said.get("ready") else shortened(f"{name} not ready: {said.get('reason') or 'no reason'}")
