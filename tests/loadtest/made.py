"""Made runs: a seeded M/G/k queue whose records look like those of a real server.

Questions wait in one line for `servers` places; so latencies of neighbours resemble each other, as they do in reality,
and a load beyond `System.capacity` makes a line that grows.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from loadtest.histogram import Times
from loadtest.record import Record
from loadtest.run import Client, Run, Sample, Study

_SIGMA = 0.6  # of the lognormal lengths of answers
_ERRORS = ("http_503", "reset", "error_event", "stalled")


@dataclass(frozen=True)
class System:
    """What a server is like. Shares are of the requests, `stalls` of the gaps; `slower` stretches its own times."""

    servers: int = 8
    retrieval_s: float = 0.03
    prefill_s: float = 0.15
    tokens: float = 24.0
    gap_s: float = 0.02
    stalls: float = 0.001
    stall_s: float = 0.3
    errors: float = 0.0005
    recall: float = 0.95
    match: float = 0.8
    truncated: float = 0.02
    slower: float = 1.0

    @property
    def service_s(self) -> float:
        """How long a question holds its place, on average."""
        gaps = (self.tokens - 1) * (self.gap_s * self.slower + self.stalls * self.stall_s)
        return self.prefill_s * self.slower + gaps

    @property
    def capacity(self) -> float:
        """Requests a second beyond which the line grows."""
        return self.servers / self.service_s


def poisson(rate: float) -> Callable[[random.Random, float], Iterator[float]]:
    def times(dice: random.Random, duration_s: float) -> Iterator[float]:
        at_s = dice.expovariate(rate)
        while at_s < duration_s:
            yield at_s
            at_s += dice.expovariate(rate)

    return times


def run(
    rate: float,
    seed: int = 0,
    system: System | None = None,
    *,
    duration_s: float = 60.0,
    warmup_s: float = 10.0,
    stop_s: float = 60.0,
    gaps: bool = True,
    frozen: tuple[float, float] | None = None,
    void: Sequence[str] = (),
) -> Run:
    """Open loop, Poisson. `gaps` False: none are made, which is much faster. `frozen`: from, for how long it stands."""
    system = system or System()
    dice = random.Random(seed)
    made = Run(
        load={"kind": "open", "arrivals": f"poisson:{rate:g}", "rate": rate},
        duration_s=duration_s,
        warmup_s=warmup_s,
        started_at="2026-01-01T00:00:00+00:00",
        void=list(void),
    )
    free = [0.0] * system.servers
    for number, at_s in enumerate(poisson(rate)(dice, duration_s)):
        made.add(_record(dice, system, at_s, free, number, duration_s + stop_s, gaps, frozen))
    _watched(made, dice)
    return made


def study(rates: Sequence[float], seed: int = 0, system: System | None = None, **options: object) -> Study:
    """A run at each rate."""
    runs = [run(rate, seed * 1000 + index, system, **options) for index, rate in enumerate(rates)]  # type: ignore[arg-type]
    machine = {"cpu": "made", "cores": 2, "memory": 2**34, "commit": "0000000", "command": "made"}
    return Study(
        runs, kind="run" if len(runs) == 1 else "sweep", settings={"seed": seed, "model": "made"}, machine=machine
    )


def _record(
    dice: random.Random,
    system: System,
    at_s: float,
    free: list[float],
    number: int,
    over_s: float,
    gaps: bool,
    frozen: tuple[float, float] | None,
) -> Record:
    dispatch_s = dice.expovariate(2000)
    record = Record("stream", at_s, dispatch_s=dispatch_s, question=number % 40, tokens_in=dice.randint(300, 900))
    retrieval_s = system.retrieval_s * system.slower * dice.uniform(0.5, 1.5)
    arrived_s = at_s + dispatch_s
    began_s = max(arrived_s + retrieval_s, heapq.heappop(free))
    if frozen and frozen[0] <= began_s < sum(frozen):
        began_s = sum(frozen)
    prefill_s = dice.expovariate(1 / (system.prefill_s * system.slower))
    tokens = max(2, round(dice.lognormvariate(math.log(system.tokens) - _SIGMA**2 / 2, _SIGMA)))
    between = _gaps(dice, system, tokens - 1, gaps)
    first_s = began_s + prefill_s
    end_s = first_s + sum(between)
    heapq.heappush(free, end_s)
    if end_s > over_s:
        record.error, record.message, record.total_s = "unfinished", "the run was over", over_s - at_s
        return record
    if dice.random() < system.errors:
        record.error = dice.choice(_ERRORS)
        record.message, record.total_s = f"{record.error}: made", dispatch_s + dice.expovariate(10)
        record.status = 503 if record.error == "http_503" else 200
        return record
    _answered(record, dice, system, tokens, first_s - at_s, end_s - at_s)
    _measured(record, between if gaps else [], retrieval_s, prefill_s, arrived_s, first_s, end_s)
    return record


def _gaps(dice: random.Random, system: System, count: int, each: bool) -> list[float]:
    """Not `each`: their sum, with about the same mean and spread."""
    gap_s = system.gap_s * system.slower
    if not each:
        return [dice.gammavariate(4 * count, gap_s / 4) + count * system.stalls * system.stall_s]
    stalls = (system.stall_s if dice.random() < system.stalls else 0.0 for _ in range(count))
    return [dice.gammavariate(4, gap_s / 4) + stall_s for stall_s in stalls]


def _answered(record: Record, dice: random.Random, system: System, tokens: int, ttft_s: float, total_s: float) -> None:
    record.ttft_s, record.total_s = ttft_s, total_s
    record.status, record.tokens_out, record.pieces, record.outcome = 200, tokens, tokens, "answered"
    record.truncated = dice.random() < system.truncated
    record.citations = dice.randint(0, 3)
    record.citations_valid = 1.0 if record.citations else None
    if record.question is not None and record.question % 2 == 0:
        record.source_recall = 1.0 if dice.random() < system.recall else 0.0
        record.answer_match = dice.random() < system.match


def _measured(
    record: Record,
    gaps: list[float],
    retrieval_s: float,
    prefill_s: float,
    arrived_s: float,
    first_s: float,
    end_s: float,
) -> None:
    if gaps:
        record.gaps_s, record.longest_gap_s = gaps, max(gaps)
        record.gap_p99_s = sorted(gaps)[max(0, int(len(gaps) * 0.99 + 0.5) - 1)]
    network_s = 0.002
    record.stages_s = {
        "embed": retrieval_s * 0.6,
        "search": retrieval_s * 0.4,
        "prompt": 0.0005,
        "first_token": first_s - arrived_s - network_s,
        "generate": end_s - arrived_s - network_s - retrieval_s,
        "total": end_s - arrived_s - network_s,
    }


def _watched(made: Run, dice: random.Random) -> None:
    seconds = math.ceil(made.duration_s)
    by_second = [0.2 + 0.05 * dice.random() for _ in range(seconds)]
    lag_s = Times.of(dice.expovariate(5000) for _ in range(seconds))
    made.clients = [Client("client-0", sum(by_second) / seconds, by_second, lag_s)]
    made.samples = [
        Sample(float(second), {"api": 1, "llm": 1 + (second > seconds / 2)}, {"api": 1, "llm": 2}, 1, 2)
        for second in range(0, seconds, 5)
    ]
    made.events = [{"t_s": made.duration_s / 2, "what": "replica ready", "detail": "llm: 2"}]
