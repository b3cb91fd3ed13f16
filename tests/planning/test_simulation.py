"""The simulated service against what is known of it without one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.deployments.scaling import reversals
from serving.planning.knobs import made
from serving.planning.known import best_possible, least_gpu_seconds
from serving.planning.outcome import EXTRACTIVE, FAILED, LLM, NAMES, OPEN, REJECTED, Outcome, flaps
from serving.planning.setup import Setup
from serving.planning.simulation import simulate
from serving.planning.trace import Recipe, Trace, make_trace

_FIXED = {"machine": "30", "image": "0", "pod": "0", "leave": "0"}
_FAST = {"machine": "5-9", "image": "1-2", "pod": "1", "idle_s": 5, "keep_s": 3, "reconcile_s": 1}
_SCALING = {"down_delay_s": 10, "to_zero_delay_s": 10, "llm_requests": 4}


def setup(**values: Any) -> Setup:
    return made(values)


def at(times: list[float], prompt: int = 100, answer: int = 10) -> Trace:
    return Trace("given", tuple(times), (prompt,) * len(times), (answer,) * len(times))


def first(outcome: Outcome, kind: str) -> float:
    moment = outcome.first_time(kind)
    assert moment is not None
    return moment


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 40), min_size=1, max_size=40),
    policy=st.sampled_from(["anchorage", "serve", "known"]),
    on_cold=st.sampled_from(["extractive", "wait", "reject"]),
    least=st.integers(0, 2),
    most=st.integers(2, 4),
    gpus=st.sampled_from([(1, 1), (1, 2), (2, 4)]),
    max_ongoing=st.integers(1, 6),
    drain=st.sampled_from([0.0, 1.0, 310.0]),
    seed=st.integers(0, 99),
)
def test_every_request_is_answered_once_or_counted(
    gaps: list[float],
    policy: str,
    on_cold: str,
    least: int,
    most: int,
    gpus: tuple[int, int],
    max_ongoing: int,
    drain: float,
    seed: int,
) -> None:
    """Nothing is lost or answered twice, no bound is crossed, nothing is cheaper than the work itself, every machine
    goes, and the same seed gives the same."""
    trace = at(list(itertools.accumulate(gaps)), answer=200)
    values = setup(
        min_replicas=least,
        max_replicas=most,
        gpus=gpus[0],
        nodes={**_FAST, "gpus": gpus[1]},
        scaling=_SCALING,
        serve={"downscale_delay_s": 10},
        process="2",
        weights="1-4",
        tick_s=0.25,
        on_cold=on_cold,
        max_ongoing=max_ongoing,
        drain_s=drain,
        seed=seed,
    ).model_copy(update={"policy": policy})
    run = (lambda: best_possible(trace, values)) if policy == "known" else (lambda: simulate(trace, values))
    outcome = run()
    figures = outcome.summary(outcome.end_s)
    assert sum(figures[name] for name in NAMES if name != "open") == len(trace)
    assert OPEN not in outcome.outcomes
    for request, code in enumerate(outcome.outcomes):
        if code == LLM:
            assert trace.times[request] < outcome.first[request] <= outcome.done[request]
    assert all(0 <= count <= most for _, count in outcome.level("replicas_ready"))
    assert outcome.level("replicas_ready")[-1][1] == least if outcome.level("replicas_ready") else least == 0
    assert max((count for _, count in outcome.level("nodes_wanted")), default=0) <= values.nodes.most
    assert outcome.nodes_left == -(-least // (gpus[1] // gpus[0]))
    assert outcome.gpu_seconds(outcome.end_s) >= least_gpu_seconds(trace, outcome)
    again = run()
    assert (again.changes, again.outcomes, again.done) == (outcome.changes, outcome.outcomes, outcome.done)


def test_a_single_server_queue_waits_as_it_must() -> None:
    """M/D/1: with prompts of 0.1 s at 7 a second, the mean wait is rho S / 2 (1 - rho) = 0.117 s."""
    trace = make_trace("steady", Recipe(rate=7, duration_s=6000, prompt=1000, answer=1, spread=0), seed=5)
    one = setup(
        min_replicas=1,
        max_replicas=1,
        engine={"prefill_tokens_s": 10_000, "sequences": 100_000},
        max_ongoing=100_000,
        api_s=0,
        tick_s=1,
    )
    times = simulate(trace, one).ttfts()
    assert sum(times) / len(times) - 0.1 == pytest.approx(0.7 * 0.1 / (2 * 0.3), rel=0.05)


def test_a_full_engine_writes_at_the_planned_rate() -> None:
    """answer / (prefill + answer * step / n): what `plan` computes for n answers at a time."""
    trace = at([0.0] * 320, prompt=1000, answer=100)
    rates = {"prefill_tokens_s": 20_000, "step_s": 0.01, "step_each_s": 0.0002, "sequences": 16, "chunk": 1000}
    busy = simulate(trace, setup(min_replicas=1, max_replicas=1, engine=rates, max_ongoing=1000, api_s=0))
    step = 0.01 + 16 * 0.0002
    assert 320 * 100 / max(busy.done) == pytest.approx(100 / (1000 / 20_000 + 100 * step / 16), rel=0.06)


def test_an_answer_alone_takes_what_its_tokens_take() -> None:
    """Prompt, then a step a token."""
    alone = setup(min_replicas=1, max_replicas=1, api_s=0.5, engine={"prefill_tokens_s": 1000, "step_each_s": 0.0})
    outcome = simulate(at([3.0], prompt=200, answer=51), alone)
    assert outcome.first[0] == pytest.approx(3.0 + 0.5 + 0.2)
    assert outcome.done[0] == pytest.approx(3.7 + 50 * 0.012)


@pytest.mark.parametrize(("policy", "wanted"), [("anchorage", (101.0, 101.11)), ("serve", (110.0, 110.11))])
def test_known_delays_give_exact_times(policy: str, wanted: tuple[float, float]) -> None:
    """From the first question to the replica: the next report, the autoscaler's next look, node, process, weights."""
    outcome = simulate(
        at([100.03]),
        setup(nodes={**_FIXED, "idle_s": 12}, process="7", weights="13", api_s=0, phase=0).model_copy(
            update={"policy": policy}
        ),
    )
    asked = first(outcome, "replicas_wanted")
    assert wanted[0] <= asked <= wanted[1]
    look = asked + (-asked) % 5
    assert first(outcome, "nodes_wanted") == pytest.approx(look)
    assert first(outcome, "nodes_up") == pytest.approx(look + 30)
    assert first(outcome, "replicas_ready") == pytest.approx(look + 50)


def test_release_follows_the_last_answer() -> None:
    """Nobody asks for `to_zero_delay_s`, the replica goes; nobody needs the node for `idle_s`, it goes at the next
    look, and its machine is paid for `keep_s` more."""
    nodes = {**_FIXED, "idle_s": 12, "keep_s": 20}
    outcome = simulate(at([0.0, 90.0]), setup(nodes=nodes, process="7", weights="13", phase=0, tick_s=0.1))
    last = max(outcome.done)
    gone = outcome.level("replicas_ready")[-1][0]
    # The mean over look_back_s and a report later there is no work any more.
    assert last + 300 < gone < last + 300 + 4 + 1 + 0.3
    released = outcome.level("nodes_up")[-1][0]
    assert gone + 12 < released <= gone + 12 + 0.3 + 5
    paid = outcome.node_seconds
    assert paid == pytest.approx(released + 20 - first(outcome, "nodes_wanted"))


def test_each_cold_wish_is_honoured() -> None:
    """Extractive at once; wait until it serves; reject at once; and who waits longer than the deadline fails."""
    times = [0.0, 1.0, 2.0]
    values: dict[str, Any] = {"nodes": _FIXED, "process": "10", "weights": "10", "api_s": 0.0, "tick_s": 0.5}
    extractive = simulate(at(times), setup(**values))
    assert set(extractive.outcomes) == {EXTRACTIVE}
    assert max(extractive.done[i] - times[i] for i in range(3)) < 0.1
    assert set(simulate(at(times), setup(on_cold="reject", **values)).outcomes) == {REJECTED}
    waited = simulate(at(times), setup(on_cold="wait", **values))
    assert set(waited.outcomes) == {LLM}
    assert min(waited.ttfts()) > 50
    late = simulate(at(times), setup(on_cold="wait", deadline_s=20, **values))
    assert set(late.outcomes) == {FAILED}
    assert late.done[0] == 20.0


def test_a_stopped_replica_finishes_or_hands_over() -> None:
    """A drain shorter than the answers hands them to the replica that stays; a long one lets them end."""
    trace = Trace("t", (0.0, 0.1, 0.2, 0.3, 30.0, 30.1), (10,) * 6, (3000,) * 4 + (300, 6000))
    values: dict[str, Any] = {
        "min_replicas": 1,
        "max_replicas": 2,
        "scaling": {"llm_requests": 2, "down_delay_s": 5, "to_zero_delay_s": 5},
        "nodes": _FAST,
        "process": "1",
        "weights": "1",
        "tick_s": 0.5,
    }
    resumed = 0
    for seed in range(8):
        assert simulate(trace, setup(drain_s=310, seed=seed, **values)).resumed == 0
        brief = simulate(trace, setup(drain_s=0.5, seed=seed, **values))
        assert set(brief.outcomes) == {LLM}
        resumed += brief.resumed
    assert resumed > 0


def test_the_all_knowing_scaler_is_never_cold_and_never_dearer() -> None:
    """It starts replicas before they are needed; what follows the load keeps them until after."""
    trace = make_trace("burst", Recipe(rate=3, duration_s=2400), seed=2)
    values = setup(max_replicas=4, tick_s=0.5)
    known = best_possible(trace, values)
    assert set(known.outcomes) == {LLM}
    assert sum(known.cold) == 0
    assert known.ttfts()[-len(trace) // 100] <= values.scaling.ttft_target_s
    for policy in ("anchorage", "serve"):
        real = simulate(trace, values.model_copy(update={"policy": policy, "on_cold": "wait", "deadline_s": 1e6}))
        assert real.outcomes.count(LLM) == len(trace)
        assert real.gpu_seconds(real.end_s) >= known.gpu_seconds(known.end_s) * 0.999


def test_ours_follows_a_fourfold_step_sooner_than_serves_default() -> None:
    """With the same target for each replica, the first new one is asked for in a third of the time at most."""
    trace = make_trace("step", Recipe(rate=4, duration_s=600, prompt=500), seed=1)
    values = setup(min_replicas=1, max_replicas=6, scaling={"llm_requests": 16}, serve={"target_ongoing_requests": 16})
    reaction = {}
    for policy in ("anchorage", "serve"):
        outcome = simulate(trace, values.model_copy(update={"policy": policy}))
        reaction[policy] = next(t - 300 for t, n in outcome.level("replicas_wanted") if t > 300 and n > 1)
    assert reaction["anchorage"] <= 0.3 * reaction["serve"]


def test_noise_does_not_make_replicas_come_and_go() -> None:
    """Less than one turn in ten minutes of an hour whose load changes each half minute."""
    trace = make_trace("noisy", Recipe(rate=3, duration_s=3600), seed=4)
    fast = setup(min_replicas=1, max_replicas=8, nodes=_FAST, process="5", weights="5", tick_s=0.5)
    counts = [count for _, count in simulate(trace, fast).level("replicas_wanted")]
    assert max(counts) > 1
    assert reversals(counts) < 6


def test_flaps_are_turns_within_ten_minutes() -> None:
    """Up and down after nine minutes is one; after eleven it is none; up and up never."""
    assert flaps([(0, 1), (100, 2), (640, 1)]) == 1
    assert flaps([(0, 1), (100, 2), (760, 1)]) == 0
    assert flaps([(0, 1), (100, 2), (200, 3)]) == 0


def test_a_machine_that_is_still_there_is_taken_again() -> None:
    """Within `keep_s` a new replica needs no new machine and no image."""
    values: dict[str, Any] = {
        "nodes": {"machine": "100", "image": "100", "pod": "2", "idle_s": 5, "keep_s": 500},
        "process": "1",
        "weights": "1",
        "scaling": {"to_zero_delay_s": 5, "down_delay_s": 5},
    }
    outcome = simulate(at([0.0, 300.0]), setup(**values))
    ups = [t for t, n in outcome.level("nodes_up") if n == 1]
    assert len(ups) == 2
    assert ups[0] > 200
    assert ups[1] - 300 < 15
