"""A sweep on a real server: holds the levels that `loadtest.sweep` asks for, and lets the server rest between them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape

from loadtest import evidence
from loadtest.cli_study import Loading
from loadtest.figures import figures
from loadtest.run import Run, Study
from loadtest.server_check import Quiet
from loadtest.slo import Slo
from loadtest.sweep import Found, Level, Outcome, Sweep
from serving.errors import AnchorageError

#: Users that ask without a pause, to guess where to begin: a closed loop never asks for more than the server can do.
_USERS = 16
#: Of a level, the time for that guess.
_GUESS_SHARE = 0.5
#: What a level must have at least of requests, for its figures to mean anything.
_LEAST_REQUESTS = 5
#: How long a server may take to be idle again, seconds, before the search goes on all the same.
_REST_S = 120.0
#: Starting and draining a level, seconds, until the first one has shown how long that takes.
_AROUND_S = 15.0


@dataclass(frozen=True)
class Plan:
    """`arrivals`: the kind, with {rate} where the rate belongs. `start` None: by a guess. Seconds; rates a second."""

    arrivals: str
    duration_s: int
    warmup_s: int
    seed: int
    budget_s: float
    within: float
    repeats: int
    start: float | None = None
    highest: float = math.inf

    @property
    def lowest(self) -> float:
        return _LEAST_REQUESTS / (self.duration_s - self.warmup_s)


@dataclass
class Sweeping:
    """One sweep. `study` and `found` are true at any time: a sweep that is ended keeps what it has learned."""

    plan: Plan
    slo: Slo
    loading: Loading
    study: Study = field(default_factory=lambda: Study([], kind="sweep"))
    #: The first level as the load tester kept it, for what it says of settings and server.
    first: Study | None = None
    ended: str = ""
    _search: Sweep | None = None
    _around_s: float = _AROUND_S

    def found(self) -> Found | None:
        """None: not even the first level was begun."""
        return self._search.found(self.ended) if self._search else None

    def run(self) -> None:
        """Until the rate is found or the time is over. Raises AnchorageError only before anything was learned."""
        began = time.monotonic()
        quiet = self._learned()
        self._search = self._begun()
        while (level := self._search.next()) is not None:
            try:
                if self.study.runs:
                    self._rest(quiet)
                needed_s = self.plan.duration_s + self._around_s
                if self.study.runs and time.monotonic() - began + needed_s > self.plan.budget_s:
                    self.ended = f"the time was over (--max-minutes {self.plan.budget_s / 60:g})"
                    return
                self._hold(level)
            except AnchorageError as error:
                if not self.study.runs:
                    raise
                self.ended = str(error)
                return

    def _learned(self) -> Quiet | None:
        target = self.loading.target
        if not self.loading.reachable:
            return None
        quiet = Quiet(target, target.model)
        asyncio.run(quiet.learn())
        return quiet

    def _begun(self) -> Sweep:
        """Raises AnchorageError where the server answers nothing."""
        plan = self.plan
        start = plan.start if plan.start is not None else self._guess()
        lowest = min(start, plan.lowest)
        return Sweep(
            min(start, plan.highest), lowest=lowest, highest=plan.highest, within=plan.within, repeats=plan.repeats
        )

    def _guess(self) -> float:
        duration_s = max(4, round(_GUESS_SHARE * self.plan.duration_s))
        title = f"a guess to begin with: {_USERS} users without a pause"
        made = self.loading.level(
            title, {"users": _USERS}, duration_s=duration_s, warmup_s=1, seed=self.plan.seed, every_s=0
        )
        rate = figures(made.runs[0]).answered_rate
        if not rate:
            raise AnchorageError(f"{self.loading.target.url} answered none of {_USERS} users within {duration_s} s")
        self.loading.live.say(f"  they got {rate:.3g} answers/s")
        return float(f"{rate:.2g}")

    def _hold(self, level: Level) -> None:
        plan, live = self.plan, self.loading.live
        title = f"{level.number + 1}. {level.rate:g}/s {_PURPOSES[level.purpose](level)}"
        began = time.monotonic()
        made = self.loading.level(
            title,
            {"arrivals": plan.arrivals.format(rate=f"{level.rate:g}")},
            duration_s=plan.duration_s,
            warmup_s=plan.warmup_s,
            seed=plan.seed + level.number,
        )
        self._around_s = time.monotonic() - began - plan.duration_s
        self.first = self.first or made
        self.study.runs += made.runs
        outcome = evidence.outcome(self.slo, [self.study.runs[number] for number in (*level.pool, level.number)])
        assert self._search is not None
        self._search.take(outcome)
        live.say(f"  {level.rate:8g}/s  {escape(said(outcome, self.study.runs[-1]))}")

    def _rest(self, quiet: Quiet | None) -> None:
        """What the last level left in its queue must not be felt by the next."""
        if quiet is not None and not asyncio.run(quiet.until_idle(_REST_S)):
            self.loading.live.say(f"  the server is still slower than before the load after {_REST_S:g} s of rest")


_PURPOSES: Mapping[str, Callable[[Level], str]] = {
    "bracket": lambda level: "to bracket the knee",
    "narrow": lambda level: f"again, run {len(level.pool) + 1}" if level.pool else "nearer to the knee",
    "confirm": lambda level: f"to confirm it, fresh run {len(level.pool) + 1}",
}


def said(outcome: Outcome, run: Run) -> str:
    """Of a level: whether it was kept, and how near the objective that is worst off is to its bound."""
    if outcome.void:
        return f"void: {'; '.join(run.void)}"
    if outcome.growing:
        return "not kept: the line grew"
    kept = outcome.excess <= 0
    return f"{'kept' if kept else 'not kept'}: {_distance(outcome, kept)}"


def _distance(outcome: Outcome, kept: bool) -> str:
    if not outcome.binding:
        return "nothing bounds it"
    if abs(outcome.excess) > evidence.FARTHEST - 1e-6:  # how far, was not looked at
        return "nothing is near its bound" if kept else f"{outcome.binding} far beyond its bound"
    return f"{outcome.binding} at {100 * math.exp(outcome.excess):.0f} % of its bound"


def settings(plan: Plan) -> dict[str, Any]:
    """What a study keeps of it."""
    return {
        "arrivals": plan.arrivals.replace("{rate}", "RATE"),
        "duration_s": plan.duration_s,
        "warmup_s": plan.warmup_s,
        "seed": plan.seed,
        "within": plan.within,
        "repeats": plan.repeats,
        "from": plan.start,
        "to": None if plan.highest == math.inf else plan.highest,
        "max_minutes": plan.budget_s / 60,
    }
