"""Leases: who may write what. A row of the catalog with a heartbeat, so they hold across processes and machines.

The lease of a process that died on this machine is taken over at once, that of another machine when it has expired.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psutil
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serving.errors import CatalogUnavailable, LeaseLost, WriterBusy
from serving.index.catalog_models import Holder
from serving.index.catalog_part import Part
from serving.index.catalog_tables import leases
from serving.index.database import Database

#: Between two looks at a lease that somebody else holds, seconds: the first, and the longest.
_FIRST_LOOK_S = 0.05
_LONGEST_LOOK_S = 0.5
#: The same for who would otherwise never get it: shorter than what a writer does between letting go and taking again.
_EAGER_S = 0.02


class Lease:
    """A held lease. It is renewed in the background for as long as its block lasts."""

    def __init__(self, database: Database, tenant: str, holder: Holder, ttl_s: float) -> None:
        self._database = database
        self._token = uuid.uuid4().hex
        self._holder = holder
        self._ttl_s = ttl_s
        self._renewed = time.monotonic()
        self._mine = (leases.c.tenant == tenant, leases.c.name == holder.name, leases.c.token == self._token)
        self._row = {"tenant": tenant, "name": holder.name, "token": self._token, "holder": json.dumps(asdict(holder))}

    @property
    def name(self) -> str:
        return self._holder.name

    async def check(self) -> None:
        """Returns while the lease is held; asks the catalog only when the last renewal is long ago.

        Raises LeaseLost when somebody else has taken it over, CatalogUnavailable when that cannot be known.
        """
        if time.monotonic() - self._renewed < self._ttl_s / 2:
            return
        await self._renew()

    async def confirm(self, connection: AsyncConnection) -> None:
        """The same within a transaction: nobody takes it over before that ends. Raises LeaseLost."""
        held = select(leases.c.name).where(*self._mine).with_for_update()
        if (await connection.execute(held)).first() is None:
            raise self._lost()

    async def acquire(self) -> Holder | None:
        """Take it, or say who holds it."""
        began = time.monotonic()
        key = leases.c.tenant == self._row["tenant"], leases.c.name == self.name
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            row = self._row | {"expires_at": now + self._ttl_s}
            inserted = await connection.execute(self._database.insert(leases).on_conflict_do_nothing(), row)
            if not inserted.rowcount:
                found = (await connection.execute(select(leases).where(*key).with_for_update())).first()
                holder = Holder(**json.loads(found.holder)) if found else None
                if found is None or (found.expires_at > now and holder and not _dead(holder)):
                    return holder or self._holder  # released just now: look again
                await connection.execute(update(leases).where(*key).values(**row))
        self._renewed = began
        return None

    async def renew_until(self, done: asyncio.Event) -> None:
        """Keep it, until it is lost: a catalog that is away is asked again."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), self._ttl_s / 3)
                return
            try:
                await self._renew()
            except CatalogUnavailable:
                continue
            except LeaseLost:
                return

    async def release(self) -> None:
        """Let go of it, if it is still this one's. It expires by itself when the catalog is away."""
        with suppress(CatalogUnavailable):
            async with self._database.write() as connection:
                await connection.execute(delete(leases).where(*self._mine))

    async def _renew(self) -> None:
        began = time.monotonic()
        async with self._database.write() as connection:
            expires_at = await self._database.now(connection) + self._ttl_s
            renewed = await connection.execute(update(leases).where(*self._mine).values(expires_at=expires_at))
        if not renewed.rowcount:
            raise self._lost()
        self._renewed = began

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"Another process has taken over {self.name!r} from this one, which did not answer for more than "
            f"{self._ttl_s:g} s. This run stops; what it wrote is not lost: start it again."
        )


class Leases(Part):
    """All leases of one tenant. Every call raises CatalogUnavailable."""

    @asynccontextmanager
    async def hold(
        self, name: str, doing: str, *, wait_s: float = 0.0, ttl_s: float = 30.0, eager: bool = False
    ) -> AsyncIterator[Lease]:
        """Hold a lease for the block. `doing` says what for, to those who have to wait.

        `eager`: gets it between two others who take it in turns without a pause.

        Raises WriterBusy when somebody else still holds it after `wait_s` seconds.
        """
        lease = Lease(self._database, self._tenant, _holder(name, doing), ttl_s)
        await _acquired(lease, wait_s, _EAGER_S if eager else _LONGEST_LOOK_S)
        done = asyncio.Event()
        renewal = asyncio.create_task(lease.renew_until(done))
        try:
            yield lease
        finally:
            done.set()
            # Also when the caller is cancelled, and again while this waits.
            await asyncio.shield(asyncio.ensure_future(_let_go(lease, renewal)))

    async def holders(self) -> list[Holder]:
        """Of all leases that are held now, by name."""
        query = select(leases.c.holder).where(*self._mine(leases)).order_by(leases.c.name)
        async with self._database.read() as connection:
            alive = leases.c.expires_at > await self._database.now(connection)
            found = [Holder(**json.loads(row.holder)) for row in await connection.execute(query.where(alive))]
        return [holder for holder in found if not _dead(holder)]


async def _acquired(lease: Lease, wait_s: float, longest_s: float) -> None:
    deadline = time.monotonic() + wait_s
    pause = min(_FIRST_LOOK_S, longest_s)
    while (holder := await _looked(lease)) is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise WriterBusy(_busy(holder))
        # At different moments, or those that wait would meet again and again.
        await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0)))
        pause = min(2 * pause, longest_s)


async def _looked(lease: Lease) -> Holder | None:
    try:
        return await lease.acquire()
    except (asyncio.CancelledError, CatalogUnavailable):
        # It may have been taken all the same.
        await asyncio.shield(asyncio.ensure_future(lease.release()))
        raise


async def _let_go(lease: Lease, renewal: asyncio.Task[None]) -> None:
    await asyncio.wait([renewal])
    await lease.release()


def _busy(holder: Holder) -> str:
    since = datetime.fromtimestamp(holder.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return (
        f"{holder.doing or 'Another writer'} holds {holder.name!r} since {since} "
        f"(process {holder.pid} on {holder.host}). "
        "Wait for it to end, or use --wait SECONDS; when that process is ended, this can begin at once."
    )


def _holder(name: str, doing: str) -> Holder:
    started = psutil.Process().create_time()
    return Holder(name, socket.gethostname(), _machine(), os.getpid(), started, doing, since=time.time())


def _machine() -> str:
    """Where process ids mean the same: one boot of one kernel, one container."""
    host = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{host}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{host}/{psutil.boot_time():.0f}"


def _dead(holder: Holder) -> bool:
    """Whether it is known that the holder's process has ended. A zombie has."""
    if holder.machine != _machine():
        return False
    try:
        process = psutil.Process(holder.pid)
        # The kernel's boot time, which start times count from, is rounded to a second and may be adjusted.
        same = abs(process.create_time() - holder.started) < 2.0
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
