"""What the guard measures: pods of the LLM by stage, how long a start takes, what is not released."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serving.cluster.guard import STAGES, STARTING, State, state_of
from serving.cluster.objects import Json

METRICS_TYPE = CONTENT_TYPE_LATEST
#: From an image that is there to a node, a large image and a large model that are not, seconds.
_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 180, 300, 450, 600, 900, 1200, 1800, 3600)
_UNRELEASED = ("idle", "ending")


class GuardMetrics:
    """`pods`: those that are there, read when somebody looks. `age_s`: since the API server last said something."""

    def __init__(self, pods: Callable[[], list[Json]], age_s: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        self._pods = pods
        count = Gauge("anchorage_gpu_pods", "Pods of the LLM, by stage.", ["stage"], registry=registry)
        for stage in STAGES:
            count.labels(stage).set_function(partial(self._count, stage))
        waiting = Gauge(
            "anchorage_gpu_pod_waiting_seconds",
            "How long the pod that waits longest has been in this stage of its start.",
            ["stage"],
            registry=registry,
        )
        for stage in STARTING:
            waiting.labels(stage).set_function(partial(self._longest, stage))
        unreleased = Gauge(
            "anchorage_gpu_pod_unreleased_seconds",
            "How long a pod has kept its GPUs without serving: it served and is idle, or it is being deleted.",
            ["cause"],
            registry=registry,
        )
        for cause in _UNRELEASED:
            unreleased.labels(cause).set_function(partial(self._longest, cause))
        self._starts = Histogram(
            "anchorage_gpu_pod_start_seconds",
            "What the stages of a pod's start took; ready is all of it.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        Gauge(
            "anchorage_guard_watch_age_seconds", "Since the API server last said something.", registry=registry
        ).set_function(age_s)
        self._failures = Counter(
            "anchorage_guard_failures_total", "Calls to the API server that failed.", registry=registry
        )

    def started(self, took: Mapping[str, float]) -> None:
        for stage, seconds in took.items():
            self._starts.labels(stage).observe(seconds)

    def failed(self) -> None:
        self._failures.inc()

    def render(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self.registry)

    def _states(self, stage: str) -> Iterator[State]:
        return (state for state in map(state_of, self._pods()) if state.stage == stage)

    def _count(self, stage: str) -> float:
        return float(len(list(self._states(stage))))

    def _longest(self, stage: str) -> float:
        now = datetime.now(UTC)
        return max((state.seconds(now) for state in self._states(stage)), default=0.0)
