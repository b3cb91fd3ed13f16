"""Metrics and logs: their names, and nothing about who calls them.

Every series starts with `anchorage_` and lives in the registry of its own `Telemetry`, so two apps in one process
never share a counter. No label holds what a caller wrote: routes are templates, models are engine names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from serving.settings import TelemetrySettings

#: Content type of `Telemetry.render()`.
METRICS_TYPE = CONTENT_TYPE_LATEST

#: Upper bounds in seconds: from a store call on a warm laptop to a cold start of a GPU node.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Telemetry:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "anchorage_requests_total",
            "Requests answered, by HTTP status.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "anchorage_request_seconds",
            "From a request's arrival to its last byte.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "anchorage_stage_seconds",
            "Time in one stage of an answer or search.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "anchorage_first_token_seconds",
            "From a request's arrival to the first token of its answer.",
            ["engine"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter("anchorage_tokens_total", "Tokens, counted by the engine.", ["kind"], registry=registry)
        self._answers = Counter(
            "anchorage_answers_total", "Finished answers.", ["outcome", "engine"], registry=registry
        )
        self._resumed = Counter(
            "anchorage_answers_resumed_total",
            "Answers that another engine went on with, by what was lost: engine, replica or node.",
            ["reason"],
            registry=registry,
        )
        self._citations = Counter("anchorage_citations_total", "Checked citations that were sent.", registry=registry)
        self._running = Gauge("anchorage_requests_running", "Requests being worked on.", ["pool"], registry=registry)
        self._queued = Gauge(
            "anchorage_requests_queued", "Admitted requests waiting for a turn.", ["pool"], registry=registry
        )
        self._engine_running = Gauge("anchorage_engine_running", "Answers in the making.", ["model"], registry=registry)
        self._engine_waiting = Gauge(
            "anchorage_engine_waiting", "Answers in the making without a first token yet.", ["model"], registry=registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def stages(self, timings_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in timings_ms.items():
            self._stage_seconds.labels(stage).observe(milliseconds / 1000)

    def first_token(self, engine: str, seconds: float) -> None:
        self._first_token.labels(engine).observe(seconds)

    def tokens(self, *, prompt: int, completion: int = 0, cached: int = 0) -> None:
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)
        self._tokens.labels("cached").inc(cached)

    def answered(self, outcome: str, engine: str, citations: int) -> None:
        self._answers.labels(outcome, engine).inc()
        self._citations.inc(citations)

    def resumed(self, reason: str) -> None:
        self._resumed.labels(reason).inc()

    def watch_admission(self, pool: str, running: Callable[[], float], queued: Callable[[], float]) -> None:
        """Read the two gauges of `pool` when somebody looks, not on every request."""
        self._running.labels(pool).set_function(running)
        self._queued.labels(pool).set_function(queued)

    def engine(self, model: str, *, running: int = 0, waiting: int = 0) -> None:
        """Add to (or take from) the answers that `model` is writing, and those of them without a first token."""
        if running:
            self._engine_running.labels(model).inc(running)
        if waiting:
            self._engine_waiting.labels(model).inc(waiting)

    def render(self) -> bytes:
        """This process's metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def logger(name: str) -> Any:
    """A structlog logger, as this process's edge configured it."""
    return structlog.get_logger(name)


def request_context(request_id: str) -> AbstractContextManager[None]:
    """Within it every log line of this task carries the request's id."""
    return structlog.contextvars.bound_contextvars(request_id=request_id)


def configure_logging(settings: TelemetrySettings) -> None:
    """Set up structlog for this process: one event a line on standard error. Called at process edges only."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_json:
        shared += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        shared.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
