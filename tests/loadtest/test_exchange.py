"""A request is lived as its user would, and whatever goes wrong is told apart."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.target import Target
from serving.errors import ConfigurationError
from tests.loadtest.faulty import (
    DONE,
    END,
    FAULTS,
    GOOD,
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

LIMITS = {"connect_s": 2.0, "stall_s": 1.0, "timeout_s": 3.0}
#: For a whole process, started on a busy machine.
PATIENCE_S = 60.0
#: How wrong a time may be on a machine that does other things, seconds.
LOOSE_S = 0.05


def job(url: str, **more: Any) -> dict[str, Any]:
    target = {"url": url, "model": "m", "plain": True} | more.pop("target", {})
    whole = {"target": target, "limits": LIMITS, "ask": {}, "times": 1, "kill_s": None, "pause_s": None}
    whole["ready_s"] = None
    return whole | more


async def performed(*jobs: dict[str, Any], **environment: str) -> list[list[dict[str, Any]]]:
    """The records of each job, from a process on gevent as locust's is."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.loadtest.asker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate(json.dumps(jobs).encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    found: list[list[dict[str, Any]]] = json.loads(out)
    return found


async def one(record_of: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Its only record."""
    [[record]] = await performed(record_of, **environment)
    return record


def asked(name: str) -> dict[str, Any]:
    return {"task": "ask"} if name == "whole" else {}


async def test_every_fault_is_told_apart() -> None:
    """Three requests of each kind, all at the same time: each is counted as what it was, and none waits for another."""
    async with faulty() as server:
        found = await performed(*(job(server.url(name), times=3, ask=asked(name)) for name in FAULTS))
    kinds = {name: Counter(record["error"] for record in records) for name, records in zip(FAULTS, found, strict=True)}
    assert kinds == {name: {kind: 3} for name, (_, kind) in FAULTS.items()}
    records = {name: records[0] for name, records in zip(FAULTS, found, strict=True)}
    assert (records["status-429"]["retry_after_s"], records["status-503"]["retry_after_s"]) == (7, 2)
    assert (records["status-429"]["status"], records["reset"]["status"]) == (429, None)
    assert "overloaded: said so" in records["status-429"]["message"]
    assert "llm_failed: said so" in records["error-event"]["message"]
    assert records["reset-in-stream"]["pieces"] == 1
    assert records["reset-in-stream"]["ttft_s"] <= records["reset-in-stream"]["total_s"]
    assert all(record["total_s"] < PATIENCE_S / 2 for record in records.values())


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that refuses."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def full() -> Iterator[int]:
    """A port that takes no more connections and says nothing: its queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
        for one in waiting:
            one.close()


async def test_servers_that_cannot_be_reached_are_told_apart(nobody: int, full: int) -> None:
    """Nobody listens, nobody answers, no such host, no way there, no TLS, and a server that never reads."""
    async with faulty() as server:
        found = await performed(
            job(f"http://127.0.0.1:{nobody}"),
            job(f"http://127.0.0.1:{full}"),
            job("http://no-such-host.invalid"),
            job("http://[fe80::1]:9"),
            job(server.url("good").replace("http:", "https:")),
            job(server.url("deaf"), ask={"text": "x" * 2**24}),
        )
    kinds = [record["error"] for [record] in found]
    assert kinds == ["refused", "connect_timeout", "unreachable", "unreachable", "tls", "stalled"]


async def test_proxies_of_the_environment_are_not_used(nobody: int) -> None:
    """What is measured is the server that was named."""
    proxy = f"http://127.0.0.1:{nobody}"
    async with faulty() as server:
        record = await one(job(server.url("good")), http_proxy=proxy, HTTP_PROXY=proxy, ALL_PROXY=proxy)
    assert record["error"] is None


async def test_times_are_those_of_the_server() -> None:
    """First text and every gap as the server wrote them, a long one too."""
    waits = [0.2, 0.05, 0.05, 0.6, 0.05]
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
        chat = {"ask": ask | {"collection": "docs"}, "target": {"plain": False, "on_cold": "wait", "api_key": "k"}}
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


async def test_a_target_is_waited_for_and_asked_for_its_model(nobody: int) -> None:
    """Ours and others; what is no such server, or never comes, is said at once or in time."""
    looks = itertools.count()

    async def starts(writer: asyncio.StreamWriter) -> None:
        """Not ready, then ready, then its models, then an answer."""
        replies = [FAULTS["status-503"][0], said(answer("200 OK", b"{}")), models, said(stream(*GOOD))]
        await replies[next(looks)](writer)

    models = said(answer("200 OK", b'{"object": "list", "data": [{"id": "first"}, {"id": "second"}]}'))
    none = said(answer("200 OK", b'{"object": "list", "data": []}'))
    async with faulty({"starts": starts, "none": none}) as server:
        ours = {"plain": False, "model": ""}
        [[answered], [empty], [other], [never]] = await performed(
            job(server.url("starts"), target=ours, ready_s=20),
            job(server.url("none"), target=ours, ready_s=20),
            job(server.url("status-400"), target=ours, ready_s=20),
            job(f"http://127.0.0.1:{nobody}", ready_s=0.6),
        )
    assert answered["error"] is None
    assert [body["model"] for path, body in server.seen if path == "POST /starts/v1/chat/completions"] == ["first"]
    assert (empty["raised"], other["raised"], never["raised"]) == (*["ConfigurationError"] * 2, "Unavailable")
    assert "--model" in empty["message"]
    assert "--plain" in other["message"]
    assert "refused" in never["message"]


@pytest.mark.parametrize(
    "wrong",
    [{"url": url} for url in ("localhost:8000", "ftp://x", "http://", "http://u:p@x", "http://x/?a=1", "http://x:y")]
    + [{"url": "http://x y"}, {"url": "http://ü"}, {"url": "http://x", "api_key": "a\r\nb: c"}],
)
def test_a_target_that_cannot_be_one_is_refused(wrong: dict[str, str]) -> None:
    """Before anything is asked, and without showing the key."""
    with pytest.raises(ConfigurationError) as refused:
        Target(**wrong)
    assert "a\r\nb" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://x:1", "http://x:1/", "http://x:1/v1", "http://x:1/v1/"])
def test_the_url_of_an_api_is_that_of_its_server(url: str) -> None:
    """People give either."""
    target = Target(url, api_key="secret")
    assert (target.prefix, target.authority, target.port) == ("", "x:1", 1)
    assert "secret" not in repr(target)
    assert Target("https://[::1]/a/v1").prefix == "/a"


async def test_connections_are_kept() -> None:
    """One after the other, requests share a connection; at the same time, each has its own."""
    async with faulty() as server:
        [after] = await performed(job(server.url("good"), times=5, pause_s=0.01))
        shared = server.accepted
        [together] = await performed(job(server.url("good"), times=50))
    assert [record["error"] for record in after + together] == [None] * 55
    assert shared == 1
    assert server.accepted > 10


async def test_a_connection_that_was_closed_meanwhile_is_no_error() -> None:
    """Closed while nobody asked, or in the moment of asking: the request is sent on a new one, as any client does."""
    known: set[asyncio.StreamWriter] = set()

    async def closes(writer: asyncio.StreamWriter) -> None:
        """After every answer."""
        await said(stream(*GOOD), then=close)(writer)

    async def hangs_up(writer: asyncio.StreamWriter) -> None:
        """On the second request of a connection, without an answer."""
        await (close if writer in known else said(stream(*GOOD)))(writer)
        known.add(writer)

    async with faulty({"closes": closes, "hangs-up": hangs_up, "gone": close}) as server:
        closed, hung, [gone] = await performed(
            job(server.url("closes"), times=4, pause_s=0.05),
            job(server.url("hangs-up"), times=4, pause_s=0.05),
            job(server.url("gone")),
        )
    assert [record["error"] for record in closed + hung] == [None] * 8
    assert sum(path.startswith("POST /hangs-up/") for path, _ in server.seen) == 7
    assert gone["error"] == "cut"
    assert sum(path.startswith("POST /gone/") for path, _ in server.seen) == 1


async def test_a_kill_leaves_a_record_and_goes_on() -> None:
    """What was under way at the end of a run is `unfinished`, with what it had by then."""
    half = said(HEAD + chunk(text("Hello")), then=silence)
    async with faulty({"half": half}) as server:
        [records] = await performed(job(server.url("half"), times=3, kill_s=0.7, ask={"task": "turn", "turns": [{}]}))
    assert [record["error"] for record in records] == ["unfinished"] * 3
    assert all(record["pieces"] <= 1 for record in records)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-out", str(paths[0]), "-keyout", str(paths[1])]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return paths


async def test_tls(certificate: tuple[Path, Path]) -> None:
    """The same over TLS, where the authority is known; an error of its own where it is not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    large = said(stream(*[text("x" * 5000)] * 50, DONE))
    async with faulty({"large": large}, tls=context) as server:
        known = {"SSL_CERT_FILE": str(certificate[0])}
        jobs = [job(server.url(name), times=3, pause_s=0.0) for name in ("good", "large", "timed")]
        found = await performed(*jobs, **known)
        stranger = await one(job(server.url("good")))
    assert [record["error"] for records in found for record in records] == [None] * 9
    assert [record["pieces"] for records in found[1:] for record in records] == [50] * 3 + [5] * 3
    assert stranger["error"] == "tls"
