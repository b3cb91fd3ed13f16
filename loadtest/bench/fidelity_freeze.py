"""A server that freezes for some seconds: the queue that users feel, and which tool shows it.

Users come at a steady rate whatever the server does, so the truth is the script's: who comes while it is frozen waits
until it goes on. An open loop asks for each of them; a closed one does not ask while it waits, and never sees them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.progress import Progress

from loadtest.bench.fidelity_script import Script
from loadtest.bench.fidelity_sides import Load, Side, measured
from loadtest.bench.rounds import Measure, Sample, Samples, interleave, series, spread
from loadtest.bench.table import Row
from loadtest.percentiles import ranked

#: Of the load, tokens a second; of the freeze, seconds.
_TOKENS_PER_S, _AFTER_S, _FOR_S = 1_000.0, 6.0, 5.0
PERCENT = 90


def load(seconds: float) -> Load:
    return Load(_TOKENS_PER_S, Script(freeze_s=(_AFTER_S, _FOR_S)), seconds)


def truth(made: Load) -> float:
    """The percentile of the time to the first token, from when each user wanted to ask; seconds."""
    waits = [_first_s(made.script, number, number / made.rate) for number in range(made.requests)]
    return ranked(waits, PERCENT) or 0.0


def _first_s(script: Script, number: int, at_s: float) -> float:
    """Of the user who comes `at_s` after the first."""
    (first_s,) = script.due_s(number, 1)
    frozen_s = script.freeze_s[0] if script.freeze_s else math.inf
    thawed_s = sum(script.freeze_s) if script.freeze_s else math.inf
    if at_s >= thawed_s or at_s + first_s <= frozen_s:
        return first_s
    return thawed_s - at_s + (first_s if at_s >= frozen_s else 0.0)


async def row(
    made: Load, ours: str, sides: Mapping[str, Side], rounds: int, folder: Path, progress: Progress | None, bar: float
) -> Row:
    true_s = truth(made)
    measures: dict[str, Measure] = {name: partial(_sample, side, made, folder) for name, side in sides.items()}
    samples = await interleave(measures, rounds, progress, warm_up=False)
    errors = spread([abs(said / true_s - 1) for said in series(samples, ours, "first")])
    peers = "\n".join(f"{name}: {_said(samples, name, true_s)}" for name in sides if name != ours)
    title = f"frozen for {_FOR_S:g} s: TTFT p{PERCENT} of those who come, truth {true_s:,.2f} s"
    return Row(title, _said(samples, ours, true_s), peers, "-", f"<= {bar:.0%}", errors.median <= bar, errors)


async def _sample(side: Side, made: Load, folder: Path) -> Sample:
    found = (await measured(side, made, folder, math.inf)).said
    return {"first": found.first_p90 or 0.0}


def _said(samples: Samples, side: str, true_s: float) -> str:
    said = spread(series(samples, side, "first"))
    return f"{said.text(2, ' s')}, {said.median / true_s - 1:+.1%}"
