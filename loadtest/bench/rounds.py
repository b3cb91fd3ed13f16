"""Interleaved rounds: A B C, A B C, ... on one machine in one go, so that a slow minute hits every side alike."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.progress import Progress

from loadtest.bench.client import BenchError

#: What one round of one side gave, by name, in the bench's own units.
Sample: TypeAlias = Mapping[str, float]
Measure: TypeAlias = Callable[[], Awaitable[Sample]]
#: Samples by side, in the order of the rounds.
Samples: TypeAlias = Mapping[str, Sequence[Sample]]

#: How often a round of one side may be repeated because the client was too slow to judge it.
_VOID_LIMIT = 8
#: Whatever disturbed it gets a moment to pass.
_VOID_PAUSE_S = 0.5


class VoidRound(BenchError):
    """The client was too busy or too late to judge the server; the round does not count."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    def text(self, places: int = 2, unit: str = "") -> str:
        low, median, high = (f"{value:,.{places}f}" for value in (self.low, self.median, self.high))
        return f"{median}{unit} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], peer: Sequence[float]) -> Spread:
    """Round by round, ours over the peer's: what drifts between rounds cancels out."""
    return spread([a / b for a, b in zip(ours, peer, strict=True)])


def differences(ours: Sequence[float], peer: Sequence[float]) -> Spread:
    """Round by round, ours less the peer's."""
    return spread([a - b for a, b in zip(ours, peer, strict=True)])


def series(samples: Samples, side: str, name: str) -> list[float]:
    return [sample[name] for sample in samples[side]]


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that `share` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered), -int(-share * len(ordered) // 1)) - 1)]


async def interleave(
    sides: Mapping[str, Measure], rounds: int, progress: Progress | None = None, *, warm_up: bool = True
) -> Samples:
    """Run every side once (not counted, to warm up), then `rounds` times in turn.

    A round that the client spoiled is repeated; raises VoidRound when that happens too often.
    """
    task = progress.add_task("rounds", total=(rounds + warm_up) * len(sides)) if progress else None
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for turn in range(1 - warm_up, rounds + 1):
        for name, measure in sides.items():
            sample = await _valid(name, measure)
            if turn:
                samples[name].append(sample)
            if progress and task is not None:
                progress.update(task, advance=1, description=f"{name} {turn}/{rounds}")
    return samples


async def _valid(name: str, measure: Measure) -> Sample:
    for _ in range(_VOID_LIMIT):
        try:
            return await measure()
        except VoidRound as void:
            reason = void
            await asyncio.sleep(_VOID_PAUSE_S)
    raise VoidRound(f"{name} was void {_VOID_LIMIT} times in a row: {reason}")
