"""Whatever goes wrong is told apart, ends in time, and is nobody else's business."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.target import Target
from serving.errors import ConfigurationError
from tests.loadtest.faulty import (
    DONE,
    FAULTS,
    GOOD,
    answer,
    close,
    faulty,
    reset,
    said,
    silence,
    stream,
    text,
)
from tests.loadtest.performing import PATIENCE_S, job, one, performed

#: What a kind of failure is told by; a server's drops come 0.1 s apart.
LIMITS = {"stalled": {"stall_s": 1.0}, "timeout": {"stall_s": 2.0, "timeout_s": 3.0}}


def fault(url: str, name: str) -> dict[str, Any]:
    ask = {"task": "ask"} if name == "whole" else {}
    return job(url, times=3, ask=ask, limits=LIMITS.get(FAULTS[name][1] or "", {}))


async def test_every_fault_is_told_apart() -> None:
    """Three requests of each kind, all at the same time: each is counted as what it was, and none waits for another."""
    async with faulty() as server:
        found = await performed(*(fault(server.url(name), name) for name in FAULTS))
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
            job(f"http://127.0.0.1:{full}", limits={"connect_s": 2.0}),
            job("http://no-such-host.invalid"),
            job("http://[fe80::1]:9"),
            job(server.url("good").replace("http:", "https:")),
            job(server.url("deaf"), ask={"text": "x" * 2**24}, limits=LIMITS["stalled"]),
        )
    kinds = [record["error"] for [record] in found]
    assert kinds == ["refused", "connect_timeout", "unreachable", "unreachable", "tls", "stalled"]


async def test_a_client_that_was_late_does_not_blame_the_server() -> None:
    """What came while nobody looked was no silence, and its end was in time."""
    limits = {"stall_s": 1.0, "timeout_s": 3.0}
    async with faulty() as server:
        [records] = await performed(job(server.url("timed"), times=20, freeze_s=1.5, limits=limits))
        [late] = await performed(job(server.url("timed"), times=20, freeze_s=3.5, limits=limits))
    assert [record["error"] for record in records + late] == [None] * 40


async def test_proxies_of_the_environment_are_not_used(nobody: int) -> None:
    """What is measured is the server that was named."""
    proxy = f"http://127.0.0.1:{nobody}"
    async with faulty() as server:
        record = await one(job(server.url("good")), http_proxy=proxy, HTTP_PROXY=proxy, ALL_PROXY=proxy)
    assert record["error"] is None


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


async def test_a_connection_that_breaks_over_a_request_is_an_error() -> None:
    """A server that dies while it thinks is not asked again on the sly, though its connection was an old one."""
    known: set[asyncio.StreamWriter] = set()

    async def dies(writer: asyncio.StreamWriter) -> None:
        """Over the second request of a connection."""
        if writer in known:
            await asyncio.sleep(0.7)
        await (reset if writer in known else said(stream(*GOOD)))(writer)
        known.add(writer)

    async with faulty({"dies": dies}) as server:
        [records] = await performed(job(server.url("dies"), times=3, pause_s=0.01))
    assert [record["error"] for record in records] == [None, "reset", None]
    assert records[1]["total_s"] > 0.7
    assert len(server.seen) == 3


async def test_an_upload_lasts_until_it_failed() -> None:
    """Not until the server last said that it is not done yet."""

    async def queues(writer: asyncio.StreamWriter) -> None:
        await said(answer("202 Accepted", b'{"status": "queued", "id": "x"}'))(writer)
        await silence(writer)

    upload = {"task": "upload", "collection": "c"}
    async with faulty({"queues": queues}) as server:
        [stalled], [killed] = await performed(
            job(server.url("queues"), ask=upload, limits=LIMITS["stalled"]),
            job(server.url("queues"), ask=upload, kill_s=0.2),
        )
    assert (stalled["error"], killed["error"]) == ("stalled", "unfinished")
    assert (stalled["total_s"] > 1.0, killed["total_s"] > 0.1) == (True, True)


async def test_a_user_without_patience_is_an_error() -> None:
    """Who gives up before a connection could be opened has waited in vain like others."""
    async with faulty() as server:
        record = await one(job(server.url("good"), limits={"timeout_s": 1e-9}))
    assert record["error"] == "timeout"


@pytest.mark.parametrize("when", ["Fri, 31 Dec 9999 23:59:59 -2300", "Wed, 21 Oct 99999999999 07:28:00 GMT", "9" * 400])
async def test_a_server_may_say_any_time_to_come_back(when: str) -> None:
    """One that no clock knows is none."""
    async with faulty({"later": said(answer("503 No", b"{}", f"retry-after: {when}"))}) as server:
        record = await one(job(server.url("later")))
    assert (record["error"], record["retry_after_s"]) == ("http_503", None)


async def test_a_target_is_waited_for_and_asked_for_its_model(nobody: int) -> None:
    """Ours and others; what is no such server, or never comes, is said at once or in time."""
    looks = itertools.count()

    async def starts(writer: asyncio.StreamWriter) -> None:
        """Not ready, then ready, then its models, twice, nothing of its parts, then an answer."""
        replies = [FAULTS["status-503"][0], said(answer("200 OK", b"{}")), models, models, FAULTS["no-events"][0]]
        await [*replies, said(stream(*GOOD))][next(looks)](writer)

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
    assert (answered["error"], answered["said"]) == (None, {"models": "first, second"})
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
