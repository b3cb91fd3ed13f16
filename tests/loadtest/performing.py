"""Requests performed by a process on gevent, as locust's is; the test's own process is never patched."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

#: No test waits for these; one that is about a limit sets it.
_PATIENT = {"connect_s": 20.0, "stall_s": 20.0, "timeout_s": 40.0}
#: For a whole process, started on a busy machine.
PATIENCE_S = 60.0
#: How wrong a time may be on a machine that does other things, seconds.
LOOSE_S = 0.05


def job(url: str, **more: Any) -> dict[str, Any]:
    """What `tests.loadtest.asker` takes: `more` instead of what is usual, of the target and the limits name by name."""
    target = {"url": url, "model": "m", "plain": True} | more.pop("target", {})
    limits = _PATIENT | more.pop("limits", {})
    whole = {"target": target, "limits": limits, "ask": {}, "times": 1, "kill_s": None, "pause_s": None}
    whole |= {"ready_s": None, "freeze_s": None}
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
