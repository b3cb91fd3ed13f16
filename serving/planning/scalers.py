"""Who decides how many replicas there are to be: our rule, Serve's own, or one that knows what will come."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Collection
from typing import Protocol

from serving.deployments.scaling import Load, Rule, State, decide
from serving.deployments.workload import FirstTokens
from serving.planning.series import Handle
from serving.planning.setup import ServeRule, Setup

_EPSILON = 1e-6


class Scaler(Protocol):
    """`handle`: what the controller is told, None for one that needs nothing. Times are seconds."""

    handle: Handle | None

    def decide(self, now: float, asked: int, running: Collection[int], queued: float) -> int: ...


def scaler_of(setup: Setup) -> Scaler:
    if setup.policy == "known":
        return Known(setup)
    return Questions(setup) if setup.policy == "anchorage" else Default(setup)


class Default:
    """`replica_queue_length_autoscaling_policy`, its factors and delays (`serve/autoscaling_policy.py`, Ray 2.60)."""

    def __init__(self, setup: Setup) -> None:
        self._rule = setup.serve
        self._bounds = (setup.min_replicas, setup.max_replicas)
        self._since: float | None = None
        self._up = False
        self.handle: Handle | None = Handle(self._rule.look_back_period_s, self._rule.metrics_interval_s)

    def decide(self, now: float, asked: int, running: Collection[int], queued: float) -> int:
        assert self.handle is not None
        answer = self._policy(now, asked, len(running), self.handle.total(now, running))
        return max(self._bounds[0], min(self._bounds[1], answer))

    def _policy(self, now: float, asked: int, running: int, requests: float) -> int:
        rule = self._rule
        if running == 0:
            if requests > 0:
                return max(math.ceil(rule.upscaling_factor), asked)
            return asked
        return self._delayed(now, asked, scaled(requests, running, rule))

    def _delayed(self, now: float, asked: int, desired: int) -> int:
        if desired == asked:
            self._since = None
            return asked
        up = desired > asked
        if self._since is None or up != self._up:
            self._since, self._up = now, up
        rule = self._rule
        delay = rule.upscale_delay_s if up else rule.downscale_delay_s
        if not up:
            if asked > 1:
                desired = max(1, desired)
            elif rule.downscale_to_zero_delay_s is not None:
                delay = rule.downscale_to_zero_delay_s
        if now - self._since + _EPSILON >= delay:
            self._since = None
            return desired
        return asked


def scaled(requests: float, running: int, rule: ServeRule) -> int:
    """Replicas that the default rule wants, before its delays. At least one runs."""
    desired = running * (requests / (rule.target_ongoing_requests * running))
    factor = rule.upscaling_factor if desired > running else rule.downscaling_factor
    answer = math.ceil(running + factor * (desired - running))
    if math.ceil(desired) < running and answer == running:
        answer -= 1
    return max(0, answer)


class Questions:
    """Our rule (`serving/deployments/scaling.py`) with what its Serve policy would tell it.

    Work in the replicas is averaged over `look_back_s` and told every `report_s`, by all at once. Waking goes as Serve
    does it: nobody runs, and the handle reports a request.
    """

    def __init__(self, setup: Setup) -> None:
        scaling = setup.scaling
        bounds = (setup.min_replicas, setup.max_replicas)
        self._rule = Rule.of(scaling, bounds, scaling.llm_requests, scaling.ttft_target_s)
        self._state = State()
        self._look_back_s = scaling.look_back_s
        self._areas: deque[tuple[float, float]] = deque()
        self._area, self._at, self._value = 0.0, 0.0, 0.0
        self._work = 0.0
        self._now = 0.0
        self._first = FirstTokens(lambda: self._now)
        self._waiting: dict[int, int] = {}
        self._ttft: float | None = None
        self.handle: Handle | None = Handle(scaling.look_back_s, scaling.report_s)

    def taken(self, now: float, request: int) -> None:
        self._now = now
        self._waiting[request] = self._first.begin()

    def first_token(self, now: float, request: int) -> None:
        """Of a replica: one that goes on with an answer has a first token of its own."""
        self._now = now
        self._first.came(self._waiting.pop(request))

    def left(self, request: int) -> None:
        """Its replica is gone."""
        if request in self._waiting:
            self._first.gone(self._waiting.pop(request))

    def report(self, now: float, in_work: float) -> None:
        """`in_work`: requests in all replicas from now on."""
        self._area += self._value * (now - self._at)
        self._at, self._value = now, in_work

    def pushed(self, now: float) -> None:
        """The replicas tell."""
        self.report(now, self._value)
        self._areas.append((now, self._area))
        while len(self._areas) > 2 and self._areas[1][0] <= now - self._look_back_s:
            self._areas.popleft()
        since, area = self._areas[0]
        self._work = (self._area - area) / (now - since) if now > since else self._value
        self._now = now
        self._ttft = self._first.p95()

    def decide(self, now: float, asked: int, running: Collection[int], queued: float) -> int:
        assert self.handle is not None
        work = self._work + queued if running else self.handle.total(now, running)
        load = Load(now, asked, len(running), work, self._ttft)
        answer, self._state = decide(self._state, load, self._rule)
        return answer


class Known:
    """Follows a schedule of (time, replicas) that was made from the trace itself."""

    def __init__(self, setup: Setup) -> None:
        self.handle: Handle | None = None
        self._times = [at for at, _ in setup.schedule]
        self._counts = [count for _, count in setup.schedule]
        self._least = setup.min_replicas

    def decide(self, now: float, asked: int, running: Collection[int], queued: float) -> int:
        place = bisect_right(self._times, now) - 1
        return self._counts[place] if place >= 0 else self._least
