"""The truth that load tools are held to, and ours held to it: small and short, on a machine that may be busy."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from loadtest.bench.client import BenchError, pieces_of
from loadtest.bench.fidelity import BAR, judged
from loadtest.bench.fidelity_freeze import truth as freeze_truth
from loadtest.bench.fidelity_process import Seen, scripted, used
from loadtest.bench.fidelity_script import Script
from loadtest.bench.fidelity_sides import Load, Ours, Stock, measured
from loadtest.bench.fidelity_truth import Four, read

PATH = "/v1/chat/completions"
ROOT = Path(__file__).parents[2]


def test_a_script_is_known_before_it_is_played() -> None:
    """By seed and number; stalls are as many as they should be, and p99 lies amid them."""
    script = Script(seed=3)
    assert Script.read(script.text()) == script
    assert script.due_s(5, 8) == script.due_s(5, 8)
    assert script.due_s(5, 8) != script.due_s(6, 8)
    gaps = [after - before for number in range(500) for before, after in pairwise(script.due_s(number, 32))]
    stalls = [gap for gap in gaps if gap >= script.stall_s]
    assert 0.015 < len(stalls) / len(gaps) < 0.025
    assert statistics.median(gaps) == pytest.approx(script.gap_s, rel=0.05)


async def test_the_log_says_when_each_token_was_written(tmp_path: Path) -> None:
    """As the script has it, never much before."""
    script = Script(seed=1, tokens=6, first_s=0.02, gap_s=0.005, stall_s=0.05)
    async with scripted(script, tmp_path) as server, httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answers = await asyncio.gather(*(client.post(PATH, json={"messages": [], "stream": True}) for _ in range(8)))
        tokens = await server.tokens(client)
    assert tokens == 8 * 6
    assert all(pieces_of(one.content) == [f" w{place}" for place in range(6)] for one in answers)
    truth = read(server.log)
    assert (len(truth.firsts), len(truth.gaps), truth.tokens) == (8, 8 * 5, 8 * 6)
    assert min(truth.late) > -0.005
    logged = [json.loads(line) for line in server.log.read_text().splitlines()]
    for one in logged:
        due = [(moment - one["accepted"]) / 1e9 for moment in one["due"]]
        assert due == pytest.approx(script.due_s(one["number"], 6), abs=1e-6)
        assert one["written"] == sorted(one["written"])


async def test_a_client_that_leaves_is_noticed(tmp_path: Path) -> None:
    """Its answers have no truth."""
    script = Script(first_s=0.01, gap_s=0.3)
    asked = {"messages": [], "max_tokens": 40}
    async with (
        scripted(script, tmp_path) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        client.stream("POST", PATH, json=asked) as answer,
    ):
        await anext(answer.aiter_bytes())
    with pytest.raises(BenchError, match="left 1 of 1"):
        read(server.log)


async def test_what_is_not_there_is_no_page(tmp_path: Path) -> None:
    """Tools look for models, and whether the server lives."""
    async with scripted(Script(), tmp_path) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "scripted"
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/metrics")).status_code == 404


@pytest.mark.parametrize("side", [Ours(closed=True), Stock("Measuring")], ids=["ours", "stock"])
async def test_figures_lie_near_the_truth(tmp_path: Path, side: Ours | Stock) -> None:
    """Of the same requests, each token of which was seen; the bound is for a machine that does other things, too."""
    load = Load(200, Script(seed=2, tokens=16), 3)
    found = await measured(side, load, tmp_path, late_limit_s=60)
    errors = found.said.four.errors(found.truth.four())
    assert found.said.tokens == found.truth.tokens > 16 * load.users
    assert errors.keys() == set(Four.__slots__)
    assert abs(errors["gap_p50"]) < 0.5
    assert abs(errors["first_p50"]) < 1


def test_what_a_client_used_is_what_it_used_under_load() -> None:
    """Neither its start nor its end count."""
    seen = [Seen(float(at), cpu_s=2.0 + 0.1 * at, tokens=max(0, 100 * (at - 4))) for at in range(20)]
    found = used(seen, seconds=10)
    assert (found.tokens, found.seconds) == (800, 8.0)
    assert found.per_cpu_s == pytest.approx(1000)
    assert used(seen[:3], seconds=10).cpu_s == 0


def test_who_comes_while_the_server_is_frozen_waits_until_it_goes_on() -> None:
    """By the script alone: one user a second, frozen from 5 to 10 s."""
    made = Load(32, Script(sigma=0.0, first_stalls=0.0, first_s=0.5, freeze_s=(5, 5)), 20)
    waits = sorted([0.5] * 15 + [5.5, 4.5, 3.5, 2.5, 1.5])
    assert freeze_truth(made) == pytest.approx(waits[17])


@pytest.mark.parametrize(("error", "passed"), [(0.049, True), (-0.049, True), (0.051, False), (-0.051, False)])
def test_the_bar_is_for_ours_alone(error: float, passed: bool) -> None:
    """Whatever the peers say, and in which direction ours errs."""
    truth = {f"true_{name}": 0.1 for name in Four.__slots__}
    ours = {**truth, **dict.fromkeys(Four.__slots__, error)}
    peer = {**truth, **dict.fromkeys(Four.__slots__, -0.9)}
    rows = judged("500 tokens/s", {"ours": [ours], "HttpUser, own code": [peer]})
    assert len(rows) == 4
    assert {row.passed for row in rows} == {passed}
    assert f"{BAR:.0%}" in rows[0].bar
    assert "-90.0%" in rows[0].peer


async def test_the_command_ends_by_its_bars() -> None:
    """On a busy machine it may say that the run does not count."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.bench", "fidelity", "--quick", "--no-peers", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(280):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if not out:
        assert process.returncode == 1
        assert b"times in a row" in said, said  # void rounds; anything else is a fault of the bench
        return
    found = json.loads(out)
    assert process.returncode == (0 if found["passed"] else 1), said
    assert [row["metric"] for row in found["rows"] if "TTFT" in row["metric"]]
    assert [row["metric"] for row in found["rows"] if "CPU" in row["metric"]]
