"""The rule that decides how many replicas there are, alone: bounds, order, delays, noise, slow first tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.deployments.scaling import GROWTH, PATIENCE, Load, Rule, State, decide, reversals
from serving.settings import ScalingSettings

RULE = Rule(1, 8, 10.0, up_delay_s=2, down_delay_s=300, to_zero_delay_s=200, ttft_target_s=2.0)
TICK_S = 0.5

rules = st.builds(
    Rule,
    min_replicas=st.integers(0, 4),
    max_replicas=st.integers(4, 20),
    target=st.floats(0.5, 100),
    up_delay_s=st.floats(0, 10),
    down_delay_s=st.floats(5, 600),
    to_zero_delay_s=st.floats(5, 600),
    ttft_target_s=st.none() | st.floats(0.1, 10),
)
#: Seconds until the next look, work, p95 of the first tokens.
looks = st.lists(
    st.tuples(st.floats(0.05, 30), st.floats(0, 1500) | st.just(0.0), st.none() | st.floats(0, 60)),
    min_size=1,
    max_size=60,
)


@dataclass
class Fleet:
    """A deployment whose replicas serve `start_s` after they were asked for."""

    rule: Rule
    start_s: float = 5.0
    now_s: float = 0.0
    replicas: int = 1
    ready: int = 1
    state: State = field(default_factory=State)
    coming: list[float] = field(default_factory=list)
    history: list[tuple[float, int]] = field(default_factory=list)

    def look(self, work: float, ttft_s: float | None = None) -> int:
        self.ready += sum(at <= self.now_s for at in self.coming)
        self.coming = [at for at in self.coming if at > self.now_s]
        load = Load(self.now_s, self.replicas, self.ready, work, ttft_s)
        answer, self.state = decide(self.state, load, self.rule)
        self.coming += [self.now_s + self.start_s] * (answer - self.replicas)
        if answer < self.replicas:
            self.coming = self.coming[: max(0, answer - self.ready)]
            self.ready = min(self.ready, answer)
        self.replicas = answer
        self.history.append((self.now_s, answer))
        return answer

    def run(
        self, seconds: float, work: Callable[[float], float], ttft: Callable[[], float | None] = lambda: None
    ) -> None:
        end = self.now_s + seconds
        while self.now_s < end:
            self.look(work(self.now_s), ttft())
            self.now_s += TICK_S

    def changes(self) -> Iterator[tuple[float, int]]:
        before = self.history[0][1]
        for at, count in self.history:
            if count != before:
                yield at, count
            before = count


@settings(max_examples=60, deadline=None)
@given(rules, looks)
def test_replicas_stay_within_their_bounds(rule: Rule, trace: list[tuple[float, float, float | None]]) -> None:
    """Whatever is seen, and one at least while somebody asks."""
    fleet = Fleet(rule, replicas=rule.min_replicas, ready=rule.min_replicas)
    for pause, work, ttft in trace:
        fleet.now_s += pause
        answer = fleet.look(work, ttft)
        assert rule.min_replicas <= answer <= rule.max_replicas
        assert answer >= (work > 0)


@settings(max_examples=60, deadline=None)
@given(rules, looks, st.floats(0, 1500), st.floats(0, 500), st.floats(0, 60), st.floats(0, 30))
def test_more_load_never_means_fewer_replicas(
    rule: Rule, trace: list[tuple[float, float, float | None]], work: float, more: float, ttft: float, slower: float
) -> None:
    """From any state: more work, or later first tokens, ask for as many at least."""
    fleet = Fleet(rule, replicas=rule.min_replicas, ready=rule.min_replicas)
    for pause, past, past_ttft in trace:
        fleet.now_s += pause
        fleet.look(past, past_ttft)
    load = Load(fleet.now_s + 1, fleet.replicas, fleet.ready, work, ttft)
    less, _ = decide(fleet.state, load, rule)
    assert decide(fleet.state, replace(load, work=work + more), rule)[0] >= less
    assert decide(fleet.state, replace(load, ttft_s=ttft + slower), rule)[0] >= less


@settings(max_examples=60, deadline=None)
@given(rules, looks)
def test_nothing_is_taken_away_within_the_delay_of_what_was_added(
    rule: Rule, trace: list[tuple[float, float, float | None]]
) -> None:
    """Whoever was added stays for a delay; what was taken away comes back at once if it is missed."""
    fleet = Fleet(rule, replicas=rule.min_replicas, ready=rule.min_replicas)
    for pause, work, ttft in trace:
        fleet.now_s += pause
        fleet.look(work, ttft)
    added = 0.0
    before = fleet.history[0][1]
    for at, count in fleet.changes():
        if count > before:
            added = at
        else:
            assert at - added >= min(rule.down_delay_s, rule.to_zero_delay_s) - 1e-6
        before = count


def test_a_fourfold_step_is_followed_in_seconds() -> None:
    """One replica with 8 requests gets 32: four replicas after the delay, asked for together."""
    fleet = Fleet(RULE)
    fleet.run(60, lambda now: 8)
    fleet.run(30, lambda now: 32)
    assert list(fleet.changes()) == [(62.0, 4)]


def test_a_backlog_that_grows_while_replicas_start_is_not_taken_for_load() -> None:
    """While slow replicas come, at most so many times what runs."""
    fleet = Fleet(replace(RULE, max_replicas=100), start_s=200)
    fleet.run(150, lambda now: 5 * now)
    assert fleet.replicas == GROWTH


def test_replicas_go_after_the_delay_and_the_last_one_after_its_own() -> None:
    """Down to what the busiest moment of the window needs; to none only where none is allowed."""
    for least, changes in ((1, [(2.0, 3), (400.0, 1)]), (0, [(2.0, 3), (299.5, 1), (300.0, 0)])):
        fleet = Fleet(replace(RULE, min_replicas=least))
        fleet.run(100, lambda now: 30)
        fleet.run(600, lambda now: 0)
        found = list(fleet.changes())
        assert [count for _, count in found] == [count for _, count in changes]
        assert [at for at, _ in found] == pytest.approx([at for at, _ in changes], abs=1)


def test_none_becomes_one_when_somebody_asks() -> None:
    """At once, and not more: that is what Serve itself does then."""
    fleet = Fleet(replace(RULE, min_replicas=0), replicas=0, ready=0)
    assert fleet.look(0) == 0
    fleet.now_s = 1
    assert fleet.look(500) == 1


def test_a_replica_that_was_woken_stays_for_those_who_woke_it() -> None:
    """Serve asked for it while the rule was not asked, and who woke it took another answer meanwhile."""
    fleet = Fleet(replace(RULE, min_replicas=0))
    fleet.run(300, lambda now: 0)
    assert fleet.replicas == 0
    fleet.now_s += 1000
    fleet.replicas = fleet.ready = 1
    fleet.run(199, lambda now: 0)
    assert fleet.replicas == 1
    fleet.run(5, lambda now: 0)
    assert fleet.replicas == 0


def test_somebody_who_comes_now_and_then_keeps_the_replica() -> None:
    """One short question every three minutes is no reason to sleep after 200 s."""
    fleet = Fleet(replace(RULE, min_replicas=0))
    fleet.run(3600, lambda now: 0.01 if now % 180 < 1 else 0)
    assert list(fleet.changes()) == []


def test_replicas_that_were_missed_stay_longer() -> None:
    """A load that comes back just after each delay wears patience: fewer and fewer reversals, up to a bound."""
    fleet = Fleet(RULE, start_s=1)
    fleet.run(6 * 3600, lambda now: 30 if now % 320 < 10 else 5)
    downs = [at for (at, count), (_, before) in zip(fleet.history[1:], fleet.history, strict=False) if count < before]
    assert len(downs) == 1, "after the first time it stays for 600 s, which the load never does"
    assert fleet.state.patience <= PATIENCE


@pytest.mark.parametrize("seed", range(3))
def test_noise_moves_nothing_back_and_forth(seed: int) -> None:
    """Hours of questions as a Poisson process, the mean just where a further replica is needed: in no ten minutes
    more than one reversal."""
    fleet = Fleet(RULE)
    fleet.run(3 * 3600, in_flight(random.Random(seed), mean=20.0, service_s=10.0))
    changes = list(fleet.changes())
    for at, _ in changes:
        assert reversals([count for when, count in changes if at <= when < at + 600]) <= 1


def in_flight(rng: random.Random, mean: float, service_s: float) -> Callable[[float], float]:
    """Requests in flight of a queue with exponential times between arrivals and of service (M/M/inf)."""
    count, next_s = round(mean), 0.0

    def at(now_s: float) -> float:
        nonlocal count, next_s
        while next_s <= now_s:
            rate = (mean + count) / service_s
            count += 1 if rng.random() < mean / (mean + count) else -1
            next_s += rng.expovariate(rate)
        return float(count)

    return at


def test_late_first_tokens_lower_what_a_replica_is_given() -> None:
    """The target says 10 requests each; with 9 first tokens take 4 s: two replicas, which stay when it is better."""
    fleet = Fleet(RULE)
    fleet.run(120, lambda now: 9, lambda: 4.0 if fleet.ready == 1 else 0.5)
    assert fleet.replicas == 2
    fleet.run(1000, lambda now: 9, lambda: 0.5)
    assert fleet.replicas == 2
    fleet.run(4 * 3600, lambda now: 7, lambda: 0.5)
    assert fleet.replicas == 1, "what was learnt is forgotten after a while"


def test_late_first_tokens_of_a_lonely_request_add_nothing() -> None:
    """A long prompt is slow on any number of replicas."""
    fleet = Fleet(RULE)
    fleet.run(600, lambda now: 1, lambda: 30.0)
    assert fleet.replicas == 1


def test_first_tokens_are_judged_once_the_replicas_that_were_asked_for_run() -> None:
    """While they start, late first tokens are no reason for more and more of them."""
    fleet = Fleet(replace(RULE, target=100.0), start_s=200)
    fleet.run(200, lambda now: 20, lambda: 10.0)
    assert fleet.replicas == 2


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 300))
def test_a_new_rule_is_careful(work: float) -> None:
    """After a restart of Serve's controller nothing is known: what is there stays for a whole delay."""
    fleet = Fleet(RULE, replicas=8, ready=8)
    fleet.run(299, lambda now: work)
    assert fleet.replicas == 8


@pytest.mark.parametrize("jump_s", [-40 * 86400.0, -3600.0, 40 * 86400.0])
def test_a_clock_that_is_set_holds_nothing(jump_s: float) -> None:
    """The machine's clock jumps, as at its first word from a time server: the rule goes on, and up as ever."""
    fleet = Fleet(RULE, now_s=1e9)
    fleet.run(60, lambda now: 8, lambda: 0.1)
    fleet.look(30)
    fleet.now_s += jump_s
    fleet.run(5, lambda now: 30)
    assert fleet.replicas == 3


def test_the_settings_make_a_rule() -> None:
    """Most is never less than least."""
    rule = Rule.of(ScalingSettings(up_delay_s=7), (3, 1), 5.0, 1.5)
    assert (rule.min_replicas, rule.max_replicas, rule.target, rule.up_delay_s, rule.ttft_target_s) == (3, 3, 5, 7, 1.5)


def test_reversals() -> None:
    """Turns are counted, not steps."""
    assert [reversals(trace) for trace in ([], [1, 2, 3], [1, 3, 3, 1], [1, 2, 1, 1, 2])] == [0, 0, 1, 2]
