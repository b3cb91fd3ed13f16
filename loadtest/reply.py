"""What came back, read as it comes: a whole answer, or one that streams.

The bytes are given with the moment of their arrival. Nothing here waits, or knows the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from loadtest.failures import Broken, Failure, shortened
from loadtest.record import http_kind
from loadtest.sse import Events, data_of

#: An answer may be so long, and of an error so much is read.
MAX_BODY_BYTES = 64 * 2**20
_MAX_ERROR_BYTES = 64 * 2**10

_START_BYTES = 120
_END = b"[DONE]"
_FIELD = b"data: "
_CONTENT = re.compile(rb'"content":\s*("(?:[^"\\]|\\.)*")')
_HOLE = "\u2400 text"
#: So often a stream's events may have another frame before nobody looks for one any more.
_FRAMES = 4


class Reply:
    """A response. `settled`: what its user waited for is there, though the connection may have more to say.

    `ended`: when that was.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.retry_after_s: float | None = None
        self.settled = False
        self.ended: float | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def head(self, status: int, retry_after: str | None, now: float) -> None:
        """The response begins. From 300 on only its message is of interest: redirects are not followed."""
        self.status = status
        if status >= 300:
            self.retry_after_s = _seconds(retry_after)
            self._end(now)

    def body(self, data: bytes, now: float) -> None:
        """Part of it, without HTTP's framing. Raises Failure."""
        self._size += len(data)
        if self.status is not None and self.status >= 300:
            if self._size <= _MAX_ERROR_BYTES:
                self._parts.append(data)
            return
        if self._size > MAX_BODY_BYTES:
            raise Broken(f"an answer of more than {MAX_BODY_BYTES >> 20} MiB")
        self._read(data, now)

    def close(self, now: float) -> None:
        """HTTP says that it is whole. Raises Failure for one that is none."""
        if self.status is not None and self.status >= 300:
            return
        self._closed()
        self._end(now)

    def refused(self) -> Failure | None:
        """What an error status is."""
        if self.status is None or self.status < 300:
            return None
        said = _error_message(b"".join(self._parts))
        if self.status < 400:
            said = "redirects are not followed"
        return Failure(http_kind(self.status), f"HTTP {self.status}: {said}" if said else f"HTTP {self.status}")

    def _end(self, now: float) -> None:
        self.settled = True
        self.ended = now

    def _read(self, data: bytes, now: float) -> None:
        raise NotImplementedError

    def _closed(self) -> None:
        raise NotImplementedError


class Whole(Reply):
    """One JSON object. `data` is it, once it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.data: dict[str, Any] = {}

    def _read(self, data: bytes, now: float) -> None:
        self._parts.append(data)

    def _closed(self) -> None:
        self.data = _object(b"".join(self._parts))
        _raise_error(self.data)


class Streamed(Reply):
    """The events of a chat completion.

    `first` is when the first text came, `gaps_s` the times from each piece of text to the next. Pieces that one read of
    the connection brought came together: a gap of 0 is what their reader saw.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: float | None = None
        self.gaps_s: list[float] = []
        self.texts: list[str] = []
        self.finish_reason: str | None = None
        self.usage: Mapping[str, Any] = {}
        self.rag: Mapping[str, Any] = {}
        self.annotations: list[Any] = []
        self._last = 0.0
        self._start = b""
        self._seen = False
        self._events = Events()
        self._frame = _Frame()

    def _read(self, data: bytes, now: float) -> None:
        if self.settled:
            return
        self._start = self._start or data[:_START_BYTES]
        frame = self._frame
        for block in self._events.feed(data):
            text = None
            if block.startswith(frame.head) and block.endswith(frame.tail):
                try:
                    text = orjson.loads(block[frame.start : frame.stop])
                except orjson.JSONDecodeError:
                    text = None
            if type(text) is not str:
                text = self._parsed(block, now)
                if self.settled:
                    return
            if text:
                if self.first is None:
                    self.first = now
                else:
                    self.gaps_s.append(now - self._last)
                self._last = now
                self.texts.append(text)

    def _parsed(self, block: bytes, now: float) -> str:
        """The text of any event. What else it says is kept."""
        payload = data_of(block)
        if payload is None:
            return ""
        self._seen = True
        if payload.strip() == _END:
            self._end(now)
            return ""
        data = _object(payload)
        _raise_error(data)
        if usage := data.get("usage"):
            self.usage = _mapping(usage)
        if rag := data.get("rag"):
            self.rag = _mapping(rag)
        texts = [self._choice(_mapping(choice)) for choice in _sequence(data.get("choices") or [])]
        text = "".join(texts)
        if text and len(texts) == 1:
            self._frame.learn(block, data)
        return text

    def _choice(self, choice: Mapping[str, Any]) -> str:
        if reason := choice.get("finish_reason"):
            self.finish_reason = str(reason)
        delta = _mapping(choice.get("delta") or {})
        if annotations := delta.get("annotations"):
            self.annotations += _sequence(annotations)
        return _text(delta.get("content"))

    def _closed(self) -> None:
        if self.settled or (data_of(self._events.end()) or b"").strip() == _END:
            return
        if not self._seen:
            raise Broken(f"no server-sent events: {_start(self._start)}" if self._start else "a stream without a byte")
        raise Failure("cut", "the stream ended without [DONE]")


class _Frame:
    """What all the events of a stream have around their text, so that most need not be parsed.

    A block that begins with `head`, ends with `tail`, and has a JSON string between, from `start` to `stop`, says the
    same as the one that they were learned from, but for the text. That one said nothing else worth to know.
    """

    def __init__(self) -> None:
        self.head = b"\0"  # which no event begins with
        self.tail = b""
        self.start = 0
        self.stop = 0
        self._learned = 0

    def learn(self, block: bytes, data: dict[str, Any]) -> None:
        """Of an event that is `data`, with one choice and a text."""
        found = _CONTENT.search(block)
        if self._learned >= _FRAMES or found is None or not block.startswith(_FIELD) or b"\n" in block:
            return
        self._learned += 1
        choice = data["choices"][0]
        if choice.get("finish_reason") or data.get("usage") or data.get("rag"):
            return
        if choice["delta"].keys() - {"role", "content"}:
            return
        head, tail = block[: found.start(1)], block[found.end(1) :]
        choice["delta"]["content"] = _HOLE
        if orjson.loads(head[len(_FIELD) :] + orjson.dumps(_HOLE) + tail) == data:
            self.head, self.tail, self.start, self.stop = head, tail, len(head), -len(tail)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Broken(f"no JSON ({error}): {_start(body)}") from None
    if not isinstance(data, dict):
        raise Broken(f"no JSON object: {_start(body)}")
    return data


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Broken(f"an object was expected, not {str(value)[:80]!r}")
    return value


def _sequence(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Broken(f"a list was expected, not {str(value)[:80]!r}")
    return value


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise Broken(f"a text was expected, not {str(value)[:80]!r}")


def _raise_error(data: Mapping[str, Any]) -> None:
    """OpenAI's shape and vLLM's older one (`"object": "error"`)."""
    if data.get("error") or data.get("object") == "error":
        raise Failure("error_event", _message(data) or "an error without a message")


def _error_message(body: bytes) -> str:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _start(body)
    return _message(data) if isinstance(data, dict) else _start(body)


def _message(data: Mapping[str, Any]) -> str:
    """OpenAI's shape, others' `{"error": "…"}`, `{"message": "…"}` and FastAPI's `{"detail": …}`."""
    error = data.get("error") or data
    if not isinstance(error, dict):
        return shortened(str(error))
    code, message = error.get("code"), error.get("message") or error.get("detail") or ""
    return shortened(f"{code}: {message}" if code and not isinstance(code, int) else str(message))


def _start(body: bytes) -> str:
    return shortened(body[:_START_BYTES].decode("utf-8", "replace"))


def _seconds(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3); None for anything else."""
    if value is None:
        return None
    try:
        if value.strip().isdecimal():
            return float(int(value))
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
