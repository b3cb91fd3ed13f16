"""`anchorage ingest` as a user runs it: its words, its exit codes, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from typing import Any

from tests.ingestion.conftest import Shelf
from tests.ingestion.test_ingest import PAGE

KILLS = 4
TIMEOUT_S = 180.0


async def run(shelf: Shelf, *arguments: str, program: str = "ingest") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    command = shelf.command(*arguments, program=program)
    process = await asyncio.create_subprocess_exec(
        *command, env=shelf.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return process.returncode or 0, out.decode(), err.decode()


async def test_report_and_exit_codes_tell_the_truth(shelf: Shelf) -> None:
    """0 when all is well, 3 when a part failed, 1 when everything did, 2 for a source that is not there."""
    shelf.put("a.md", PAGE.format("one"))
    code, out, _ = await run(shelf, str(shelf.folder), "--json")
    said: dict[str, Any] = json.loads(out)
    assert (code, said["new"], said["failed"], said["published"]) == (0, 1, 0, True)
    assert {"read", "parse", "embed", "write", "verify", "publish", "total"} == set(said["seconds"])

    bad = shelf.put("empty.md", "")
    code, out, _ = await run(shelf, str(shelf.folder))
    assert code == 3
    assert "empty.md: empty" in out.replace("\n", "")
    assert "Nothing changed" in out

    code, out, _ = await run(shelf, str(bad), "--json")
    assert (code, json.loads(out)["failures"][0]["reason"]) == (1, "empty")

    code, out, err = await run(shelf, str(shelf.folder / "missing"))
    assert (code, out) == (2, "")
    assert "does not exist" in err


async def test_a_second_writer_is_told_to_wait(shelf: Shelf) -> None:
    """The message says who is at it, and the other one is not disturbed."""
    shelf.put("a.md", PAGE.format("one"))
    async with shelf.parts.catalog.leases.hold(f"run/{shelf.collection}", "an ingestion") as lease:
        code, _, err = await run(shelf, str(shelf.folder))
        await lease.check()
    assert code == 1
    assert "an ingestion holds" in err
    assert "--wait" in err


async def test_milvus_away_is_said_by_name(shelf: Shelf) -> None:
    """Exit code 1, one sentence, no traceback."""
    shelf.put("a.md", PAGE.format("one"))
    shelf.environment["ANCHORAGE_INDEX__MILVUS_URI"] = "http://127.0.0.1:9"
    code, _, err = await run(shelf, str(shelf.folder))
    assert code == 1
    assert "Milvus" in err
    assert "Traceback" not in err


async def test_killed_anywhere_the_same_command_completes_it(shelf: Shelf) -> None:
    """After any number of kill -9, the index is that of an undisturbed run, and readers never saw half of one."""
    dice = random.Random(7)
    for number in range(12):
        shelf.put(f"{number}.md", PAGE.format(number))
    await shelf.ingest()
    old = await shelf.visible()
    for number in range(8):
        shelf.put(f"{number}.md", PAGE.format(f"changed {number}"))
    (shelf.folder / "11.md").unlink()
    shelf.put("new.md", PAGE.format("new"))

    killed = 0
    for _ in range(KILLS):
        killed += await _killed_while_it_writes(shelf, after=dice.random())
        seen = await shelf.visible()
        assert seen == old or await _published(shelf) == 2
    assert killed

    code, out, err = await run(shelf, str(shelf.folder), "--json")
    assert code == 0, err
    assert json.loads(out)["failed"] == 0
    undisturbed = shelf.collection + "-2"
    await shelf.ingest(collection=undisturbed)
    names = [{uri for uri, _ in await shelf.visible(name)} for name in (shelf.collection, undisturbed)]
    assert names[0] == names[1]
    assert len(await shelf.visible()) == len(await shelf.visible(undisturbed))
    assert not await shelf.dangling()
    report = await shelf.ingest()
    assert shelf.counts(report) == {"unchanged": 12}


async def _published(shelf: Shelf) -> int:
    return (await shelf.parts.catalog.collection(shelf.collection)).generation


async def _killed_while_it_writes(shelf: Shelf, after: float) -> bool:
    """Kill a run once its writing has gone a random way further. False if it was through before."""
    before = await _progress(shelf)
    process = await asyncio.create_subprocess_exec(
        *shelf.command(str(shelf.folder)), env=shelf.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    async with asyncio.timeout(TIMEOUT_S):
        while process.returncode is None and await _progress(shelf) == before:  # each look is a round trip
            pass
        if process.returncode is None and after > 0.3:
            await asyncio.sleep(after)  # a random point, not a wait for something
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
    return process.returncode == -signal.SIGKILL


async def _progress(shelf: Shelf) -> tuple[Any, ...]:
    """Changes with every step that a run takes in catalog or store."""
    states = await shelf.parts.catalog.states(shelf.collection)
    return (await _published(shelf), sorted(states.items()), sorted(row.key for row in await shelf.rows()))
