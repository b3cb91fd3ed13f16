"""How fast a fourfold load gets its first new replica, against Serve's default autoscaling; and who flaps on noise."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from loadtest.bench import reaction_replay as replay
from loadtest.bench.client import BenchError
from loadtest.bench.ingest_process import Worker, working
from loadtest.bench.reaction_side import AFTER, BEFORE, TARGET
from loadtest.bench.rounds import Measure, Sample, interleave, ratios, series, spread
from loadtest.bench.table import Result, Row, at_most

BAR, MOST_REVERSALS = 0.3, 1
#: Longer than a side may take for a round, with the deployment before and after it.
_TIMEOUT_S = 400.0
_SEEDS = range(5)


async def measure(rounds: int, warm_s: float, hours: float, progress: Progress) -> Result:
    """`warm_s`: of the load before the step; Serve looks back 30 s. `hours` of noise for each of five seeds."""
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-", ignore_cleanup_errors=True) as folder:
        arguments = ("loadtest.bench.reaction_side", warm_s)
        async with working("reaction", Path(sys.executable), arguments, Path(folder)) as worker:
            sides: dict[str, Measure] = {name: _measure(worker, name) for name in ("ours", "default")}
            samples = await interleave(sides, rounds, progress, warm_up=False)
    ours, default = (series(samples, name, "seconds") for name in ("ours", "default"))
    row = at_most(
        "first new replica answers",
        f"{spread(ours).text(1)} s",
        f"{spread(default).text(1)} s",
        ratios(ours, default),
        BAR,
    )
    flaps = await asyncio.to_thread(_flaps, hours)
    return Result([row, flaps], _notes(warm_s, hours))


def _measure(worker: Worker, name: str) -> Measure:
    async def measure_side() -> Sample:
        stdin, stdout = worker.process.stdin, worker.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{name}\n".encode())
        async with asyncio.timeout(_TIMEOUT_S):
            line = await stdout.readline()
        if not line:
            tail = "\n".join(worker.log.read_text(errors="replace").splitlines()[-15:])
            raise BenchError(f"the process of both sides ended:\n{tail}")
        found: Sample = json.loads(line)
        return found

    return measure_side


def _flaps(hours: float) -> Row:
    ours, default = [], []
    for seed in _SEEDS:
        ours.append(replay.worst(replay.ours(replay.noise(seed, hours))))
        default.append(replay.worst(replay.default(replay.noise(seed, hours))))
    return Row(
        "reversals in ten minutes of noise, at most",
        _listed(ours),
        _listed(default),
        "-",
        f"<= {MOST_REVERSALS}",
        max(ours) <= MOST_REVERSALS,
        spread(ours),
    )


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _notes(warm_s: float, hours: float) -> list[str]:
    return [
        f"step: {BEFORE} requests in flight for {warm_s:g} s, then {AFTER}; both sides: a replica is to carry {TARGET}",
        "peer: Serve's default settings but for that target; the same Llm deployment with the scripted engine, one Ray",
        f"noise: {hours:g} h for each of {len(_SEEDS)} seeds, replayed through both rules by a clock of its own",
    ]
