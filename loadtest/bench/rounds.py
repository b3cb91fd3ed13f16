"""Interleaved rounds: A B C, A B C, ... on one machine in one go, so that a slow minute hits every side alike."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from rich.progress import Progress

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one side over the rounds, in the bench's own unit."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: list[float], peer: list[float]) -> Spread:
    """Round by round, ours over the peer's: what drifts between rounds cancels out."""
    return spread([a / b for a, b in zip(ours, peer, strict=True)])


async def interleave(
    sides: Mapping[str, Measure], rounds: int, progress: Progress | None = None
) -> dict[str, list[float]]:
    """Run every side once (not counted, to warm up), then `rounds` times in turn."""
    task = progress.add_task("rounds", total=(rounds + 1) * len(sides)) if progress else None
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, measure in sides.items():
            value = await measure()
            if turn:
                samples[name].append(value)
            if progress and task is not None:
                progress.update(task, advance=1, description=f"{name} {turn}/{rounds}")
    return samples
