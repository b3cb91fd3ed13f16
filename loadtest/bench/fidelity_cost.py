"""What a token costs a client: the tokens that it reads for each second of CPU, with all its processes.

Each client is given the same streams, closed loop, and asks again at once. `followed`: so many streams, each at its own
pace, that most tokens come alone. `flooded`: the server writes whole answers, each token in a chunk of its own, as fast
as the client takes them: the client is the limit, and this is what it can read at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.progress import Progress

from loadtest.bench.fidelity_script import Script
from loadtest.bench.fidelity_sides import Load, Ours, Side, Stock, measured
from loadtest.bench.rounds import Measure, Sample, Samples, VoidRound, interleave, ratios, series, spread
from loadtest.bench.table import Row, at_least

BAR = 3.0
OURS, PEER, FAST = "ours", "HttpUser", "FastHttpUser"
SIDES: Mapping[str, Side] = {OURS: Ours(closed=True), PEER: Stock("Reading"), FAST: Stock("FastReading")}
FOLLOWED, FLOODED = NAMES = ("followed", "flooded")
#: As much as a stock `HttpUser` can follow on one core, about.
TOKENS_PER_S = 16_000.0
#: What a request costs is spread over so many.
_TOKENS = 128
#: Streams that are flooded.
_STREAMS = 32


def loads(seconds: float) -> dict[str, Load]:
    flood = Script(tokens=_TOKENS, flood=True)
    return {
        FOLLOWED: Load(TOKENS_PER_S, Script(tokens=_TOKENS), seconds),
        FLOODED: Load(_STREAMS * _TOKENS / flood.answer_s(), flood, seconds),
    }


async def rows(load: Load, name: str, rounds: int, folder: Path, progress: Progress | None, *, fast: bool) -> list[Row]:
    """Ours against the one that people write; `fast`: against locust's fast one, which only informs.

    The bar is on what a core can read at most. Where tokens come alone, most of what each costs is to be woken and to
    ask the kernel for it: a reader that does nothing else was measured at 2.4 times `HttpUser`.
    """
    bar = BAR if name == FLOODED else None
    peers = {PEER: bar, FAST: None} if fast else {PEER: bar}
    sides: dict[str, Measure] = {side: partial(_sample, SIDES[side], load, folder) for side in (OURS, *peers)}
    samples = await interleave(sides, rounds, progress, warm_up=False)
    title = f"tokens per second of CPU, {name}"
    return [_row(title, samples, peer, bar) for peer, bar in peers.items()]


async def _sample(side: Side, load: Load, folder: Path) -> Sample:
    used = (await measured(side, load, folder, math.inf)).used
    if not used.cpu_s:
        raise VoidRound("the client was over before its CPU could be read")
    return {"per_cpu_s": used.per_cpu_s, "share": used.cpu_s / used.seconds, "per_s": used.tokens / used.seconds}


def _row(title: str, samples: Samples, peer: str, bar: float | None) -> Row:
    ours, theirs = (series(samples, side, "per_cpu_s") for side in (OURS, peer))
    return at_least(title, _said(samples, OURS), f"{peer}: {_said(samples, peer)}", ratios(ours, theirs), bar)


def _said(samples: Samples, side: str) -> str:
    found = {name: spread(series(samples, side, name)).median for name in ("per_cpu_s", "share", "per_s")}
    each = 1e6 / found["per_cpu_s"]
    return f"{found['per_cpu_s']:,.0f} ({each:.1f} us each; {found['per_s']:,.0f}/s at {found['share']:.0%} of a core)"
