"""What is said of a cold start: its stages, what they took before, what they should still take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from serving.deployments.guarded import Guard
from serving.deployments.timeline import Timeline


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Start:
    """A timeline whose clock is ours."""

    nodes: bool = True
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.timeline = Timeline(120.0, nodes=self.nodes, clock=self.clock)

    def pass_(self, stage: str, seconds: float) -> None:
        self.timeline.note(stage)
        self.clock.now += seconds

    def whole(self, node: float, image: float, weights: float) -> None:
        for stage, seconds in (("node", node), ("image", image), ("weights", weights)):
            self.pass_(stage, seconds)
        self.timeline.note("ready")

    @property
    def said(self) -> tuple[str, float, float]:
        now = self.timeline.readiness
        return now.stage, now.elapsed_s, now.estimate_s


def test_the_first_start_is_estimated_by_the_setting() -> None:
    """Until it lasts longer: then it takes half of what it is late once more, as far as anybody knows."""
    start = Start()
    start.timeline.note("asleep")
    assert start.said == ("asleep", 0.0, 120.0)
    start.pass_("node", 50)
    assert start.said == ("node", 50.0, 70.0)
    start.pass_("weights", 110)
    assert start.said == ("weights", 160.0, 20.0)


def test_later_starts_are_estimated_by_stages() -> None:
    """What this stage still takes, and all of those after it."""
    start = Start()
    start.whole(60, 30, 20)
    start.timeline.note("asleep")
    assert start.said == ("asleep", 0.0, 110.0)
    start.pass_("node", 10)
    assert start.said == ("node", 10.0, 100.0)
    start.clock.now += 50
    start.pass_("image", 5)
    assert start.said == ("image", 65.0, 45.0)
    start.clock.now += 25
    start.pass_("weights", 12)
    assert start.said == ("weights", 102.0, 8.0)


def test_the_newest_start_counts_half() -> None:
    """A node that was there already does not make the next estimate a guess."""
    start = Start()
    start.whole(60, 30, 20)
    start.timeline.note("asleep")
    start.whole(0, 0, 20)
    start.timeline.note("asleep")
    assert start.said == ("asleep", 0.0, 65.0)


def test_a_replica_tells_what_its_engine_took() -> None:
    """Before any start was seen: on a laptop that is all, on a cluster the rest is the setting's."""
    for nodes, expected in ((False, 20.0), (True, 120.0)):
        start = Start(nodes)
        start.timeline.note("ready")
        start.timeline.learn("weights", 20.0)
        start.timeline.note("asleep")
        assert start.said == ("asleep", 0.0, expected)


def test_a_start_that_did_not_end_teaches_nothing() -> None:
    """Nobody came, and the replica was given up."""
    start = Start()
    start.pass_("node", 500)
    start.timeline.note("asleep")
    assert start.said == ("asleep", 0.0, 120.0)
    assert start.timeline.metrics() == ""


def test_the_last_start_is_exported() -> None:
    """By stage, and all of it."""
    start = Start()
    start.whole(60, 30, 20)
    lines = start.timeline.metrics().splitlines()[2:]
    assert lines == [
        'anchorage_llm_start_seconds{stage="node"} 60.000',
        'anchorage_llm_start_seconds{stage="image"} 30.000',
        'anchorage_llm_start_seconds{stage="weights"} 20.000',
        'anchorage_llm_start_seconds{stage="ready"} 110.000',
    ]


@asynccontextmanager
async def guard_that_says(body: bytes | None) -> AsyncIterator[str]:
    """Its address. None: it takes the question and says nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body is None:
            await reader.read()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("body", "stage"),
    [
        (b'{"stage": "image", "since_s": 3, "reason": "Pulling"}', "image"),
        (b'{"stage": "asleep"}', None),
        (b"[]", None),
        (b"not JSON", None),
        (None, None),
    ],
)
async def test_the_guard_tells_a_node_from_an_image(
    body: bytes | None, stage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that says nothing of use, or nothing at all, is done without."""
    if body is not None:
        monkeypatch.setattr("serving.deployments.guarded._PATIENCE_S", 20.0)
    async with guard_that_says(body) as url:
        assert await Guard(url).stage() == stage


async def test_a_guard_that_is_away_is_done_without() -> None:
    """Callers are answered by what Serve knows."""
    assert await Guard("http://127.0.0.1:9").stage() is None
