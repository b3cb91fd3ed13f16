"""The knee that `anchorage loadtest sweep` finds, against the one of a fine grid: both real, on this machine.

The server is `knee_server`: real HTTP, a line and places whose times are known. Every level of the grid is held with as
many seeds, judged together, as the sweep judges its own: the grid's knee is the highest rate up to which all are kept.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from loadtest.bench.client import BenchError
from loadtest.bench.knee_server import Places
from loadtest.bench.processes import Launch, running
from loadtest.bench.rounds import spread
from loadtest.bench.table import Result, Row
from loadtest.cli_on_cluster import Where
from loadtest.cli_study import Loading
from loadtest.evidence import outcome
from loadtest.live import LiveView
from loadtest.run import Run
from loadtest.slo import Slo
from loadtest.sweep import Found
from loadtest.sweeping import Plan, Sweeping
from loadtest.target import Target
from serving.ports import free_port

BAR = 0.1
PLACES = Places(16, 0.3)
#: p95 of the TTFT, seconds: about three times what it is without a line.
_BOUND_S = 0.6
#: Of the capacity: from where to where the grid goes.
_LOWEST, _HIGHEST = 0.7, 1.1
#: A level of the grid that is void is made so often in all.
_TRIES = 4
#: Far from the seeds of the sweep: the two must not share their luck.
_GRID_SEED = 10_000


@dataclass(frozen=True)
class Size:
    """Of the grid: its step, and runs of a level. Seconds of a level, of the sweep's, too."""

    step: float = 0.025
    runs: int = 3
    duration_s: int = 20
    warmup_s: int = 2


async def measure(size: Size, progress: Progress) -> Result:
    """Raises BenchError where the client was the limit."""
    port = free_port()
    arguments = ["loadtest.bench.knee_server", *PLACES.arguments(), "--port", str(port)]
    launch = Launch("knee server", arguments, {}, "/v1/models")
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-", ignore_cleanup_errors=True) as folder:
        async with running(launch, port, Path(folder)) as server:
            view = _Quiet()
            try:
                return await asyncio.to_thread(_measured, server.url, size, progress, view)
            except asyncio.CancelledError:
                view.stopped.set()
                raise


def _measured(url: str, size: Size, progress: Progress, view: _Quiet) -> Result:
    slo = Slo.of({"ttft_p95_s": _BOUND_S, "errors_max": 0.001}, "the bench")
    loading = Loading(Target(url, plain=True), {"plain": True, "unique": True}, Where(), view)
    loading.check()
    rate, found, runs = _swept(loading, slo, size, progress)
    knee, grid_runs = _grid(loading, slo, size, progress)
    error = rate / knee - 1
    row = Row(
        "knee, requests/s (p95 TTFT)",
        f"{rate:g} in {runs} runs",
        f"{knee:g} in {grid_runs} runs",
        f"{100 * error:+.1f} %",
        f"within {100 * BAR:.0f} %",
        abs(error) <= BAR,
        spread([error]),
    )
    return Result(
        [row],
        [
            f"{PLACES.number} places, {PLACES.service_s} s each: {PLACES.capacity:.1f}/s; p95 TTFT <= {_BOUND_S} s",
            f"levels of {size.duration_s} s; the grid has steps of {100 * size.step:g} %, {size.runs} runs each",
            f"sweep: {found.why}; {'sure' if found.sure else 'not sure'}",
        ],
    )


def _swept(loading: Loading, slo: Slo, size: Size, progress: Progress) -> tuple[float, Found, int]:
    """What it found, and the runs that took."""
    plan = Plan("poisson:{rate}", size.duration_s, size.warmup_s, 1, budget_s=3600.0, within=0.05, repeats=4)
    work = Sweeping(plan, slo, loading)
    with _task(progress, "sweep", None):
        work.run()
    found = work.found()
    if found is None or found.limited or work.ended:
        raise BenchError(f"the sweep came to no end: {work.ended or (found.why if found else '')}")
    if found.rate is None:
        raise BenchError(f"the sweep found nothing: {found.why}")
    return found.rate, found, len(work.study.runs)


def _grid(loading: Loading, slo: Slo, size: Size, progress: Progress) -> tuple[float, int]:
    """The highest rate up to which every level is kept, and the runs that took."""
    knee, made = 0.0, 0
    rate = _LOWEST * PLACES.capacity
    levels = round(math.log(_HIGHEST / _LOWEST) / math.log1p(size.step))
    with _task(progress, "grid", levels) as task:
        for level in range(levels):
            runs = [_held(loading, rate, _GRID_SEED + 100 * level + number, size) for number in range(size.runs)]
            made += len(runs)
            judged = outcome(slo, runs)
            if judged.excess > 0 or judged.growing:
                break
            knee, rate = rate, rate * (1 + size.step)
            progress.advance(task)
        else:
            raise BenchError(f"every level of the grid is kept, up to {knee:g}/s")
    if not knee:
        raise BenchError(f"the lowest level of the grid, {rate:g}/s, is not kept: {judged}")
    return float(f"{knee:.4g}"), made


def _held(loading: Loading, rate: float, seed: int, size: Size) -> Run:
    load = {"arrivals": f"poisson:{rate:.5g}"}
    for _ in range(_TRIES):
        made = loading.level("grid", load, duration_s=size.duration_s, warmup_s=size.warmup_s, seed=seed)
        if not made.runs[0].void:
            return made.runs[0]
    raise BenchError(f"void {_TRIES} times at {rate:g}/s: {'; '.join(made.runs[0].void)}")


class _Quiet(LiveView):
    """The bench has a progress bar of its own. `stopped`: the level that is under way ends, and none follows."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(quiet=True)
        self.stopped = threading.Event()

    def update(self, progress: Mapping[str, Any]) -> None:
        if self.stopped.is_set():
            raise BenchError("stopped")


@contextmanager
def _task(progress: Progress, name: str, total: int | None) -> Iterator[TaskID]:
    task = progress.add_task(name, total=total)
    yield task
    progress.update(task, completed=total or 1, total=total or 1)
