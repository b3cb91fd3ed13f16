"""One engine replica: continuous batching as a queue, a prompt at a time, and answers that share its steps.

All answers in work get tokens at one rate, so one counter of tokens stands for them all: an answer that begins at
counter c with n tokens ends at c + n. That makes an event of each begin and end, and of nothing between.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from serving.planning.setup import EngineRates

_NEVER = math.inf
_EPSILON = 1e-9


class Replica:
    """`node` None: waits for a place. Requests are numbers; their lengths come with them."""

    __slots__ = (
        "_counter",
        "_ends",
        "_first",
        "_last",
        "_left",
        "_prompts",
        "_rates",
        "_token_rate",
        "_waiting",
        "_work_rate",
        "in_flight",
        "node",
        "number",
        "stop_by",
        "version",
    )

    def __init__(self, number: int, rates: EngineRates) -> None:
        self.number = number
        self.node: object | None = None
        self.in_flight = 0
        self.version = 0
        self.stop_by: float | None = None
        self._rates = rates
        self._counter = 0.0
        self._last = 0.0
        self._ends: list[tuple[float, int]] = []
        self._prompts: deque[tuple[int, int, int]] = deque()
        self._left = 0.0
        self._first: list[tuple[float, int, int]] = []
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._token_rate = 0.0
        self._work_rate = 0.0

    def take(self, now: float, request: int, prompt: int, answer: int) -> None:
        self._advance(now)
        self.in_flight += 1
        if self._busy() < self._rates.sequences:
            self._admit(now, request, prompt, answer)
        else:
            self._waiting.append((request, prompt, answer))
        self._set_rates()

    def next_event(self) -> float:
        """When something happens if nobody comes before. (Asked for at every event: hence no min and max.)"""
        soonest = self._first[0][0] if self._first else _NEVER
        if self._prompts:
            at = self._last + self._left / self._work_rate
            soonest = at if at < soonest else soonest
        if self._ends:
            at = self._last + (self._ends[0][0] - self._counter) / self._token_rate
            soonest = at if at < soonest else soonest
        return soonest if soonest > self._last else self._last

    def step(self, now: float) -> tuple[list[int], list[int]]:
        """Requests whose first token came now, and those that are done."""
        self._advance(now)
        begun: list[int] = []
        done: list[int] = []
        while self._prompts and self._left <= _EPSILON * 1e3:
            request, _, answer = self._prompts.popleft()
            self._left = self._prompts[0][1] if self._prompts else 0.0
            self._begin(request, answer, begun, done)
        while self._first and self._first[0][0] <= now + _EPSILON:
            _, request, answer = heapq.heappop(self._first)
            self._begin(request, answer, begun, done)
        while self._ends and self._ends[0][0] <= self._counter + 1e-6:
            done.append(heapq.heappop(self._ends)[1])
        self.in_flight -= len(done)
        while self._waiting and self._busy() < self._rates.sequences:
            self._admit(now, *self._waiting.popleft())
        self._set_rates()
        return begun, done

    def abandon(self, now: float) -> list[tuple[int, int]]:
        """Stop at once: (request, answer tokens still to come) of what was not finished."""
        self._advance(now)
        left = [(request, max(1, math.ceil(end - self._counter))) for end, request in self._ends]
        left += [(request, answer) for request, _, answer in (*self._prompts, *self._waiting)]
        left += [(request, answer) for _, request, answer in self._first]
        self._ends, self._first = [], []
        self._prompts.clear()
        self._waiting.clear()
        self.in_flight = 0
        self._set_rates()
        return left

    def _busy(self) -> int:
        return len(self._ends) + len(self._prompts) + len(self._first)

    def _admit(self, now: float, request: int, prompt: int, answer: int) -> None:
        if self._rates.prefill_tokens_s is None:
            heapq.heappush(self._first, (now + self._rates.first_s, request, answer))
            return
        if not self._prompts:
            self._left = float(prompt)
        self._prompts.append((request, prompt, answer))

    def _begin(self, request: int, answer: int, begun: list[int], done: list[int]) -> None:
        begun.append(request)
        if answer <= 1:
            done.append(request)
        else:
            heapq.heappush(self._ends, (self._counter + answer - 1, request))

    def _advance(self, now: float) -> None:
        elapsed = now - self._last
        if elapsed > 0:
            if self._ends:
                self._counter += elapsed * self._token_rate
            if self._prompts:
                self._left -= elapsed * self._work_rate
            self._last = now

    def _set_rates(self) -> None:
        rates = self._rates
        self.version += 1
        step = rates.step_s + len(self._ends) * rates.step_each_s if self._ends else 0.0
        if self._prompts and rates.prefill_tokens_s is not None:
            whole = step + rates.chunk / rates.prefill_tokens_s
            self._work_rate = rates.chunk / whole
            self._token_rate = 1.0 / whole
        elif self._ends:
            self._token_rate = 1.0 / step
