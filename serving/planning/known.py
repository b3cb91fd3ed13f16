"""The all-knowing scaler: what it would do that knew each request, and paid the same delays to start a replica."""

from __future__ import annotations

import heapq

from serving.planning.outcome import LLM, Outcome, percentile
from serving.planning.setup import EngineRates, Setup, Span
from serving.planning.simulation import simulate
from serving.planning.trace import Trace

#: How full it fills replicas, in targets, fullest first: as full as time to first token allows.
_FILLINGS = (16.0, 4.0, 2.0, 1.0)


def best_possible(trace: Trace, setup: Setup) -> Outcome:
    """It has as many replicas as the requests in flight fill, from the moment they come, and keeps one over a pause
    only if that costs less than to start another. It fills them as full as it can with all first tokens but one in a
    hundred within `scaling.ttft_target_s`. Its machines go at once.
    """
    nodes = setup.nodes.model_copy(update={"idle_s": 0.0, "keep_s": 0.0, "leave": Span(0, 0)})
    known = setup.model_copy(update={"policy": "known", "nodes": nodes, "phase": 0.0})
    fillings = sorted({_filled(setup, filling) for filling in _FILLINGS}, reverse=True)
    for target in fillings:
        outcome = simulate(trace, known.model_copy(update={"schedule": schedule_of(trace, known, target)}))
        slow = percentile(outcome.ttfts(), 0.99)
        if outcome.outcomes.count(LLM) == len(trace) and slow is not None and slow <= setup.scaling.ttft_target_s:
            break
    return outcome


def _filled(setup: Setup, filling: float) -> float:
    return max(1.0, min(filling * setup.scaling.llm_requests, setup.engine.sequences, setup.max_ongoing))


def schedule_of(trace: Trace, setup: Setup, target: float) -> tuple[tuple[float, int], ...]:
    """(time, replicas). Each replica is a level: the k-th is needed while more than (k - 1) x target are in flight. For
    one level, bridging a pause is right when it is shorter than a start (which is paid for, too): the offline optimum
    of the ski rental problem, level by level.
    """
    lead = setup.longest_start_s + 2 * setup.tick_s
    changes: dict[float, int] = {}
    for begin, end in _spans(trace, setup, target, lead):
        changes[begin - lead] = changes.get(begin - lead, 0) + 1
        changes[end] = changes.get(end, 0) - 1
    level, schedule = setup.min_replicas, []
    for at in sorted(changes):
        level += changes[at]
        schedule.append((at, level))
    return tuple(schedule)


def _spans(trace: Trace, setup: Setup, target: float, pause_s: float) -> list[tuple[float, float]]:
    """When each level above `min_replicas` is needed, pauses shorter than a start bridged."""
    open_at: dict[int, float] = {}
    spans: dict[int, list[tuple[float, float]]] = {}
    in_flight, level = 0, 0
    for at, more in _in_flight(trace, setup.engine, target):
        in_flight += more
        needed = min(setup.max_replicas, -int(-in_flight // target))
        while level < needed:
            level += 1
            open_at[level] = at
        while level > needed:
            _close(spans.setdefault(level, []), open_at.pop(level), at, pause_s)
            level -= 1
    return [span for number, found in spans.items() if number > setup.min_replicas for span in found]


def _close(spans: list[tuple[float, float]], begin: float, end: float, pause_s: float) -> None:
    if spans and begin - spans[-1][1] <= pause_s:
        spans[-1] = (spans[-1][0], end)
    else:
        spans.append((begin, end))


def _in_flight(trace: Trace, rates: EngineRates, target: float) -> list[tuple[float, int]]:
    """(time, +1 or -1), by time, with every replica filled to its target: an answer then waits for the prompts of the
    others, too, so that replicas at their target are replicas that are always at work.
    """
    step = rates.step_s + rates.step_each_s * target
    waits = 1.0 if rates.prefill_tokens_s is None else target
    ends: list[float] = []
    changes: list[tuple[float, int]] = []
    for at, prompt, answer in zip(trace.times, trace.prompts, trace.answers, strict=True):
        while ends and ends[0] <= at:
            changes.append((heapq.heappop(ends), -1))
        changes.append((at, 1))
        heapq.heappush(ends, at + first_s(prompt, rates) * waits + answer * step)
    while ends:
        changes.append((heapq.heappop(ends), -1))
    return changes


def first_s(prompt: int, rates: EngineRates) -> float:
    """Of a prompt that does not wait."""
    return rates.first_s if rates.prefill_tokens_s is None else prompt / rates.prefill_tokens_s


def least_gpu_seconds(trace: Trace, outcome: Outcome) -> float:
    """What the LLM's answers cost at the very least: prompts alone, and steps with every place filled."""
    rates = outcome.setup.engine
    step = rates.step_s / rates.sequences + rates.step_each_s
    work = 0.0
    for request, code in enumerate(outcome.outcomes):
        if code == LLM:
            alone = trace.prompts[request] / rates.prefill_tokens_s if rates.prefill_tokens_s else 0.0
            work += alone + (trace.answers[request] - 1) * step
    return work * outcome.setup.gpus
