"""What a rehearsal showed: its figures, what was wrong, and all of it as JSON (`anchorage-rehearsal/1`)."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from loadtest.rehearsal.client import Row
from loadtest.rehearsal.scenario import UPSCALING_SPEED, Scenario, autoscaling_of
from loadtest.rehearsal.timeline import (
    NODES_UP,
    NODES_WANTED,
    REPLICAS_READY,
    REPLICAS_WANTED,
    Delays,
    Timeline,
)
from serving.settings import Settings

FORMAT = "anchorage-rehearsal/1"
OUTCOMES = ("llm", "extractive", "rejected", "failed", "cut")
#: Ray Serve's own, where nothing is set (serve/_private/constants.py).
_CONTROL_LOOP_S = 0.1
#: How long it may take until the Api has heard of a change.
_NEWS_S = 1.5


@dataclass
class Result:
    """`began` is the intended start of the first request, by `time.monotonic`; `problems` say what went wrong."""

    scenario: Scenario
    settings: Settings
    timeline: Timeline
    delays: Delays
    rows: Sequence[Row]
    began: float
    wall: datetime = field(default_factory=lambda: datetime.now(UTC))
    problems: list[str] = field(default_factory=list)

    @property
    def ended(self) -> float:
        """When the last answer had come."""
        return max((row.at + (row.done_s or 0.0) for row in self.rows), default=self.began)

    def counts(self) -> dict[str, int]:
        return {outcome: sum(row.outcome == outcome for row in self.rows) for outcome in OUTCOMES}

    def needlessly_cold(self) -> int:
        """Requests that got no LLM although one of its replicas served all the time around their start."""
        cold = [row.at for row in self.rows if row.cold]
        return sum(self.timeline.least(REPLICAS_READY, at - _NEWS_S, at + _NEWS_S / 2) > 0 for at in cold)

    def reaction(self) -> dict[str, float | None]:
        """Seconds from the first question to each step."""
        tokens = [row.at + row.ttft_s for row in self.rows if row.outcome == "llm" and row.ttft_s is not None]
        return {
            "replica wanted": self._since_began(self.timeline.first(REPLICAS_WANTED, after=self.began)),
            "GPU node asked for": self._since_began(self.timeline.first(NODES_WANTED, after=self.began)),
            "GPU node up": self._since_began(self.timeline.first(NODES_UP, after=self.began)),
            "replica serving": self._since_began(self.timeline.first(REPLICAS_READY, after=self.began)),
            "first token of the LLM": self._since_began(min(tokens, default=None)),
        }

    def release(self) -> dict[str, float | None]:
        """Seconds from the end of the last answer."""
        zeros = {
            "no replica wanted": REPLICAS_WANTED,
            "no replica left": REPLICAS_READY,
            "no GPU node up": NODES_UP,
            "no GPU node asked for": NODES_WANTED,
        }
        found = {name: self.timeline.zero(kind, self.began) for name, kind in zeros.items()}
        return {name: None if at is None else at - self.ended for name, at in found.items()}

    def as_json(self) -> dict[str, Any]:
        """The page that `anchorage simulate --against` reads, and more. Times are seconds from `began`."""
        return {
            "format": FORMAT,
            "anchorage": importlib.metadata.version("anchorage"),
            "ray": importlib.metadata.version("ray"),
            "command": " ".join(["anchorage", *sys.argv[1:]]),
            "started": self.wall.isoformat(timespec="seconds"),
            "settings": self._settings(),
            "scenario": asdict(self.scenario),
            "delays": {name: [round(one, 2) for one in found] for name, found in asdict(self.delays).items()},
            "events": [{"t_s": round(e.at - self.began, 2), "kind": e.kind, "value": e.value} for e in self._events()],
            "requests": {
                "rows": [row.as_json(self.began) for row in sorted(self.rows, key=lambda row: row.at)],
                "total": len(self.rows),
                **self.counts(),
                "resumed": sum(row.resumed > 0 for row in self.rows),
                "needlessly_cold": self.needlessly_cold(),
            },
            "reaction_s": _rounded(self.reaction()),
            "release_s": _rounded(self.release()),
            "leftover": {"nodes": self.timeline.levels[NODES_UP], "replicas": self.timeline.levels[REPLICAS_READY]},
            "problems": self.problems,
        }

    def _settings(self) -> dict[str, Any]:
        scenario, llm, scaling = self.scenario, self.settings.llm, self.settings.scaling
        theirs = autoscaling_of(scenario, self.settings)
        return {
            "policy": scenario.policy,
            "min_replicas": llm.min_replicas,
            "max_replicas": llm.max_replicas,
            "max_ongoing_requests": llm.max_ongoing_requests,
            "on_cold": llm.on_cold,
            "scaling": theirs or scaling.model_dump(),
            "metrics_push_s": theirs["metrics_interval_s"] if theirs else scaling.report_s,
            "control_loop_s": _CONTROL_LOOP_S,
            "autoscaler": {
                "reconcile_s": scenario.reconcile_s,
                "idle_timeout_s": scenario.idle_s,
                "upscaling_speed": UPSCALING_SPEED,
                "max_nodes": scenario.nodes,
                "gpus_per_node": scenario.gpus_per_node,
            },
            "gpus_per_replica": 1,
            "node_delay_s": scenario.node_delay_s,
            "engine": {
                "start_s": scenario.start_s,
                "concurrency": None,
                "first_token_s": scenario.first_token_s,
                "token_s": scenario.token_s,
            },
        }

    def _events(self) -> list[Any]:
        return sorted(self.timeline.events, key=lambda event: event.at)

    def _since_began(self, at: float | None) -> float | None:
        return None if at is None else at - self.began


def judge(result: Result) -> list[str]:
    """What makes a rehearsal fail, in words."""
    counts, levels, timeline = result.counts(), result.timeline.levels, result.timeline
    found = []
    for outcome in ("failed", "cut"):
        if counts[outcome]:
            first = next(row for row in result.rows if row.outcome == outcome)
            found.append(f"{counts[outcome]} of {len(result.rows)} requests {outcome}, the first one: {first.error}")
    if not counts["llm"]:
        found.append("the LLM answered nothing: no replica came in time")
    if timeline.first(NODES_UP) is None:
        found.append("no GPU node came")
    for kind, name in ((NODES_UP, "GPU nodes"), (REPLICAS_READY, "replicas of the LLM")):
        if levels[kind]:
            found.append(f"{levels[kind]} {name} stayed")
    return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _rounded(figures: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 2) for name, value in figures.items()}
