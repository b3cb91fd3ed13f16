"""Requests by schedule: what a server does to those who come, it does to the figures."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from statistics import median

import pytest

from loadtest.arrivals import parse
from loadtest.histogram import Times
from tests.loadtest.locusts import Server, headless, locust, serving

RATE, DURATION_S = 20.0, 15.0
FROZEN_AT_S, FROZEN_S = 4.0, 5.0


async def test_a_freeze_is_the_queue_that_users_feel(tmp_path: Path) -> None:
    """For 5 of 15 seconds the server does nothing. By schedule a third of the users wait, up to 5 s, as predicted; four
    people of a closed loop at the same rate before and after are just four who wait: it hides what others would feel.
    """
    folders = [tmp_path / name for name in ("open", "closed")]
    for folder in folders:
        folder.mkdir()
    frozen = (FROZEN_AT_S, FROZEN_S)
    async with serving(Server(frozen=frozen)) as one, serving(Server(frozen=frozen)) as other:
        opened, closed = await asyncio.gather(
            headless(one.url, "--arrivals", f"constant:{RATE}", "--run-time", f"{DURATION_S:.0f}", folder=folders[0]),
            headless(
                *(other.url, "--users", "4", "--spawn-rate", "100", "--every-s", str(4 / RATE)),
                *("--run-time", f"{DURATION_S:.0f}"),
                folder=folders[1],
            ),
        )
    run = opened.run
    times = list(parse(f"constant:{RATE}").times(DURATION_S, 1))
    assert [record.at_s for record in run.measured()] == pytest.approx(times)
    assert all(record.ok for record in run.records)
    waits = [record.ttft_s or 0.0 for record in run.measured()]
    predicted = [FROZEN_AT_S + FROZEN_S - at for at in times if FROZEN_AT_S <= at < FROZEN_AT_S + FROZEN_S]
    felt = [wait for wait in waits if wait > 1.0]
    assert len(felt) == pytest.approx(sum(wait > 1.0 for wait in predicted), abs=5)
    assert median(felt) == pytest.approx(median(wait for wait in predicted if wait > 1.0), abs=0.5)
    p99 = Times.of(waits).percentile(99)
    assert p99 is not None
    assert 4.5 < p99 < 6.0

    hidden = [record.ttft_s or 0.0 for record in closed.run.measured()]
    assert sum(wait > 1.0 for wait in hidden) == 4
    assert len(hidden) < len(waits) * 0.8
    rest = Times.of(hidden).percentile(95)
    assert rest is not None
    assert rest < 1.0


async def test_no_request_waits_for_another(tmp_path: Path) -> None:
    """A server that never answers gets everything at its time; what is under way at the end is unfinished, an error."""
    async with serving(Server(ttft_s=1000)) as server:
        done = await headless(
            *(server.url, "--arrivals", "burst:100,50", "--run-time", "4", "--stop-timeout", "2", "--seed", "3"),
            *("--warmup-s", "2"),
            folder=tmp_path,
        )
    expected = list(parse("burst:100,50").times(4.0, 3))
    assert len(server.asked) == len(expected) > 50
    assert [record.at_s for record in done.run.records] == pytest.approx(expected)
    assert {record.error for record in done.run.records} == {"unfinished"}
    assert [record.at_s for record in done.run.measured()] == pytest.approx([at for at in expected if at >= 2])
    assert done.code in (1, 4)
    last = done.progress[-1]
    assert (last["phase"], last["sent"], last["failed"], last["in_flight"]) == (
        "over",
        len(expected),
        len(expected),
        0,
    )
    assert max(line["in_flight"] for line in done.progress) == len(expected)
    assert {"warm-up", "measuring", "draining"} <= {line["phase"] for line in done.progress}


async def test_whoever_was_due_while_the_load_tester_stood_still_is_not_forgotten(tmp_path: Path) -> None:
    """It stops in the middle, and goes on when the time is over: all are asked, late; and the run is void."""
    options = ("--arrivals", "constant:100", "--run-time", "3", "--result", str(tmp_path / "result.json"))
    async with (
        serving(Server()) as server,
        locust("--headless", "--only-summary", "--host", server.url, *options, folder=tmp_path) as running,
    ):
        await running.until(lambda: len(server.asked) > 100)
        os.killpg(running.process.pid, signal.SIGSTOP)
        await asyncio.sleep(3.0)
        os.killpg(running.process.pid, signal.SIGCONT)
        done = await running.ended()
    assert len(server.asked) == 300
    assert [record.at_s for record in done.run.measured()] == pytest.approx([at / 100 for at in range(300)])
    assert done.code == 4


async def test_the_result_says_what_was_asked_of_whom(tmp_path: Path) -> None:
    """Load, settings, machine, command and server, and no key."""
    async with serving(Server()) as server:
        done = await headless(
            *(server.url, "--arrivals", "poisson:10", "--run-time", "2", "--max-tokens", "7", "--salt", "sesame"),
            folder=tmp_path,
        )
    study, run = done.study, done.run
    assert server.keys == {"bearer sesame"}
    assert run.load == {"kind": "open", "arrivals": "poisson:10", "rate": 10.0}
    assert (run.duration_s, run.warmup_s, study.settings["answer_tokens"]) == (2, 0, "7")
    assert {body["max_tokens"] for body in server.asked} == {7}
    assert study.target["url"] == server.url
    assert study.target["model"] == study.target["models"] == "m"
    assert "llm ready" in study.target["parts"]
    assert "--arrivals poisson:10" in study.machine["command"]
    assert "sesame" not in study.machine["command"] + done.said + done.out
    (client,) = run.clients
    assert 0 < client.cpu_share < 2
    assert len(client.cpu_by_second) >= 2
    assert len(client.lag_s) > 100
