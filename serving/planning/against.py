"""A real run of the autoscalers beside its simulation: when each thing happened here and there.

Reads what `anchorage rehearse --json` writes (format `anchorage-rehearsal/1`): settings, the requests, the measured
delays of nodes and replicas, and the moments at which levels changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from serving.errors import ConfigurationError
from serving.planning.knobs import made
from serving.planning.outcome import NAMES, OPEN, Outcome
from serving.planning.setup import ServeRule, Setup
from serving.planning.simulation import simulate
from serving.planning.trace import Trace, trace_of
from serving.settings import ScalingSettings

FORMAT = "anchorage-rehearsal/1"
#: Simulations of one run. Nobody knows where in their intervals the real controllers were: each has another guess.
_GUESSES = 15
#: How exactly a rehearsal knows when something happened: it looks now and then.
_LOOK_S = 0.5
#: Enough for an engine that does not limit its answers.
_NO_LIMIT = 1_000_000

_Levels = Sequence[tuple[float, int]]


@dataclass(frozen=True)
class Moment:
    """One event. Seconds after its cause (the first request, or the last answer); None where it did not happen."""

    name: str
    real_s: float | None
    simulated_s: float | None
    spread_s: tuple[float, float] | None

    @property
    def within(self) -> bool | None:
        """Whether the simulation has the real time, too, for some state of the controllers' clocks."""
        if self.real_s is None or self.spread_s is None:
            return None
        return self.spread_s[0] - _LOOK_S <= self.real_s <= self.spread_s[1] + _LOOK_S

    @property
    def error(self) -> float | None:
        """Part of the real time that the simulated one is off."""
        if self.real_s is None or self.simulated_s is None or self.real_s <= 0:
            return None
        return abs(self.simulated_s - self.real_s) / self.real_s


@dataclass(frozen=True)
class Comparison:
    """`counts`: outcome -> (real, simulated). `not_simulated`: what was done to the run only."""

    moments: list[Moment]
    counts: dict[str, tuple[int, int]]
    most_ready: tuple[int, int]
    setup: Setup
    not_simulated: tuple[str, ...]

    @property
    def differences(self) -> list[float]:
        """Seconds."""
        pairs = [(moment.real_s, moment.simulated_s) for moment in self.moments]
        return [abs(ours - real) for real, ours in pairs if real is not None and ours is not None]

    @property
    def errors(self) -> list[float]:
        return [moment.error for moment in self.moments if moment.error is not None]

    def as_json(self) -> dict[str, Any]:
        errors = self.errors
        return {
            "moments": [{**vars(one), "error": one.error, "within": one.within} for one in self.moments],
            "within": sum(one.within is True for one in self.moments),
            "compared": len(errors),
            "error_median": median(errors) if errors else None,
            "error_most": max(errors, default=None),
            "outcomes": {name: {"real": real, "simulated": ours} for name, (real, ours) in self.counts.items()},
            "replicas_most": {"real": self.most_ready[0], "simulated": self.most_ready[1]},
            "off_s_median": median(self.differences) if self.differences else None,
            "not_simulated": list(self.not_simulated),
            "setup": self.setup.model_dump(mode="json"),
        }


def read_run(path: Path) -> Mapping[str, Any]:
    """Raises ConfigurationError for what is no run of a rehearsal."""
    try:
        run = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        raise ConfigurationError(f"{path} is not in the format {FORMAT}: `anchorage rehearse --json` writes it")
    return run


def compare(run: Mapping[str, Any], seed: int = 0) -> Comparison:
    """Raises ConfigurationError for a run with something missing."""
    try:
        rows = run["requests"]["rows"]
        trace = _trace(rows, run["settings"]["on_cold"])
        setups = [_setup(run, guess) for guess in range(seed, seed + _GUESSES)]
        real = {kind: _levels(run["events"], kind) for kind in ("replicas_wanted", "nodes_wanted", *_UP)}
        ended = max((row["t_s"] + row["done_s"] for row in rows if row.get("done_s") is not None), default=trace.end_s)
    except KeyError as error:
        raise ConfigurationError(f"the rehearsal's JSON has no {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"the rehearsal's JSON cannot be understood: {error}") from error
    outcomes = [simulate(trace, setup) for setup in setups]
    return Comparison(
        [_moment(name, find, real, ended, outcomes) for name, find in _MOMENTS],
        _counts(rows, outcomes, trace),
        (_most(real["replicas_ready"]), round(median(_most(one.level("replicas_ready")) for one in outcomes))),
        setups[0],
        tuple(sorted({str(event["kind"]) for event in run["events"]} & _DONE_TO_IT)),
    )


_DONE_TO_IT = {"node_killed", "rolling_update"}
_UP = ("nodes_up", "replicas_ready")


def _trace(rows: Sequence[Mapping[str, Any]], on_cold: str) -> Trace:
    """A prompt that the LLM never saw has no tokens; each request may have its own wish."""
    lengths = [(max(0.0, row["t_s"]), max(1, row["prompt_tokens"]), max(1, row["answer_tokens"])) for row in rows]
    return trace_of("rehearsal", lengths, [row.get("on_cold", on_cold) for row in rows])


def _setup(run: Mapping[str, Any], guess: int) -> Setup:
    """Delays as they were measured, in their order, further ones as on the median; the rest as it was set."""
    settings, delays = run["settings"], run.get("delays", {})
    engine, scaler = settings["engine"], settings["autoscaler"]
    node = _measured(delays, "node_s", settings["node_delay_s"])
    default = settings["policy"] == "default"
    nodes = {
        "gpus": scaler["gpus_per_node"],
        "most": scaler["max_nodes"],
        "reconcile_s": scaler.get("reconcile_s", 5.0),
        "idle_s": scaler["idle_timeout_s"],
        "upscaling_speed": scaler.get("upscaling_speed", 1.0),
        "machine": node,
        "image": 0.0,
        "pod": 0.0,
        "leave": _leave(delays, scaler),
        "keep_s": 0.0,
        "given": _known(delays, "node_s"),
    }
    rates = {
        "prefill_tokens_s": None,
        "first_s": engine["first_token_s"],
        "step_s": max(engine["token_s"], 1e-6),
        "step_each_s": 0.0,
        "sequences": engine.get("concurrency") or _NO_LIMIT,
    }
    known = ServeRule.model_fields if default else ScalingSettings.model_fields
    rule = {name: value for name, value in settings["scaling"].items() if name in known}
    if default:
        rule["metrics_interval_s"] = settings.get("metrics_push_s", 10.0)
    values = {
        "policy": "serve" if default else "anchorage",
        "serve" if default else "scaling": rule,
        "min_replicas": settings["min_replicas"],
        "max_replicas": settings["max_replicas"],
        "max_ongoing": settings.get("max_ongoing_requests", 256),
        "on_cold": settings["on_cold"],
        "gpus": settings["gpus_per_replica"],
        "nodes": nodes,
        "engine": rates,
        "process": _measured(delays, "replica_start_s", engine["start_s"]),
        "weights": 0.0,
        "starts": _known(delays, "replica_start_s"),
        "tick_s": settings.get("control_loop_s", 0.1),
        "seed": guess,
    }
    return made(values)


def _known(delays: Mapping[str, Any], name: str) -> tuple[float, ...]:
    return tuple(float(value) for value in delays.get(name) or () if value is not None)


def _measured(delays: Mapping[str, Any], name: str, otherwise: float) -> float:
    found = _known(delays, name)
    return median(found) if found else float(otherwise)


def _leave(delays: Mapping[str, Any], scaler: Mapping[str, Any]) -> float:
    """Of the time from a node's last replica to its end, what is neither the idle timeout nor the wait for a look."""
    rules = float(scaler["idle_timeout_s"]) + float(scaler.get("reconcile_s", 5.0)) / 2
    return max(0.0, _measured(delays, "release_s", rules) - rules)


def _levels(events: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, int]]:
    return [(event["t_s"], int(event["value"])) for event in events if event["kind"] == kind]


def _most(levels: _Levels) -> int:
    return max((value for _, value in levels), default=0)


# -- moments: (levels by kind, end of the last answer) -> seconds after the cause --

_Find = Callable[[Mapping[str, _Levels], float], float | None]


def _reach(kind: str) -> _Find:
    return lambda levels, ended: next((at for at, value in levels[kind] if value >= 1 and at >= 0), None)


def _peak(kind: str) -> _Find:
    def find(levels: Mapping[str, _Levels], ended: float) -> float | None:
        most = _most(levels[kind])
        return next((at for at, value in levels[kind] if value == most and at >= 0), None) if most > 1 else None

    return find


def _fall(kind: str) -> _Find:
    """The first fall after the last answer."""

    def find(levels: Mapping[str, _Levels], ended: float) -> float | None:
        before = 0
        for at, value in levels[kind]:
            if at >= ended and value < before:
                return at - ended
            before = value
        return None

    return find


def _zero(kind: str) -> _Find:
    def find(levels: Mapping[str, _Levels], ended: float) -> float | None:
        if not levels[kind] or levels[kind][-1][1] != 0 or levels[kind][-1][0] < ended:
            return None
        return levels[kind][-1][0] - ended

    return find


_MOMENTS: tuple[tuple[str, _Find], ...] = (
    ("replica wanted", _reach("replicas_wanted")),
    ("node wanted", _reach("nodes_wanted")),
    ("node up", _reach("nodes_up")),
    ("replica serving", _reach("replicas_ready")),
    ("most replicas wanted", _peak("replicas_wanted")),
    ("most nodes up", _peak("nodes_up")),
    ("most replicas serving", _peak("replicas_ready")),
    ("scale-down", _fall("replicas_wanted")),
    ("no replica", _zero("replicas_ready")),
    ("no node", _zero("nodes_up")),
)


def _moment(name: str, find: _Find, real: Mapping[str, _Levels], ended: float, outcomes: Sequence[Outcome]) -> Moment:
    ours = []
    for outcome in outcomes:
        levels = {kind: outcome.level(kind) for kind in real}
        at = find(levels, max(outcome.done))
        if at is not None:
            ours.append(at)
    spread = (min(ours), max(ours)) if ours else None
    return Moment(name, find(real, ended), median(ours) if ours else None, spread)


def _counts(rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], trace: Trace) -> dict[str, tuple[int, int]]:
    real = [row["outcome"] for row in rows]
    return {
        name: (
            real.count(name) + (real.count("cut") if name == "failed" else 0),
            round(median(outcome.outcomes.count(code) for outcome in outcomes)),
        )
        for code, name in enumerate(NAMES)
        if code != OPEN
    }
