"""Rounds, ratios, and what makes a run void."""

from __future__ import annotations

import asyncio
import time

import pytest

from loadtest.bench.rounds import Sample, VoidRound, differences, interleave, percentile, ratios, series, spread
from loadtest.bench.watch import watched


async def test_sides_take_turns_and_the_first_turn_does_not_count() -> None:
    """A B A B, after one of each to warm up."""
    order: list[str] = []

    def side(name: str) -> object:
        async def measure() -> Sample:
            order.append(name)
            return {"value": float(len(order))}

        return measure

    samples = await interleave({"a": side("a"), "b": side("b")}, 2)  # type: ignore[dict-item]
    assert "".join(order) == "ababab"
    assert series(samples, "a", "value") == [3.0, 5.0]
    assert series(samples, "b", "value") == [4.0, 6.0]


async def test_a_void_round_is_repeated() -> None:
    """What the client spoiled is measured again, and counted once."""
    calls = 0

    async def measure() -> Sample:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise VoidRound("the client was late")
        return {"value": float(calls)}

    assert series(await interleave({"a": measure}, 2), "a", "value") == [3.0, 4.0]


async def test_a_client_that_is_always_too_slow_voids_the_run() -> None:
    """No figure is better than a figure about the client."""

    async def measure() -> Sample:
        raise VoidRound("the client was late")

    with pytest.raises(VoidRound, match="in a row: the client was late"):
        await interleave({"a": measure}, 1)


async def test_a_late_client_is_noticed() -> None:
    """A loop that was blocked would have stamped what arrived meanwhile too late."""

    async def blocked() -> None:
        async with watched(late_limit_ms=10):
            await asyncio.sleep(0)  # lets the probe set its timer, which is due in 5 ms
            time.sleep(0.1)  # noqa: ASYNC251 - blocking is the point
            await asyncio.sleep(0.001)

    with pytest.raises(VoidRound, match="late"):
        await blocked()


def test_ratios_are_taken_round_by_round() -> None:
    """A slow minute that hits both sides cancels out."""
    assert ratios([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == spread([2.0])
    assert differences([5.0, 7.0], [1.0, 1.0]).median == 5.0
    assert spread([3.0, 1.0, 2.0]).text(1, " ms") == "2.0 ms (1.0 to 3.0)"


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_values_that_were_seen(share: float, expected: int) -> None:
    """Nearest rank, not interpolated."""
    assert percentile([float(value) for value in range(1, 101)], share) == expected
