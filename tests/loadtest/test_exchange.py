"""A request is lived as its user would, and whatever goes wrong is told apart."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import pytest

from tests.loadtest.faulty import FAULTS, FIRST_S, GAP_S, faulty

LIMITS = {"connect_s": 2.0, "stall_s": 1.0, "timeout_s": 3.0}
#: For a whole process, started on a busy machine.
PATIENCE_S = 60.0


def job(url: str, **more: Any) -> dict[str, Any]:
    target = {"url": url, "model": "m", "plain": True} | more.pop("target", {})
    ask = more.pop("ask", {})
    return {"target": target, "limits": LIMITS, "ask": ask, "times": 1, "apart": True, "kill_s": None} | more


async def performed(*jobs: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The records of each job, from a process on gevent as locust's is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.loadtest.asker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
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


async def test_every_fault_is_told_apart_at_once() -> None:
    """Three requests of each kind, all at the same time: each is counted as what it was, and none holds up the others."""
    async with faulty() as server:
        found = await performed(
            *(job(server.url(name), times=3, ask={"task": "ask"} if name == "whole" else {}) for name in FAULTS)
        )
    kinds = {name: Counter(record["error"] for record in records) for name, records in zip(FAULTS, found, strict=True)}
    assert kinds == {name: {kind: 3} for name, (_, kind) in FAULTS.items()}
