"""Load tools held to the truth: what a scripted server wrote, and when, against what each tool says of it.

Tokens of known timing with stalls of 500 ms among them, at rising loads on one client core; the server has the other.
Ours and GuideLLM make an open loop (Poisson), stock locust its closed one. Errors are shares of the truth.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.progress import Progress

from loadtest.bench import fidelity_cost as cost
from loadtest.bench import fidelity_freeze as freeze
from loadtest.bench.fidelity_script import Script
from loadtest.bench.fidelity_sides import Guidellm, Load, Measured, Ours, Side, Stock, measured
from loadtest.bench.fidelity_truth import Four
from loadtest.bench.ingest_peers import interpreter
from loadtest.bench.rounds import Measure, Sample, Samples, Spread, interleave, series, spread
from loadtest.bench.table import Result, Row

BAR = 0.05
OURS, STOCK, FAST, GUIDELLM = "ours", "HttpUser, own code", "FastHttpUser.iter_lines", "GuideLLM"
#: What stock locust shows for each request with `stream=True`.
_RESPONSE = "HttpUser's response time"
_TITLES = {
    "first_p50": "TTFT p50",
    "first_p99": "TTFT p99",
    "gap_p50": "gap p50",
    "gap_p99": "gap p99",
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. `seconds` each tool makes each load in each round."""

    rounds: int
    tokens_per_s: Sequence[float] = (500.0, 1_000.0, 2_000.0)
    seconds: float = 20.0
    costs: Sequence[str] = cost.NAMES
    #: With a freeze of the server, and beside locust's fast client as well.
    whole: bool = True
    #: Above what else runs on this machine, for the server and for each client alike. Only root may.
    nice: int = -19


#: It leaves others of the machine their part of it, and takes longer to be undisturbed.
QUICK = Size(1, (1_000.0,), 4.0, (cost.FLOODED,), whole=False, nice=-5)


async def measure(
    size: Size, progress: Progress | None, *, sides: Mapping[str, Side], keep: Path | None = None
) -> Result:
    """`keep`: a folder for the logs of what was written. `sides` has ours and stock locust at least."""
    rows, notes = [], []
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-") as made:
        folder = Path(made)
        for tokens_per_s in size.tokens_per_s:
            title = f"{tokens_per_s:,.0f} tokens/s"
            told = _Told(Load(tokens_per_s, Script(), size.seconds, size.nice), folder, keep)
            measures: dict[str, Measure] = {name: partial(told.sample, name, side) for name, side in sides.items()}
            samples = await interleave(measures, size.rounds, progress, warm_up=False)
            rows += judged(title, samples)
            notes.append(f"{title}: {_made(samples)}")
        if size.whole:
            steady = {name: even for name, side in sides.items() if (even := _steady(side))}
            load = replace(freeze.load(size.seconds), nice=size.nice)
            rows.append(await freeze.row(load, OURS, steady, size.rounds, folder, progress, BAR))
        for name, load in cost.loads(size.seconds).items():
            if name in size.costs:
                rows += await cost.rows(
                    replace(load, nice=size.nice), name, size.rounds, folder, progress, fast=size.whole
                )
    return Result(rows, [*notes, *_NOTES])


def _steady(side: Side) -> Side | None:
    """The same with steady arrivals, where it has a schedule; of stock locust only what measures well otherwise."""
    if isinstance(side, Ours | Guidellm):
        return replace(side, arrivals="constant")
    return side if side == Stock("Measuring") else None


async def sides(*, peers: bool) -> dict[str, Side]:
    """GuideLLM is installed first; without `peers` only ours and what people write on stock locust."""
    found: dict[str, Side] = {OURS: Ours(), STOCK: Stock("Measuring")}
    if peers:
        found |= {FAST: Stock("FastMeasuring"), GUIDELLM: Guidellm(await interpreter("guidellm"))}
    return found


_NOTES = (
    "truth: from when the server had the request's bytes until it had written the first token, and from token to "
    "token, of all requests of the run; every side saw every token",
    f"{STOCK}: iter_lines, perf_counter, json.loads, an event for each gap; its statistics are rounded by locust",
    f"{_RESPONSE}: until the headers; it is what locust's table calls the time of a streamed answer",
    f"{GUIDELLM}: one worker process, with its `perf` extra; its inter-token latency is an average per request",
)


class _Told:
    """What tools say at one load. Each round has a seed of its own, the same for all sides."""

    def __init__(self, load: Load, folder: Path, keep: Path | None) -> None:
        self._load = load
        self._folder = folder
        self._keep = keep
        self._rounds: Counter[str] = Counter()

    async def sample(self, name: str, side: Side) -> Sample:
        seed = self._rounds[name] + 1
        load = replace(self._load, script=replace(self._load.script, seed=seed))
        found = await measured(side, load, self._folder)
        self._rounds[name] = seed
        if self._keep:
            await asyncio.to_thread(self._kept, name, seed, self._keep)
        return _sample(found)

    def _kept(self, name: str, seed: int, keep: Path) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        short = "".join(letter if letter.isalnum() else "-" for letter in name)
        shutil.copy(self._folder / "truth.jsonl", keep / f"{self._load.tokens_per_s:.0f}-{short}-{seed}.jsonl")


def _sample(found: Measured) -> Sample:
    truth = found.truth.four()
    response = found.said.response.errors(truth) if found.said.response else {}
    return {
        **found.said.four.errors(truth),
        **{f"response_{name}": error for name, error in response.items()},
        **{f"true_{name}": getattr(truth, name) for name in Four.__slots__},
        "made": found.truth.tokens_per_s(),
        "late": found.truth.late_p99(),
    }


def judged(title: str, samples: Samples) -> list[Row]:
    """A row for each of the four."""
    return [_row(title, name, samples) for name in _TITLES]


def _row(load: str, name: str, samples: Samples) -> Row:
    truth = spread(series(samples, OURS, f"true_{name}"))
    ours = _errors(series(samples, OURS, name))
    peers = {side: f"{side} {_signed(series(samples, side, name))}" for side in samples if side != OURS}
    if f"response_{name}" in samples[STOCK][0]:
        peers[_RESPONSE] = f"{_RESPONSE} {_signed(series(samples, STOCK, f'response_{name}'))}"
    return Row(
        f"{load}: {_TITLES[name]}, truth {1000 * truth.median:,.1f} ms",
        _signed(series(samples, OURS, name)),
        "\n".join(peers.values()),
        "-",
        f"<= {BAR:.0%}",
        ours.median <= BAR,
        ours,
    )


def _errors(signed: Sequence[float]) -> Spread:
    return spread([abs(error) for error in signed])


def _signed(errors: Sequence[float]) -> str:
    """Median and range, with their signs."""
    found = spread(errors)
    return f"{found.median:+.1%} ({found.low:+.1%} to {found.high:+.1%})"


def _made(samples: Mapping[str, Sequence[Sample]]) -> str:
    """The load that each side really made, and how late the server was at that."""
    each = (
        f"{name} {spread(series(samples, name, 'made')).median:,.0f}/s, "
        f"server {1000 * spread(series(samples, name, 'late')).high:.1f} ms late"
        for name in samples
    )
    return "; ".join(each) + " (p99 by its script, the worst round)"
