"""What a simulation saw, and the figures that people choose settings by."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.planning.setup import Setup
from serving.planning.trace import Trace

#: Outcomes of a request. OPEN: not yet; FAILED: its deadline passed.
OPEN, LLM, EXTRACTIVE, REJECTED, FAILED = range(5)
NAMES = ("open", "llm", "extractive", "rejected", "failed")
#: Two changes of direction within this are a flap, seconds.
FLAP_S = 600.0


@dataclass(frozen=True)
class Change:
    """`kind`: replicas_wanted, replicas_ready, nodes_wanted or nodes_up; `value` from then on."""

    t_s: float
    kind: str
    value: int


@dataclass
class Outcome:
    """Arrays are by request. `samples`: (time, in work, waiting)."""

    trace: Trace
    setup: Setup
    outcomes: bytearray
    first: array[float]
    done: array[float]
    cold: bytearray
    changes: list[Change] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    begin_s: float = 0.0
    end_s: float = 0.0
    node_seconds: float = 0.0
    nodes_left: int = 0
    resumed: int = 0

    def level(self, kind: str) -> list[tuple[float, int]]:
        return [(change.t_s, change.value) for change in self.changes if change.kind == kind]

    def first_time(self, kind: str, least: int = 1) -> float | None:
        return next((at for at, value in self.level(kind) if value >= least), None)

    def gpu_seconds(self, until_s: float) -> float:
        """Of all GPUs of machines that are paid for; those left at the end go on until then."""
        more = max(0.0, until_s - self.end_s) * self.nodes_left
        return (self.node_seconds + more) * self.setup.nodes.gpus

    def ttfts(self) -> list[float]:
        """Seconds from arrival to first token of what the LLM answered, in rising order."""
        times = self.trace.times
        return sorted(self.first[i] - times[i] for i, outcome in enumerate(self.outcomes) if outcome == LLM)

    def summary(self, until_s: float) -> dict[str, Any]:
        ttfts = self.ttfts()
        hours = self.gpu_seconds(until_s) / 3600
        replicas = self.level("replicas_wanted")
        return {
            "requests": len(self.trace),
            **{name: self.outcomes.count(code) for code, name in enumerate(NAMES) if code != OPEN},
            "cold": sum(self.cold),
            "resumed": self.resumed,
            "ttft_s": {f"p{share}": percentile(ttfts, share / 100) for share in (50, 95, 99)},
            "waiting_most": max((waiting for _, _, waiting in self.samples), default=0),
            "replicas_most": max((value for _, value in replicas), default=0),
            "nodes_most": max((value for _, value in self.level("nodes_wanted")), default=0),
            "flaps": flaps(replicas),
            "gpu_hours": hours,
            "usd": hours * self.setup.usd_gpu_hour,
            "first_replica_s": self.first_time("replicas_ready"),
            "end_s": self.end_s,
        }


def percentile(rising: Sequence[float], share: float) -> float | None:
    """The value that this share of them does not exceed; None of none."""
    if not rising:
        return None
    return rising[min(len(rising) - 1, max(0, math.ceil(share * len(rising)) - 1))]


def flaps(levels: Iterable[tuple[float, int]]) -> int:
    """How often the direction changed within FLAP_S of the change before."""
    count, before, direction, since = 0, None, 0, -math.inf
    for at, value in levels:
        if before is not None and value != before:
            now = 1 if value > before else -1
            count += direction == -now and at - since <= FLAP_S
            direction, since = now, at
        before = value
    return count
