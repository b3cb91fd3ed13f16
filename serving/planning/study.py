"""One trace under several policies, side by side, beside the all-knowing scaler."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from serving.planning.known import best_possible, least_gpu_seconds
from serving.planning.outcome import Outcome
from serving.planning.plan import Choice
from serving.planning.setup import EngineRates, Policy, Setup
from serving.planning.simulation import simulate
from serving.planning.trace import Trace

#: Traces up to this are simulated with Serve's own control loop, longer ones with a coarser one, seconds.
_FINE_S, _COARSE_TICK_S = 3 * 3600.0, 2.0


def study(trace: Trace, setup: Setup, policies: Sequence[Policy]) -> dict[str, Outcome]:
    """Outcomes by policy."""
    return {
        policy: best_possible(trace, setup)
        if policy == "known"
        else simulate(trace, setup.model_copy(update={"policy": policy}))
        for policy in policies
    }


def results(outcomes: Mapping[str, Outcome]) -> dict[str, dict[str, Any]]:
    """Figures by policy, machines paid for until the last run ends; `against_known`: GPU hours over those of it."""
    until = max(outcome.end_s for outcome in outcomes.values())
    found = {policy: outcome.summary(until) for policy, outcome in outcomes.items()}
    known = found.get("known", {}).get("gpu_hours")
    for policy, figures in found.items():
        figures["least_gpu_hours"] = least_gpu_seconds(outcomes[policy].trace, outcomes[policy]) / 3600
        figures["against_known"] = figures["gpu_hours"] / known if known else None
    return found


def as_json(outcomes: Mapping[str, Outcome], setup: Setup) -> dict[str, Any]:
    """Enough to run it again, and to see what happened when."""
    trace = next(iter(outcomes.values())).trace
    return {
        "format": "anchorage-simulation/1",
        "versions": {"anchorage": importlib.metadata.version("anchorage"), "python": platform.python_version()},
        "trace": {"name": trace.name, "requests": len(trace), "end_s": trace.end_s},
        "setup": setup.model_dump(mode="json", exclude={"policy"}),
        "results": results(outcomes),
        "changes": {
            policy: [[round(one.t_s, 3), one.kind, one.value] for one in outcome.changes]
            for policy, outcome in outcomes.items()
        },
    }


def tick_of(trace: Trace, setup: Setup) -> float:
    """How often the controller looks in a trace so long."""
    return setup.tick_s if trace.end_s <= _FINE_S else max(setup.tick_s, _COARSE_TICK_S)


def rates_of(choice: Choice) -> EngineRates:
    """What to expect of a planned engine, as a line through a step of one answer and one of all."""
    wish, engine = choice.wish, choice.engine
    length = wish.prompt + wish.answer / 2
    alone, full = engine.expected_step_s(1, length), engine.expected_step_s(choice.sequences, length)
    each = max(0.0, (full - alone) / max(1, choice.sequences - 1))
    return EngineRates(
        prefill_tokens_s=wish.prompt / engine.expected_prefill_s(wish.prompt),
        step_s=max(alone - each, 1e-6),
        step_each_s=each,
        sequences=choice.sequences,
        chunk=choice.batched_tokens,
    )
