"""Hours of noise replayed through both autoscaling rules, as Serve's controller would call them: who flaps?

Nothing runs here. Requests in flight are a queue's with random arrivals and answer times (M/M/inf), the mean just where
one more replica is needed; the look-back, the delays and the clock are those that the rules would see.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeAlias

from loadtest.bench.reaction_side import DEFAULT, MOST, TARGET
from serving.deployments.policy import FollowQuestions, autoscaling
from serving.deployments.scaling import Rule, reversals
from serving.settings import ScalingSettings

#: (seconds, replicas) at each change.
Changes: TypeAlias = list[tuple[float, int]]

_TICK_S = 1.0
_ANSWER_S = 10.0
WINDOW_S = 600.0


@dataclass
class Moment:
    """What both rules read of Serve's context."""

    config: Any
    current_num_replicas: int = 1
    target_num_replicas: int = 1
    total_num_requests: float = 0.0
    total_queued_requests: float = 0.0
    current_time: float | None = None
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = MOST
    aggregated_metrics: dict[str, Any] = field(default_factory=dict)
    raw_metrics: dict[str, Any] = field(default_factory=dict)
    policy_state: dict[str, Any] = field(default_factory=dict)


def noise(seed: int, hours: float) -> Iterator[tuple[float, int]]:
    """Requests in flight each second."""
    rng = random.Random(seed)
    mean = float(2 * TARGET)
    count, now_s, next_s = round(mean), 0.0, 0.0
    while now_s < hours * 3600:
        while next_s <= now_s:
            next_s += rng.expovariate((mean + count) / _ANSWER_S)
            count += 1 if rng.random() < mean / (mean + count) else -1
        yield now_s, count
        now_s += _TICK_S


def ours(trace: Iterator[tuple[float, int]]) -> Changes:
    """By our policy object."""
    settings = ScalingSettings(llm_requests=TARGET)
    rule = Rule.of(settings, (1, MOST), settings.llm_requests, settings.ttft_target_s)
    policy = FollowQuestions(**autoscaling(settings, rule, "reported")["policy"]["policy_kwargs"])

    def step(moment: Moment) -> int:
        moment.aggregated_metrics = {"work": {"all": moment.total_num_requests}}
        replicas, moment.policy_state = policy(moment)
        return replicas

    return replayed(trace, settings.look_back_s, Moment(None), step)


def default(trace: Iterator[tuple[float, int]]) -> Changes:
    """By Serve's own functions."""
    from ray.serve import autoscaling_policy as serve
    from ray.serve.config import AutoscalingConfig

    config = AutoscalingConfig(**DEFAULT)

    def step(moment: Moment) -> int:
        wanted, _ = serve._core_replica_queue_length_policy(moment)
        scaled = serve._apply_scaling_factors(wanted, moment.current_num_replicas, config)
        target = moment.target_num_replicas
        replicas, moment.policy_state = serve._apply_delay_logic(
            scaled, target, config, moment.policy_state, _now=moment.current_time
        )
        return max(1, min(MOST, int(replicas)))

    return replayed(trace, config.look_back_period_s, Moment(config), step)


def worst(changes: Changes) -> int:
    """Most reversals in any ten minutes."""
    counts = [1, *(count for _, count in changes)]
    times = [0.0, *(at for at, _ in changes)]
    return max(
        reversals(count for at, count in zip(times, counts, strict=True) if start <= at <= start + WINDOW_S)
        for start in times
    )


def replayed(
    trace: Iterator[tuple[float, int]], look_back_s: float, moment: Moment, step: Callable[[Moment], int]
) -> Changes:
    """What a rule asks for; `step` is one look of it. The mean of `look_back_s` is what it sees."""
    changes: Changes = []
    seen: deque[int] = deque(maxlen=max(1, round(look_back_s / _TICK_S)))
    for now_s, count in trace:
        seen.append(count)
        moment.current_time = now_s
        moment.total_num_requests = fmean(seen)
        replicas = step(moment)
        if replicas != moment.target_num_replicas:
            changes.append((now_s, replicas))
        # Replicas start at once: a slow start only makes either side slower.
        moment.target_num_replicas = moment.current_num_replicas = replicas
    return changes
