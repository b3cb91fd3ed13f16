"""The rules that are simulated are those of the installed Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.planning.scalers import Default
from serving.planning.series import Total
from serving.planning.setup import Setup

_RULES = st.fixed_dictionaries(
    {
        "target_ongoing_requests": st.floats(0.5, 20),
        "upscale_delay_s": st.sampled_from([0.0, 2.0, 30.0]),
        "downscale_delay_s": st.sampled_from([0.0, 3.0, 60.0]),
        "downscale_to_zero_delay_s": st.sampled_from([None, 1.0, 20.0]),
        "upscaling_factor": st.floats(0.2, 3),
        "downscaling_factor": st.floats(0.2, 3),
    }
)
_STEPS = st.lists(st.tuples(st.sampled_from([0.1, 1.0, 7.0]), st.floats(0, 80), st.integers(-2, 1)), max_size=40)


class _Told:
    """A handle that says what it is told to."""

    push_s = record_s = 1.0
    requests = 0.0

    def total(self, now: float, running: Any) -> float:
        return self.requests


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rule=_RULES, steps=_STEPS, least=st.integers(0, 2))
def test_serves_own_rule_is_serves_own(
    monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], steps: list[tuple[float, float, int]], least: int
) -> None:
    """Step by step the same target as `autoscaling_policy.py` decides, within the same bounds."""
    from ray.serve import autoscaling_policy as theirs
    from ray.serve.config import AutoscalingConfig

    config = AutoscalingConfig(min_replicas=least, max_replicas=9, **rule)
    policy = theirs._apply_autoscaling_config(theirs._core_replica_queue_length_policy)
    ours = Default(Setup.model_validate({"min_replicas": least, "max_replicas": 9, "serve": rule}))
    ours.handle = told = _Told()  # type: ignore[assignment]
    now, asked, state = 1000.0, least, {}
    for elapsed, requests, lag in steps:
        now += elapsed
        running = max(0, asked + lag)
        monkeypatch.setattr(theirs, "time", SimpleNamespace(time=lambda at=now: at))
        told.requests = requests
        context: Any = SimpleNamespace(
            config=config,
            current_num_replicas=running,
            target_num_replicas=asked,
            total_num_requests=requests,
            policy_state=state,
        )
        decided, state = policy(context)
        decided = max(least, min(9, decided))
        assert ours.decide(now, asked, dict.fromkeys(range(running), 0), 0.0) == decided
        asked = decided


_SERIES = st.lists(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 9)), min_size=1, max_size=8, unique_by=lambda one: one[0]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(series=_SERIES, later=st.integers(0, 500))
def test_load_is_averaged_as_the_controller_does(series: list[list[tuple[int, int]]], later: int) -> None:
    """The mean of several gauges over time, to the kernel that Serve's controller uses."""
    import numpy as np
    from ray.serve._private.autoscaling_metrics_merge import merge_and_aggregate_arrays

    ordered = [[(at / 100, float(value)) for at, value in sorted(points)] for points in series]
    now = max(at for points in ordered for at, _ in points) + later / 100
    flat = [point for points in ordered for point in points]
    offsets = np.cumsum([0, *map(len, ordered)])
    real = merge_and_aggregate_arrays(
        np.array([at for at, _ in flat]), np.array([value for _, value in flat]), offsets, now
    )
    assert Total(ordered).mean(now) == pytest.approx(real, abs=1e-9)
