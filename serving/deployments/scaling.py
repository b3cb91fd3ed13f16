"""How many replicas a deployment is to have: one pure rule for Serve (`policy.py`), `anchorage simulate` and the tests.

With `work` in flight (averaged over a few seconds) and `target` of it to be carried by one replica:

    share  = what time to first token has shown of the target, 1/8 to 1
    wanted = ceil(work / (target x share))
    enough = ceil(work / (SLACK x target x share))

Up to `wanted` once that was more than there is for `up_delay_s`; down to the greatest `enough` of the last
`down_delay_s`. So replicas come in seconds and go after minutes, and noise that stays between the two lines moves
nothing. The greatest value over a window is what Kubernetes' HPA calls its stabilization window.

Time to first token corrects a target that was guessed too high. When everything that was asked for runs and the p95 is
above `ttft_target_s`, a replica evidently carries less than it has now: `share` becomes `work / ready / target`, cut by
how far off the p95 is. It comes back by itself, doubling every RECOVERY_S.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from serving.settings import ScalingSettings

#: Fewer replicas are enough when they would be filled to this part at most.
SLACK = 0.8
#: Not more at once than so many times what runs: a backlog grows while replicas start, and says nothing of the rate.
GROWTH = 4
#: A first token's time says something of the replicas only once they have been as many for so long, seconds: that is
#: how long `workload.FirstTokens` looks back, and what came before is forgotten by then.
SETTLE_S = 20.0
#: Below so many requests each, more replicas would not have been faster.
CROWDED = 2.0
#: Least part of the target that time to first token leaves, and what one correction takes away at most.
LEAST_SHARE, LEAST_CUT = 1 / 8, 1 / 2
#: The share doubles in this time, seconds; after so many doublings it is whole again, whatever it was.
RECOVERY_S, _WHOLE = 1800.0, -math.log2(LEAST_SHARE)
#: Replicas that were missed right after they went stay twice as long the next time, and so on up to this.
PATIENCE = 4
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Rule:
    """For one deployment. `target`: what one replica is to carry, in the unit of `Load.work`."""

    min_replicas: int
    max_replicas: int
    target: float
    up_delay_s: float
    down_delay_s: float
    to_zero_delay_s: float
    ttft_target_s: float | None = None

    @classmethod
    def of(
        cls, settings: ScalingSettings, replicas: tuple[int, int], target: float, ttft_target_s: float | None = None
    ) -> Rule:
        """`replicas`: least and most."""
        least, most = replicas
        delays = (settings.up_delay_s, settings.down_delay_s, settings.to_zero_delay_s)
        return cls(least, max(least, most), target, *delays, ttft_target_s)


@dataclass(frozen=True, slots=True)
class Load:
    """What is seen at one moment.

    `replicas` are asked for now, `ready` of them serve. `work`: requests in flight and queued (Llm, Api), forward
    passes that run or wait (Embedder), over all replicas, averaged over `look_back_s`. `ttft_s`: p95 of recent times to
    first token, None without any. `now_s`: seconds on any clock; after one that was set back the rule begins anew.
    """

    now_s: float
    replicas: int
    ready: int
    work: float
    ttft_s: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What the rule remembers. A new one is careful: nothing goes before a whole delay was seen.

    `peaks`: (time, enough) of the window, falling; `busy_s`: when there last was work; `settled_s`: since when as many
    replicas as now have been running; `down_s`: when replicas were last taken away; `patience` multiplies both delays.
    """

    asked: int | None = None
    over_s: float | None = None
    peaks: tuple[tuple[float, int], ...] = ()
    busy_s: float = -math.inf
    ready: int = 0
    settled_s: float = -math.inf
    share: float = 1.0
    share_s: float = 0.0
    down_s: float = -math.inf
    patience: int = 1


def decide(state: State, load: Load, rule: Rule) -> tuple[int, State]:
    """Replicas to ask for now, and what to remember of it. To be called again within a second or so.

    While none runs and somebody asks it stays at one, which is what Serve itself decides then (`autoscaling_policy.py`
    of Ray 2.60, "cold start fast path": no policy is asked).
    """
    state = _seen(state, load, rule)
    if load.ready == 0 and load.work > 0:
        answer = _within(max(1, load.replicas), rule)
        return answer, replace(state, asked=answer, over_s=None)
    wanted = min(_needed(load, rule, state.share, rule.target), max(GROWTH * max(1, load.ready), load.replicas))
    over_s = None
    answer = load.replicas
    if wanted > load.replicas:
        over_s = load.now_s if state.over_s is None else state.over_s
        if load.now_s - over_s >= rule.up_delay_s - _EPSILON:
            answer, over_s = wanted, None
    else:
        answer = min(answer, _floor(state, load, rule))
    answer = _within(answer, rule)
    return answer, _answered(replace(state, over_s=over_s), load, rule, answer)


def _needed(load: Load, rule: Rule, share: float, target: float) -> int:
    return _within(math.ceil(load.work / (target * share) - _EPSILON), rule)


def _within(replicas: int, rule: Rule) -> int:
    return max(rule.min_replicas, min(rule.max_replicas, replicas))


def _seen(state: State, load: Load, rule: Rule) -> State:
    """With this moment's load taken in."""
    if load.now_s < state.share_s:
        # Serve's clock is the machine's. What was seen "later" than now would hold everything until then.
        state = State(share=state.share, patience=state.patience)
    if state.asked is None:
        state = replace(state, settled_s=load.now_s, ready=load.ready, share_s=load.now_s)
    if load.ready != state.ready:
        state = replace(state, ready=load.ready, settled_s=load.now_s)
    state = _corrected(state, load, rule)
    enough = _needed(load, rule, state.share, SLACK * rule.target)
    busy_s = load.now_s if load.work > 0 else state.busy_s
    if load.replicas != state.asked:
        # Somebody else asked for these: who woke the first one, a new configuration, or whoever was here before us.
        enough, busy_s = max(enough, load.replicas), load.now_s
    since_s = load.now_s - rule.down_delay_s * state.patience
    peaks = (*((at, n) for at, n in state.peaks if n > enough and at > since_s), (load.now_s, enough))
    return replace(state, peaks=peaks, busy_s=busy_s)


def _corrected(state: State, load: Load, rule: Rule) -> State:
    """With the share that time to first token leaves."""
    grown = min(1.0, state.share * 2.0 ** min(_WHOLE, (load.now_s - state.share_s) / RECOVERY_S))
    state = replace(state, share=grown, share_s=load.now_s)
    if rule.ttft_target_s is None or load.ttft_s is None or load.ttft_s <= rule.ttft_target_s:
        return state
    settled = load.now_s - state.settled_s >= SETTLE_S and load.ready >= load.replicas
    if not settled or load.replicas >= rule.max_replicas or load.work < CROWDED * load.ready or not load.ready:
        return state
    carried = load.work / load.ready / rule.target
    share = max(LEAST_SHARE, carried * max(LEAST_CUT, rule.ttft_target_s / load.ttft_s))
    return replace(state, share=min(grown, share), settled_s=load.now_s)


def _floor(state: State, load: Load, rule: Rule) -> int:
    """What is certainly needed, as far as the window shows."""
    idle = load.now_s - state.busy_s >= rule.to_zero_delay_s * state.patience - _EPSILON
    if idle and rule.min_replicas == 0:
        # Serve goes to none only from one.
        return 0 if load.replicas <= 1 else 1
    return max(1, *(n for _, n in state.peaks))


def _answered(state: State, load: Load, rule: Rule, answer: int) -> State:
    if answer < load.replicas:
        return replace(state, asked=answer, down_s=load.now_s)
    if answer > load.replicas:
        missed = load.now_s - state.down_s < rule.down_delay_s * state.patience
        return replace(state, asked=answer, patience=min(PATIENCE, state.patience * 2) if missed else 1)
    return replace(state, asked=answer)


def reversals(replicas: Iterable[int]) -> int:
    """How often a sequence of replica counts changes its direction: 1, 3, 2 turns once."""
    turns, before, direction = 0, None, 0
    for count in replicas:
        if before is not None and count != before:
            now = 1 if count > before else -1
            turns += direction not in (0, now)
            direction = now
        before = count
    return turns
