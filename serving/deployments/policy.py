"""`scaling.decide` as Serve's autoscaling policy: what Serve and the replicas report in, a number of replicas out.

Serve calls it in its controller ten times a second. It is named by its import path, so the controller has to have our
code, as every pod and the laptop do.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import fmean
from typing import Any, Literal, Protocol, TypeAlias

from serving.deployments.scaling import Load, Rule, State, decide
from serving.deployments.workload import BUSY, TTFT, WORK
from serving.settings import ScalingSettings

#: What counts as work. `reported`: what the replicas say, and what waits in front of them. `requests`: what Serve
#: counts, or the time that the replicas are busy, whichever asks for more.
Measure: TypeAlias = Literal["reported", "requests"]

_PATH = f"{__name__}:FollowQuestions"
_STATE = "anchorage"


class Context(Protocol):
    """What is used of Serve's AutoscalingContext. Metrics: {name: {replica: ...}}, of replicas that run.

    `aggregated_metrics` and the two totals are means over the look-back period; points of `raw_metrics` have a
    `timestamp` and a `value`.
    """

    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    current_time: float | None
    policy_state: dict[str, Any]

    @property
    def total_num_requests(self) -> float: ...
    @property
    def total_queued_requests(self) -> float: ...
    @property
    def aggregated_metrics(self) -> dict[str, dict[Any, float]] | None: ...
    @property
    def raw_metrics(self) -> dict[str, dict[Any, list[Any]]] | None: ...


class FollowQuestions:
    """One deployment's policy. `rule`: the fields of `scaling.Rule`; `busy`: how busy a replica is to be."""

    def __init__(self, rule: dict[str, Any], measure: Measure, busy: float) -> None:
        self._rule = Rule(**rule)
        self._measure = measure
        self._busy = busy

    def __call__(self, ctx: Context) -> tuple[int, dict[str, Any]]:
        state = ctx.policy_state.get(_STATE) or State()
        load = Load(
            now_s=ctx.current_time or 0.0,
            replicas=ctx.target_num_replicas,
            ready=ctx.current_num_replicas,
            work=self._work(ctx),
            ttft_s=_ttft(ctx),
        )
        bounds = {
            "min_replicas": ctx.capacity_adjusted_min_replicas,
            "max_replicas": ctx.capacity_adjusted_max_replicas,
        }
        answer, state = decide(state, load, replace(self._rule, **bounds))
        return answer, {_STATE: state}

    def _work(self, ctx: Context) -> float:
        metrics = ctx.aggregated_metrics or {}
        if self._measure == "reported" and metrics.get(WORK):
            return sum(metrics[WORK].values()) + ctx.total_queued_requests
        busy = sum(metrics.get(BUSY, {}).values()) / self._busy
        return max(ctx.total_num_requests, busy * self._rule.target)


def _ttft(ctx: Context) -> float | None:
    """Of the replicas that wrote lately, the newest word of each."""
    reported = [series[-1].value for series in (ctx.raw_metrics or {}).get(TTFT, {}).values() if series]
    return fmean(reported) if reported else None


def autoscaling(settings: ScalingSettings, rule: Rule, measure: Measure) -> dict[str, Any]:
    """`autoscaling_config` of a Serve deployment. Serve's own delays are 0: the rule has them."""
    return {
        "min_replicas": rule.min_replicas,
        "max_replicas": rule.max_replicas,
        # Of no effect here; Serve's own metrics show it.
        "target_ongoing_requests": rule.target,
        # Ray 2.60 calls this deprecated in favour of variables that it does not read yet (serve/_private/constants.py).
        "metrics_interval_s": settings.report_s,
        "look_back_period_s": settings.look_back_s,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "downscale_to_zero_delay_s": 0.0,
        "policy": {
            "policy_function": _PATH,
            "policy_kwargs": {"rule": asdict(rule), "measure": measure, "busy": settings.busy},
        },
    }
