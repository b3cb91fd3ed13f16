"""Leases: who may write, across processes, on SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import psutil
import pytest
from sqlalchemy import update

from serving.errors import CatalogUnavailable, LeaseLost, WriterBusy
from serving.index.catalog import Catalog
from serving.index.catalog_tables import leases
from serving.ports import free_port
from serving.settings import IndexSettings

# Holds the lease until it is killed; says when it has it.
_HOLDER = """
import asyncio, sys
from serving.index.catalog import Catalog
from serving.settings import IndexSettings

async def main(url, tenant):
    catalog = Catalog.connect(IndexSettings(catalog_url=url, tenant=tenant))
    async with catalog.leases.hold("run/docs", "the test's other process"):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def other_process(settings: IndexSettings) -> AsyncIterator[subprocess.Popen[str]]:
    """A process that holds `run/docs`."""
    arguments = [sys.executable, "-c", _HOLDER, settings.catalog_url, settings.tenant]
    # Not asyncio's own, which would take the zombie away at once.
    process = await asyncio.to_thread(subprocess.Popen, arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "held\n"
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def expire(catalog: Catalog, name: str = "run/docs", **changed: object) -> None:
    """As if the holder had not answered for long."""
    async with catalog._database.write() as connection:
        mine = leases.c.tenant == catalog._tenant, leases.c.name == name
        await connection.execute(update(leases).where(*mine).values(expires_at=1.0, **changed))


async def earlier(catalog: Catalog) -> str:
    """The holder of the only lease as if it were another process, an hour ago, with the same number."""
    async with catalog._database.read() as connection:
        row = (await connection.execute(leases.select().where(leases.c.tenant == catalog._tenant))).one()
    held = json.loads(row.holder)
    return json.dumps(held | {"started": held["started"] - 3_600})


async def test_one_holds_it_and_the_others_are_told(catalog: Catalog) -> None:
    """Who, since when, for what, and what to do; other leases are free, and so is this one afterwards."""
    async with catalog.leases.hold("run/docs", "anchorage ingest") as lease:
        await lease.check()
        with pytest.raises(WriterBusy) as caught:
            async with catalog.leases.hold("run/docs", "another"):
                pytest.fail("held twice")
        this_year = str(datetime.now(UTC).year)
        for part in ("anchorage ingest", "run/docs", str(os.getpid()), this_year, "--wait"):
            assert part in str(caught.value)
        async with catalog.leases.hold("publish/docs", "publishing"):
            found = [(holder.name, holder.doing, holder.pid) for holder in await catalog.leases.holders()]
        expected = [("publish/docs", "publishing", os.getpid()), ("run/docs", "anchorage ingest", os.getpid())]
        assert found == expected
    assert await catalog.leases.holders() == []
    async with catalog.leases.hold("run/docs", "again"):
        pass


async def test_those_who_wait_take_turns(catalog_settings: IndexSettings) -> None:
    """Never two at a time, and everybody gets it."""
    inside: list[int] = []
    turns: list[int] = []

    async def work(number: int) -> None:
        catalog = Catalog.connect(catalog_settings)
        async with catalog.leases.hold("run/docs", f"writer {number}", wait_s=30.0):
            inside.append(number)
            assert inside == [number]
            await asyncio.sleep(0.01)
            inside.remove(number)
            turns.append(number)
        await catalog.close()

    await asyncio.gather(*(work(number) for number in range(6)))
    assert sorted(turns) == list(range(6))


async def test_a_killed_process_is_followed_at_once(catalog: Catalog, catalog_settings: IndexSettings) -> None:
    """While it lives it is respected; after `kill -9`, a zombie still, its lease is free and not shown."""
    async with other_process(catalog_settings) as process:
        with pytest.raises(WriterBusy, match=rf"the test's other process.*process {process.pid} on"):
            async with catalog.leases.hold("run/docs", "mine"):
                pytest.fail("held twice")
        process.kill()
        await until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert await catalog.leases.holders() == []
        async with catalog.leases.hold("run/docs", "mine", wait_s=0.0) as lease:
            await lease.check()


async def test_a_process_id_used_again_is_another_process(catalog: Catalog) -> None:
    """The start time tells a process from an earlier one with its number."""
    async with catalog.leases.hold("run/docs", "this process"):
        before = await earlier(catalog)
        async with catalog._database.write() as connection:
            mine = leases.c.tenant == catalog._tenant
            await connection.execute(update(leases).where(mine).values(holder=before))
        async with catalog.leases.hold("run/docs", "the later one"):
            assert [holder.doing for holder in await catalog.leases.holders()] == ["the later one"]


async def test_another_machine_is_followed_after_its_time(catalog: Catalog) -> None:
    """Whether its process lives cannot be seen from here, so its lease counts until it expires."""
    async with catalog.leases.hold("run/docs", "elsewhere", ttl_s=600.0):
        async with catalog._database.write() as connection:
            mine = leases.c.tenant == catalog._tenant
            holder = {"name": "run/docs", "host": "far", "machine": "far/boot", "pid": 2**30, "started": 1.0}
            values = {"holder": json.dumps(holder | {"doing": "elsewhere", "since": 1.0})}
            await connection.execute(update(leases).where(mine).values(**values))
        with pytest.raises(WriterBusy, match="on far"):
            async with catalog.leases.hold("run/docs", "here"):
                pytest.fail("held twice")
        await expire(catalog)
        async with catalog.leases.hold("run/docs", "here"):
            pass


async def test_a_lease_is_renewed_while_it_is_held(catalog: Catalog) -> None:
    """Longer than its time to live; one that expired unnoticed and that nobody took is renewed, too."""
    async with catalog.leases.hold("run/docs", "long", ttl_s=3.0) as lease:
        await expire(catalog)
        ends = time.monotonic() + 4.0
        while time.monotonic() < ends:
            await lease.check()
            await asyncio.sleep(0.05)
        assert [holder.doing for holder in await catalog.leases.holders()] == ["long"]


async def test_who_lost_it_is_told_and_leaves_the_new_holder_alone(catalog: Catalog) -> None:
    """A stalled writer learns at its next check that another one took over, whose lease it cannot end."""
    async with AsyncExitStack() as stack:
        stalled = await stack.enter_async_context(catalog.leases.hold("run/docs", "stalled", ttl_s=0.3))
        # Its process looks dead, so that a renewal that comes before the next look changes nothing.
        await expire(catalog, holder=await earlier(catalog))
        async with catalog.leases.hold("run/docs", "new", wait_s=10.0) as new:
            lost = None
            async with asyncio.timeout(10):
                while lost is None:
                    try:
                        await stalled.check()
                    except LeaseLost as error:
                        lost = error
                    await asyncio.sleep(0.02)
            assert "taken over 'run/docs'" in str(lost)
            await stack.aclose()
            await new.check()
            assert [holder.doing for holder in await catalog.leases.holders()] == ["new"]


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.005, 0.02, 0.2])
async def test_a_cancelled_writer_lets_go(catalog: Catalog, after_s: float) -> None:
    """At whatever moment it is cancelled: while it asks, while it waits, while it holds."""
    await catalog.ping()

    async def work() -> None:
        async with catalog.leases.hold("run/docs", "cancelled"):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(after_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with catalog.leases.hold("run/docs", "next"):
        pass


async def test_a_block_that_fails_lets_go(catalog: Catalog) -> None:
    """The error comes through as it was."""
    with pytest.raises(ZeroDivisionError):
        async with catalog.leases.hold("run/docs", "failing"):
            raise ZeroDivisionError
    assert await catalog.leases.holders() == []


async def test_a_catalog_that_is_away_gives_no_lease() -> None:
    """Nothing is held that nobody else can see."""
    away = Catalog.connect(IndexSettings(catalog_url=f"postgresql://user@127.0.0.1:{free_port()}/db"))
    with pytest.raises(CatalogUnavailable):
        async with away.leases.hold("run/docs", "nobody"):
            pytest.fail("held")
    await away.close()
