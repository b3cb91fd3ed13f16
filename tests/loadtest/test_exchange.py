"""A request is lived as its user would: every moment of it, and all that its answer says."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import pytest

from tests.loadtest.faulty import (
    DONE,
    END,
    HEAD,
    USAGE,
    answer,
    chunk,
    close,
    event,
    faulty,
    said,
    silence,
    stream,
    text,
)
from tests.loadtest.performing import LOOSE_S, job, performed


async def test_times_are_those_of_the_server() -> None:
    """First text and every gap as the server wrote them, a long one too."""
    waits = [0.2, 0.3, 0.3, 0.6, 0.3]
    written: list[list[float]] = []

    async def timed(writer: asyncio.StreamWriter) -> None:
        moments = []
        writer.write(HEAD)
        for wait in waits:
            await asyncio.sleep(wait)
            moments.append(time.perf_counter())
            writer.write(chunk(text("word")))
        writer.write(chunk(DONE) + END)
        written.append(moments)

    async with faulty({"timed": timed}) as server:
        [records] = await performed(job(server.url("timed"), times=3, pause_s=0.0))
    for record, moments in zip(records, written, strict=True):
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        assert record["gaps_s"] == pytest.approx(gaps, abs=LOOSE_S)
        assert record["longest_gap_s"] == record["gap_p99_s"] == max(record["gaps_s"])
        assert record["longest_gap_s"] >= waits[3] - LOOSE_S
        assert record["ttft_s"] >= waits[0] - LOOSE_S
        assert record["total_s"] == pytest.approx(record["ttft_s"] + sum(record["gaps_s"]), abs=LOOSE_S)
        assert 0 <= record["dispatch_s"] < record["ttft_s"]


CUT = b"".join(map(chunk, (text("Grüße"), text(" 世界 🙂"), DONE))) + END
#: How the same three words may come: name → writes.
SHAPES = {
    "bytes": [bytes([byte]) for byte in HEAD + CUT],
    "together": [HEAD + chunk(text("Grüße") + text(" 世界 🙂") + DONE) + END],
    "crlf": [HEAD, *(chunk(one.replace(b"\n", b"\r\n")) for one in (text("Grüße"), text(" 世界 🙂"), DONE)), END],
    "comments": [
        HEAD + chunk(b": waiting\n\n:\n\nretry: 5\n\nevent: x\nid: 7\n" + text("Grüße")),
        chunk(b'data: {"choices": [{"delta":\ndata: {"content": "\xc2\xa0\xe4\xb8\x96\xe7\x95\x8c"}}]}\n\n' + DONE)
        + END,
    ],
    "no-space": [HEAD, *(chunk(one.replace(b"data: ", b"data:")) for one in (text("Grüße"), DONE)), END],
    "to-the-end": [b"HTTP/1.0 200 OK\r\n\r\n" + text("Grüße") + text(" 世界 🙂") + DONE],
    "interim": [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + HEAD + CUT],
    "escapes": [HEAD + chunk(text("a")) + chunk(text('"\\ \n\u2028')) + chunk(text('}],"x')) + chunk(DONE) + END],
    "other-fields": [
        HEAD
        + chunk(event({"role": "assistant", "content": ""}))
        + chunk(event({"content": "a"}, created=2, obfuscation="xyz"))
        + chunk(event({"content": "b", "logprobs": {"content": []}}, created=3, obfuscation="x"))
        + chunk(event({"tool_calls": []}) + event({"content": None}) + event({"content": "c"}, finish_reason="length"))
        + chunk(DONE)
        + END
    ],
    "unended": [HEAD + chunk(text("Grüße")) + chunk(b"data: [DONE]") + END],
}
PIECES = {"no-space": 1, "escapes": 3, "other-fields": 3, "unended": 1}


async def test_a_stream_is_read_whole_however_it_comes() -> None:
    """Letters cut in two, many events at once, one event in many parts, other line ends, comments, other frames."""
    replies = {name: said(*writes, then=close) for name, writes in SHAPES.items()}
    async with faulty(replies) as server:
        found = await performed(*(job(server.url(name)) for name in SHAPES))
    records = {name: record for name, [record] in zip(SHAPES, found, strict=True)}
    assert {name: record["error"] for name, record in records.items()} == dict.fromkeys(SHAPES)
    assert {name: record["pieces"] for name, record in records.items()} == {
        name: PIECES.get(name, 2) for name in SHAPES
    }
    assert records["together"]["gaps_s"] == [0]
    assert [name for name, record in records.items() if record["truncated"]] == ["other-fields"]


async def test_what_a_stream_says_is_kept() -> None:
    """Usage of any server; of ours also outcome, citations, stages, cold start and resumption."""
    passage = {"uri": "file:///pods.md", "title": "Pods", "text": "30 seconds"}
    rag = {"outcome": "answered", "cold": True, "resumed": 1, "passages": [passage]}
    cite = {"start_index": 0, "end_index": 5, "title": "Pods", "url": "file:///pods.md", "number": 1}
    ours = stream(
        event({"role": "assistant", "content": ""}, rag=rag),
        text("30 seconds"),
        event({"annotations": [{"type": "url_citation", "url_citation": cite}]}),
        event({}, finish_reason="stop", rag=rag | {"timings_ms": {"embed": 5.0, "search": 12.5}}),
        DONE,
    )
    ask = {"question": 3, "sources": ["pods.md"], "enough": 1, "answers": ["30 seconds"], "max_tokens": 9}
    async with faulty({"ours": said(ours)}) as server:
        chat = {
            "ask": ask | {"collection": "docs"},
            "target": {"plain": False, "on_cold": "wait", "api_key": "k", "ignore_eos": True},
        }
        [[record], [other]] = await performed(job(server.url("ours"), **chat), job(server.url("good"), ask=ask))
    assert record["error"] is None
    assert (record["outcome"], record["cold"], record["resumed"], record["question"]) == ("answered", True, 1, 3)
    assert record["stages_s"] == {"embed": 0.005, "search": 0.0125}
    assert (record["source_recall"], record["answer_match"]) == (1.0, True)
    assert (record["citations"], record["citations_valid"]) == (1, 1.0)
    assert (record["tokens_in"], other["tokens_in"], other["tokens_out"]) == (None, 7, 2)
    assert (other["source_recall"], other["answer_match"], other["outcome"]) == (None, False, None)
    bodies = {path.split("/")[1]: body for path, body in server.seen}
    assert bodies["ours"]["rag"] == {"collection": "docs", "on_cold": "wait"}
    assert bodies["ours"]["ignore_eos"] is True
    assert ["Authorization: Bearer k\r\n" in head for head in server.heads].count(True) == 1
    assert bodies["good"] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Why?"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_whole_answer_has_no_first_token() -> None:
    """Only its end is a moment that its user sees."""
    empty = {"choices": [{"message": {"role": "assistant", "content": None}}]}
    replies = {
        "empty-whole": said(answer("200 OK", json.dumps(empty).encode())),
        "no-choices": said(answer("200 OK", b'{"choices": []}')),
        "half": said(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"choices"', then=close),
    }
    async with faulty(replies) as server:
        found = await performed(*(job(server.url(name), ask={"task": "ask"}) for name in ("whole", *replies)))
    [[record], *rest] = found
    assert (record["error"], record["ttft_s"], record["gaps_s"], record["pieces"]) == (None, None, [], 1)
    assert (record["truncated"], record["tokens_out"]) == (True, USAGE["completion_tokens"])
    assert [failed["error"] for [failed] in rest] == ["empty", "broken_stream", "cut"]


async def test_a_conversation_is_one_record_per_turn() -> None:
    """Each turn is meant to start when the answer before it is over, and knows that answer."""
    ask = {"task": "turn", "turns": [{"task": "turn", "text": "And?"}, {"task": "turn", "text": "So?"}]}
    async with faulty() as server:
        [records, failed] = await performed(job(server.url("good"), ask=ask), job(server.url("status-500"), ask=ask))
    assert [record["error"] for record in records] == [None] * 3
    for before, after in itertools.pairwise(records):
        assert after["at_s"] == pytest.approx(before["at_s"] + before["total_s"])
    bodies = [body for path, body in server.seen if path.startswith("POST /good/")]
    assert [message["content"] for message in bodies[-1]["messages"]] == [
        *("Why?", "Hello world"),
        *("And?", "Hello world"),
        "So?",
    ]
    assert [record["error"] for record in failed] == ["http_5xx"]


async def test_searches_and_uploads() -> None:
    """A search has passages and stages; an upload is over when it can be found."""
    found = {"object": "list", "data": [{"uri": "pods.md", "title": ""}], "timings_ms": {"embed": 4}}
    states = iter(["queued", "running", "succeeded"])

    async def operation(writer: asyncio.StreamWriter) -> None:
        await said(answer("200 OK", json.dumps({"id": "op/1", "status": next(states)}).encode()))(writer)

    failed = said(answer("200 OK", b'{"id": "1", "status": "failed", "error": "no parser"}'))
    replies = {"search": said(answer("200 OK", json.dumps(found).encode())), "upload": operation, "failed": failed}
    search = {"task": "search", "sources": ["pods.md"], "enough": 1, "collection": "docs"}
    upload = {"task": "upload", "text": "Note", "uri": "loadtest:1", "title": "1", "collection": "a b"}
    ours = {"plain": False}
    async with faulty(replies) as server:
        [[searched], [uploaded], [lost]] = await performed(
            job(server.url("search"), ask=search, target=ours),
            job(server.url("upload"), ask=upload, target=ours),
            job(server.url("failed"), ask=upload, target=ours),
        )
    assert (searched["error"], searched["source_recall"], searched["stages_s"]) == (None, 1.0, {"embed": 0.004})
    assert (uploaded["error"], uploaded["ttft_s"]) == (None, None)
    assert (lost["error"], "no parser" in lost["message"]) == ("error_event", True)
    paths = [path for path, _ in server.seen if "/upload/" in path]
    look = "GET /upload/v1/operations/op%2F1"
    assert paths == ["POST /upload/v1/collections/a%20b/documents?wait=true", look, look]


async def test_a_kill_leaves_a_record_and_goes_on() -> None:
    """What was under way at the end of a run is `unfinished`, with what it had by then."""
    half = said(HEAD + chunk(text("Hello")), then=silence)
    async with faulty({"half": half}) as server:
        [records] = await performed(job(server.url("half"), times=3, kill_s=0.7, ask={"task": "turn", "turns": [{}]}))
    assert [record["error"] for record in records] == ["unfinished"] * 3
    assert all(record["pieces"] <= 1 for record in records)
