"""The load: a burst of questions at planned times, or answers of which some are always under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from loadtest.rehearsal.client import Row, ask
from loadtest.rehearsal.scenario import Scenario
from serving.settings import OnCold

#: How callers want to be treated while the LLM is cold: most as the setting says, some otherwise.
_POLICIES: tuple[OnCold, ...] = ("extractive", "extractive", "wait", "extractive", "reject")
#: Longer than the application's own deadline.
_TIMEOUT_S = 330.0
#: Of answers that are always under way, the last part is asked for with so many of the streams: the load falls while
#: long answers are being written, so that replicas go.
_LAST_PART, _LAST_STREAMS = 0.06, 1 / 8


@dataclass
class Traffic:
    """What was asked. `rows` are in the order of their intended starts; `open` of them are under way."""

    rows: list[Row] = field(default_factory=list)
    open: int = 0

    @property
    def done(self) -> int:
        return len(self.rows) - self.open

    async def one(self, http: httpx.AsyncClient, row: Row) -> None:
        self.rows.append(row)
        self.open += 1
        try:
            await ask(http, row)
        finally:
            self.open -= 1


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Every request has a connection of its own, as if each came from another person."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits, trust_env=False) as http:
        yield http


def planned(scenario: Scenario, start: float, more: Callable[[], bool]) -> Iterator[Row]:
    """The burst's questions at their intended times (`time.monotonic`), whatever becomes of those before them."""
    number = 0
    while number < scenario.rate * scenario.seconds or more():
        yield Row(start + number / scenario.rate, _POLICIES[number % len(_POLICIES)], scenario.tokens)
        number += 1


async def burst(
    scenario: Scenario, http: httpx.AsyncClient, traffic: Traffic, start: float, more: Callable[[], bool]
) -> None:
    """Goes on as long as `more` says so. Returns when the last answer has come."""
    async with asyncio.TaskGroup() as asking:
        for row in planned(scenario, start, more):
            await asyncio.sleep(max(0.0, row.at - time.monotonic()))
            asking.create_task(traffic.one(http, row))


async def streams(scenario: Scenario, http: httpx.AsyncClient, traffic: Traffic, more: Callable[[], bool]) -> None:
    """`total` answers, `streams` of them at a time, whose callers wait for the LLM; more than `total` as long as `more`
    says so. Returns after the last one."""
    many = round(scenario.total * (1 - _LAST_PART))
    few = max(1, round(scenario.streams * _LAST_STREAMS))

    async def reader(number: int) -> None:
        while more() or len(traffic.rows) < (many if number >= few else scenario.total):
            await traffic.one(http, Row(time.monotonic(), "wait", scenario.tokens))

    async with asyncio.TaskGroup() as readers:
        for number in range(scenario.streams):
            readers.create_task(reader(number))
