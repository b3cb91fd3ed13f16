"""Events are the same however their bytes were cut, and no shortcut reads another text than a JSON parser would."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.failures import Broken, Failure
from loadtest.reply import Streamed
from loadtest.sse import MAX_EVENT_BYTES, Events, data_of

#: What lines of a stream can be made of: much of it means something to a splitter.
LINE_ENDS = [b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\r\r", b"\n\r"]
FIELDS = [b"data:", b"data: ", b"data", b"event: x", b": ", b"id", b"dat", b"a: "]
PARTS = st.sampled_from([*LINE_ENDS, *FIELDS, b"x", b" ", b"\xc3", b"\xa9", b'{"a": 1}', b"[DONE]"])
STREAMS = st.lists(PARTS, max_size=40).map(b"".join)


def slow(data: bytes) -> list[bytes]:
    """The standard's own words, line by line: what ends with an empty line is an event."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    found: list[bytes] = []
    values: list[bytes] = []
    for line in lines:
        field, _, value = line.partition(b":")
        if line and field == b"data":
            values.append(value.removeprefix(b" "))
        elif not line and values:
            found.append(b"\n".join(values))
            values = []
    return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


@given(STREAMS, st.lists(st.integers(0, 500), max_size=12))
def test_any_cut_gives_the_same_events(data: bytes, places: list[int]) -> None:
    """Also in the middle of a line end or a letter."""
    events = Events()
    blocks = [block for piece in cut(data, places) for block in events.feed(piece)]
    assert [found for block in blocks if (found := data_of(block)) is not None] == slow(data)


def test_an_event_that_never_ends_is_given_up() -> None:
    """Memory is bounded."""
    events = Events()
    for _ in range(MAX_EVENT_BYTES // 2**16):
        events.feed(b"x" * 2**16)
    with pytest.raises(Broken, match="8 MiB"):
        events.feed(b"x")


def chat(delta: dict[str, Any], *, dumped: bool, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
    data = {"id": "1", "created": more.pop("created", 1), "choices": [choice], **more}
    return b"data: " + json.dumps(data, ensure_ascii=dumped, separators=(",", ":")).encode() + b"\n\n"


TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", '","x":"', '"}}]}', "\u2028", "", "1", "null", "\u2400 text"])
EVENTS = st.builds(
    chat,
    st.fixed_dictionaries({"content": TEXTS})
    | st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS | st.none()})
    | st.fixed_dictionaries({"tool_calls": st.just([{"content": "no text"}])}),
    dumped=st.booleans(),
    created=st.sampled_from([1, 1, 1, 2]),
    content=st.sampled_from(["x", "", '"content":"no text"']),
    finish_reason=st.sampled_from([None, None, None, "stop", "length"]),
)


@given(st.lists(EVENTS, max_size=20), st.lists(st.integers(0, 3000), max_size=5))
def test_every_text_is_the_one_that_was_sent(events: list[bytes], places: list[int]) -> None:
    """Most events are not parsed; what they say is the same."""
    said = [json.loads(event[6:])["choices"][0] for event in events]
    reply = Streamed()
    reply.head(200, None, 0.0)
    for moment, piece in enumerate(cut(b"".join(events) + b"data: [DONE]\n\n", places)):
        reply.body(piece, float(moment))
    reply.close(99.0)
    assert reply.texts == [text for choice in said if (text := choice["delta"].get("content"))]
    assert reply.settled
    assert len(reply.gaps_s) == max(0, len(reply.texts) - 1)
    assert reply.finish_reason == next((reason for c in reversed(said) if (reason := c["finish_reason"])), None)


def test_most_events_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of a hundred alike is."""
    parsed: list[bytes] = []
    whole = Streamed._parsed

    def counted(self: Streamed, block: bytes, now: float) -> str:
        parsed.append(block)
        return whole(self, block, now)

    monkeypatch.setattr(Streamed, "_parsed", counted)
    reply = Streamed()
    for number in range(100):
        reply.body(chat({"content": f' w"{number}'}, dumped=True), float(number))
    assert reply.texts == [f' w"{number}' for number in range(100)]
    assert len(parsed) == 1


def kind_of(data: bytes) -> str | None:
    """None: it is an answer, or could become one."""
    reply = Streamed()
    try:
        reply.body(data, 0.0)
        reply.close(1.0)
    except Failure as failure:
        return failure.kind
    return None


@given(st.binary(max_size=200))
def test_nothing_that_comes_is_a_surprise(data: bytes) -> None:
    """Any bytes at all are a failure with a kind, if they are no answer."""
    for framed in (data, b"data: " + data + b"\n\n", b'data: {"choices": [' + data + b"]}\n\n"):
        assert kind_of(framed) in (None, "broken_stream", "cut", "error_event")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["x", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "usage", "rag", "error", "finish_reason", "annotations"]),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON)
def test_no_json_is_a_surprise(data: Any) -> None:
    """Whatever its shape."""
    body = b"data: " + json.dumps(data).encode() + b"\n\ndata: [DONE]\n\n"
    assert kind_of(body) in (None, "broken_stream", "error_event")
