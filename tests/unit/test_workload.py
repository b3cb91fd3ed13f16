"""What replicas say of their work, and what Serve's policy makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pytest

from serving.deployments.batches import Batches, Tally
from serving.deployments.policy import FollowQuestions, Measure, autoscaling
from serving.deployments.scaling import Rule
from serving.deployments.workload import FirstTokens, Meter, Requests
from serving.index.types import Vectors
from serving.settings import ScalingSettings


@dataclass
class Clock:
    now: float = 50.0

    def __call__(self) -> float:
        return self.now


def test_what_came_and_went_between_two_looks_counts() -> None:
    """Two requests for a second each, in four seconds: half a request on average; then none."""
    clock = Clock()
    meter = Meter(clock)
    for _ in range(2):
        with meter.held():
            clock.now += 1
        clock.now += 1
    assert meter.mean() == 0.5
    clock.now += 10
    assert meter.mean() == 0.0
    meter.add(3)
    assert meter.mean() == 3.0, "no time has passed: what is there now"


def test_who_waits_for_a_first_token_counts_with_his_wait() -> None:
    """An engine that answers nobody has no times to first token, and is slow all the same."""
    clock = Clock()
    tokens = FirstTokens(clock)
    numbers = [tokens.begin() for _ in range(20)]
    clock.now += 1
    for number in numbers[:10]:
        tokens.came(number)
        tokens.came(number)
    clock.now += 7
    assert tokens.p95() == 8.0
    for number in numbers:
        tokens.gone(number)
    assert tokens.p95() == 1.0
    clock.now += 60
    assert tokens.p95() is None, "what was long ago says nothing"


def test_an_engine_reports_requests_and_first_tokens() -> None:
    """Under names that the policy knows; the p95 only when enough were seen."""
    clock = Clock()
    requests = Requests(clock)
    with requests.one():
        clock.now += 2
    assert requests.report() == {"work": 1.0}
    for _ in range(5):
        with requests.one() as token_came:
            clock.now += 0.5
            token_came()
            clock.now += 0.5
    assert requests.report() == {"work": 1.0, "ttft_p95_s": 0.5}


class Held:
    """A model whose passes end when they are told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors:
        await self.go.wait()
        return np.zeros((len(texts), 1), dtype=np.float32)


async def test_an_embedder_reports_passes_that_run_and_those_that_wait() -> None:
    """One runs, eight texts wait for one of four at a time each, one is bulk; afterwards there is nothing."""
    clock, model = Clock(), Held()
    tally = Tally(work=Meter(clock))
    batches = Batches(model, size=4, wait_s=0.0, tally=tally)
    asked = [asyncio.create_task(batches.embed(["first"]))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked += [asyncio.create_task(batches.embed(["next"])) for _ in range(8)]
    asked += [asyncio.create_task(batches.embed(["much"] * 9))]
    gone = asyncio.create_task(batches.embed(["gone"]))
    await asyncio.sleep(0)
    gone.cancel()
    tally.report()
    clock.now += 3
    assert tally.report()["work"] == pytest.approx(1 + 8 / 4 + 1 / 4 + 0.5)
    model.go.set()
    await asyncio.gather(*asked)
    tally.report()
    clock.now += 3
    assert tally.report() == {"work": 0.0}


@dataclass
class Point:
    value: float


@dataclass
class Seen:
    """Serve's context as the policy reads it."""

    current_num_replicas: int = 2
    target_num_replicas: int = 2
    total_num_requests: float = 0.0
    total_queued_requests: float = 0.0
    aggregated_metrics: dict[str, dict[Any, float]] | None = None
    raw_metrics: dict[str, dict[Any, list[Any]]] | None = None
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 10
    current_time: float | None = 1000.0
    policy_state: dict[str, Any] = field(default_factory=dict)

    def answer(self, measure: Measure, target: float = 10.0, **rule: Any) -> int:
        """Without delay."""
        bounds = Rule(1, 10, target, 0.0, 0.0, 0.0, **rule)
        answer, self.policy_state = FollowQuestions(asdict(bounds), measure, busy=0.5)(self)
        return answer


def test_work_is_what_replicas_report_and_what_waits_before_them() -> None:
    """Not what Serve counts: calls for metrics are no questions."""
    seen = Seen(total_num_requests=90, total_queued_requests=7, aggregated_metrics={"work": {"a": 20.0, "b": 10.0}})
    assert seen.answer("reported") == 4


def test_without_any_report_serves_own_count_stands_in() -> None:
    """A replica that has just started has not said anything yet."""
    assert Seen(total_num_requests=31).answer("reported") == 4


def test_a_busy_api_needs_company_however_few_its_requests() -> None:
    """Two replicas that compute all of the time, and are to do so half of it: four."""
    assert Seen(total_num_requests=3, aggregated_metrics={"busy": {"a": 1.0, "b": 1.0}}).answer("requests") == 4
    assert Seen(total_num_requests=45, aggregated_metrics={"busy": {"a": 0.1, "b": 0.1}}).answer("requests") == 5


def test_the_newest_times_to_first_token_are_taken() -> None:
    """The mean of what the replicas said last; at the second look, when they have been as many for long enough."""
    series = {"a": [Point(0.1), Point(5.0)], "b": [Point(3.0)], "c": []}
    seen = Seen(aggregated_metrics={"work": {"a": 5.0, "b": 5.0}}, raw_metrics={"ttft_p95_s": series})
    assert seen.answer("reported", ttft_target_s=2.0) == 2
    seen.current_time = 1030.0
    assert seen.answer("reported", ttft_target_s=2.0) == 4


def test_serves_bounds_hold() -> None:
    """They follow the target capacity of a rollout, and a configuration that was changed in place."""
    seen = Seen(total_num_requests=90, capacity_adjusted_max_replicas=3)
    assert seen.answer("requests") == 3


def test_serve_takes_the_configuration() -> None:
    """Its own model of it, with the policy importable by its path."""
    from ray.serve.config import AutoscalingConfig

    settings = ScalingSettings()
    config = autoscaling(settings, Rule.of(settings, (0, 4), 8.0, 2.0), "reported")
    with pytest.warns(DeprecationWarning, match="metrics_interval_s"):
        taken = AutoscalingConfig(**config)
    assert taken.look_back_period_s > taken.metrics_interval_s
    assert (taken.min_replicas, taken.max_replicas) == (0, 4)
    policy = taken.policy.get_policy()(**taken.policy.policy_kwargs)
    assert policy(Seen(total_num_requests=1, current_num_replicas=0, target_num_replicas=0))[0] == 1
