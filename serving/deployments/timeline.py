"""How long the stages of a cold start take, learnt from those that were seen: what Retry-After and progress say."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.generation import Readiness

#: The stages in their order: a place to run (with a node that starts for it), the image of its container, the engine
#: with its weights. Where nobody tells the second from the first, both are the first.
NODE, IMAGE, WEIGHTS = "node", "image", "weights"
STAGES = (NODE, IMAGE, WEIGHTS)
READY, ASLEEP = "ready", "asleep"
#: Weight of the newest start in what is expected.
_NEWEST = 0.5
#: A stage that takes longer than it ever did takes so much of its time once more, as far as we know.
_OVERDUE = 0.5

_HEAD = (
    "# HELP anchorage_llm_start_seconds Last start of the LLM that this replica saw, by stage; ready is all of it.\n"
    "# TYPE anchorage_llm_start_seconds gauge\n"
)


class Timeline:
    """One deployment's. `first_estimate_s`: of a whole start, until one was seen.

    `nodes`: whether its node may have to be started, too; elsewhere an unknown first stage takes no time.
    """

    def __init__(
        self, first_estimate_s: float, *, nodes: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first_estimate_s = first_estimate_s
        self._nodes = nodes
        self._clock = clock
        self._expected: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._stage = "unknown"
        self._entered = clock()

    def note(self, stage: str) -> None:
        """What is seen now."""
        now = self._clock()
        if self._stage in STAGES:
            self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._entered
        if stage == READY and self._spent:
            self._last = {**self._spent, READY: sum(self._spent.values())}
            for name, seconds in self._spent.items():
                self.learn(name, seconds)
        if stage not in STAGES:
            self._spent = {}
        self._stage, self._entered = stage, now

    def learn(self, stage: str, seconds: float) -> None:
        """What a stage took, also from a start that somebody else saw."""
        before = self._expected.get(stage, seconds)
        self._expected[stage] = before + _NEWEST * (seconds - before)

    @property
    def readiness(self) -> Readiness:
        """Elapsed: since the start began. Estimate: what this stage and those after it still take."""
        if self._stage == READY:
            return Readiness(ready=True)
        if self._stage not in STAGES:
            return Readiness(False, self._stage, 0.0, max(1.0, self._to_come(0)))
        here = self._clock() - self._entered + self._spent.get(self._stage, 0.0)
        elapsed = self._clock() - self._entered + sum(self._spent.values())
        if not self._known:
            return Readiness(False, self._stage, elapsed, self._left(self._first_estimate_s, elapsed))
        number = STAGES.index(self._stage)
        left = self._left(self._stage_s(self._stage), here) + self._to_come(number + 1)
        return Readiness(False, self._stage, elapsed, max(1.0, left))

    def metrics(self) -> str:
        """Prometheus's text format; nothing before a start was seen."""
        lines = [f'anchorage_llm_start_seconds{{stage="{stage}"}} {took:.3f}\n' for stage, took in self._last.items()]
        return _HEAD + "".join(lines) if lines else ""

    @property
    def _known(self) -> bool:
        return WEIGHTS in self._expected

    def _to_come(self, first: int) -> float:
        """The stages from that number on."""
        if not self._known:
            return self._first_estimate_s
        return sum(self._stage_s(stage) for stage in STAGES[first:])

    def _stage_s(self, stage: str) -> float:
        if stage in self._expected:
            return self._expected[stage]
        if stage == NODE and self._nodes:
            return max(0.0, self._first_estimate_s - sum(self._expected.values()))
        return 0.0

    @staticmethod
    def _left(expected: float, spent: float) -> float:
        return max(1.0, expected - spent, _OVERDUE * (spent - expected))
