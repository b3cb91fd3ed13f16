"""People who ask, made by real locust: what it promises whoever knows locust, and what it tells of a run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.running import several
from serving.errors import EngineUnavailable
from serving.ports import free_port
from serving.scripted import Schedule
from tests.api.conftest import Staging, catalog, staged
from tests.loadtest.locusts import Done, Server, asking, headless, locust, serving, write_error

__all__ = ["catalog", "staged"]

#: A neighbour in the same process who takes its core: 50 ms of work, then a breath.
BURNER = """
import time, gevent
from locust import events

def burn():
    while True:
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass
        gevent.sleep(0.002)

@events.init.add_listener
def start(**_):
    gevent.spawn(burn)
"""


async def five(url: str, folder: Path) -> Done:
    """Three people, until five answers are there."""
    people = ("--users", "3", "--spawn-rate", "10", "--every-s", "0.1", "--answers", "5")
    return await headless(url, *people, "--run-time", "60s", "--stop-timeout", "5", folder=folder)


async def test_people_ask_and_read(staged: Staging, tmp_path: Path) -> None:
    """Answers and their first tokens are counted, with a key; the first token comes before the end."""
    async with staged(schedule=Schedule(0.02, 0.002), key="sesame", keys=["sesame"]) as stage:
        done = await five(stage.url, tmp_path)
    assert done.code in (0, 4), done.said
    answers, tokens = done.tables["answer"], done.tables["first token"]
    assert answers["num_requests"] == tokens["num_requests"] >= 5
    assert answers["num_failures"] == tokens["num_failures"] == 0
    assert 0 < tokens["total_response_time"] < answers["total_response_time"]
    assert "sesame" not in done.said + done.out + (tmp_path / "result.json").read_text()
    assert len(done.run.records) == answers["num_requests"]
    assert done.run.load == {"kind": "closed", "users": 3, "every_s": 0.1, "rate": None}
    assert done.run.duration_s < 60
    assert "scripted" in done.study.target["models"]
    assert done.progress[-1]["done"] == answers["num_requests"]


async def test_an_answer_that_breaks_off_is_a_failure(staged: Staging, tmp_path: Path) -> None:
    """The engine fails after two tokens: an error event ends the stream, the run fails, and it is said why."""
    failing = Schedule(0.01, 0.001, fail_after=2, failure=EngineUnavailable("The engine died."))
    async with staged(schedule=failing) as stage:
        done = await five(stage.url, tmp_path)
    assert done.code in (1, 4)
    assert done.tables["answer"]["num_failures"] == done.tables["answer"]["num_requests"] >= 5
    assert {record.error for record in done.run.records} == {"error_event"}


async def test_a_stream_that_is_cut_is_a_failure(tmp_path: Path) -> None:
    """A proxy that closes in the middle, which the Api itself never does."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            body = b'{"data": [{"id": "m"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        else:
            event = b'data: {"choices": [{"delta": {"content": "A"}}]}\n\n'
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        done = await five(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path)
    assert done.code in (1, 4)
    assert done.tables["first token"]["num_failures"] == 0
    assert done.tables["answer"]["num_failures"] == done.tables["answer"]["num_requests"] >= 5
    assert {record.error for record in done.run.records} == {"cut"}


async def test_a_server_that_repeats_the_key_does_not_give_it_away(tmp_path: Path) -> None:
    """Neither the result nor what is printed has it."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status, body = (b"200 OK", b'{"data": [{"id": "m"}]}')
        if not head.startswith(b"GET"):
            status, body = b"401 Unauthorized", b'{"error": {"message": "Incorrect API key: sesame"}}'
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        done = await five(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path)
    assert done.code == 1
    assert {(record.error, record.status) for record in done.run.records} == {("http_4xx", 401)}
    assert "sesame" not in done.said + done.out + (tmp_path / "result.json").read_text()
    assert "Incorrect API key: ***" in done.said


async def test_a_server_that_says_something_else_each_time_does_not_fill_the_tables(tmp_path: Path) -> None:
    """Locust keeps and prints every message; the records have them all."""

    class Failing(Server):
        async def respond(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            if body:
                self.asked.append(body)
                write_error(writer, f"request {len(self.asked)} failed")
                return
            await super().respond(path, body, writer)

    async with serving(Failing()) as server:
        done = await headless(server.url, "--arrivals", "constant:60", "--run-time", "3", folder=tmp_path)
    assert len({record.message for record in done.run.records}) == 180
    assert done.said.count("HTTP 500: request ") == 50
    assert "Failed('http_5xx')" in done.said


async def test_a_large_file_of_questions_delays_nobody(tmp_path: Path) -> None:
    """It is read, and all that is made of it made, before the run begins."""
    questions = tmp_path / "many.jsonl"
    questions.write_text("".join(f'{{"question": "What is {number}?"}}\n' for number in range(60_000)))
    people = ("--users", "2", "--spawn-rate", "100", "--every-s", "0.1", "--run-time", "2")
    async with serving(Server()) as server:
        done = await headless(server.url, *people, "--questions", str(questions), folder=tmp_path)
    assert done.run.records[0].at_s < 1.0
    assert len({body["messages"][0]["content"] for body in server.asked}) == len(server.asked) > 10


async def test_each_does_what_the_mix_says(tmp_path: Path) -> None:
    """By weight, each kind of user by its own name; a conversation has its turns."""
    mix = ("--mix", "stream=2,ask=1,turn=1,search=1,upload=1", "--turns", "2", "--users", "6", "--spawn-rate", "100")
    async with serving(Server()) as server:
        done = await headless(server.url, *mix, "--every-s", "0.2", "--run-time", "2", folder=tmp_path)
    assert done.code in (0, 4), done.said
    for name in ("StreamingAsker", "Asker", "Converser", "Searcher", "Uploader"):
        assert name in done.said
    counts = {name: table["num_requests"] for name, table in done.tables.items()}
    assert set(counts) == {"answer", "first token", "whole answer", "turn", "search", "upload"}
    assert counts["answer"] > counts["whole answer"] > 0
    assert counts["turn"] % 2 == 0
    assert counts["first token"] == counts["answer"] + counts["turn"]
    paths = [body["path"] for body in server.asked]
    assert paths.count("/v1/search") == counts["search"]
    talks = [len(body["messages"]) for body in server.asked if len(body.get("messages", ())) > 1]
    assert len(talks) * 2 == counts["turn"]


async def test_the_web_page_starts_a_run_and_shows_it(tmp_path: Path) -> None:
    """As everywhere in locust: a form, a table of our names, a button to stop; a result for each run."""
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    arguments = ("--web-host", "127.0.0.1", "--web-port", str(port), "--result", str(tmp_path / "result.json"))
    async with (
        serving(Server()) as server,
        locust(*arguments, "--mix", "stream,search", folder=tmp_path) as started,
        httpx.AsyncClient(base_url=page, trust_env=False) as browser,
    ):
        await started.until(lambda: reachable(page))
        assert "locust" in (await browser.get("/")).text.lower()
        for _ in range(2):
            form = {"user_count": "4", "spawn_rate": "50", "host": server.url, "every_s": "0.1"}
            assert (await browser.post("/swarm", data=form)).json()["success"]
            asked = len(server.asked)
            await started.until(lambda asked=asked: len(server.asked) > asked + 10)  # type: ignore[misc]
            stats = (await browser.get("/stats/requests")).json()
            assert stats["state"] == "running"
            assert {"answer", "first token", "search"} <= {row["name"] for row in stats["stats"]}
            assert (await browser.post("/stop")).json()["success"]
            run = Done(0, "", "", tmp_path).run
            assert len(run.records) >= 10
            (tmp_path / "result.json").unlink()
        started.interrupt()
        done = await started.ended()
    assert done.code in (0, 4)


def reachable(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


async def test_a_busy_load_tester_makes_its_run_void(tmp_path: Path) -> None:
    """Somebody burns the core in its process: the run says nothing about the server, and its exit code says so."""
    burner = tmp_path / "burner.py"
    burner.write_text(BURNER)
    async with serving(Server()) as server:
        schedule = ("--arrivals", "constant:10", "--run-time", "4", "--warmup-s", "1")
        done = await headless(server.url, *schedule, folder=tmp_path, files=[burner])
    assert done.code == 4
    assert all("the load tester was the limit" in reason and reason in done.said for reason in done.run.void)
    (client,) = done.run.clients
    assert client.cpu_share > 0.2
    lag = client.lag_s.percentile(50)
    assert lag is not None
    assert lag > 0.01


@pytest.mark.parametrize("processes", [1, 2])
async def test_ctrl_c_keeps_what_was_measured(processes: int, tmp_path: Path) -> None:
    """The run was as long as it was held; who is stopped together was not lost."""
    load = ("--arrivals", "constant:20", "--run-time", "1h", *several(processes))
    async with serving(Server()) as server, asking(server.url, *load, folder=tmp_path) as started:
        await started.until(lambda: len(server.asked) > 20)
        started.interrupt()
        done = await started.ended()
    assert done.code in (0, 4)
    assert 20 / 20 <= done.run.duration_s < 60
    assert not done.run.events
    assert len(done.run.records) == len(server.asked)
    # Other processes hear of the end a moment later.
    assert max(record.at_s for record in done.run.records) < done.run.duration_s + 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--arrivals", "often"), 2, "often"),
        (("--arrivals", "poisson:5"), 2, "--run-time"),
        (("--mix", "dance"), 2, "dance"),
        (("--run-time", "5", "--warmup-s", "5"), 2, "--warmup-s"),
        (("--questions", "/none"), 2, "/none"),
        (("--result", "/none/result.json"), 2, "/none"),
        (("--host", "http://127.0.0.1:1", "--ready-s", "1", "--run-time", "1"), 1, "not ready"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_cannot_work_is_refused(arguments: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    """Before anything is asked, with the reason."""
    async with serving(Server()) as server:
        done = await headless(server.url, *arguments, folder=tmp_path)
    assert done.code == code
    assert said in done.said
    assert not server.asked


def test_it_is_a_locustfile_like_any_other() -> None:
    """Its users are listed, and a misspelt option is refused."""

    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loadtest.locustfile", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    listed = told("--list")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.split()[2:] == ["Asker", "Converser", "Searcher", "StreamingAsker", "Uploader"]
    assert told("--arivals", "poisson:1").returncode == 2
