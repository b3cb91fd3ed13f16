"""Requests, Serve's controller, Ray's autoscaler, machines and engines, event by event."""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections import deque
from collections.abc import Callable

from serving.planning.machines import Machines, Node
from serving.planning.outcome import EXTRACTIVE, FAILED, LLM, OPEN, REJECTED, Change, Outcome
from serving.planning.replica import Replica
from serving.planning.scalers import Questions, scaler_of
from serving.planning.setup import Setup
from serving.planning.trace import Trace

#: The Api looks for replicas so often while one starts (`deployments/watch.py`), and who waits asks so often.
_LOOK_S, _ASK_S = 0.25, 1.0
#: A stopped replica that is empty is gone after this (`graceful_shutdown_wait_loop_s`).
_STOP_S = 0.2
#: What samples load has long been doing it when the first request comes, seconds.
_BEFORE_S = 60.0
#: Longest time that is simulated after the last request, seconds.
_AFTER_S = 4 * 3600.0
#: Samples of the load that are kept of a whole run, about.
_SAMPLES = 1500


def simulate(trace: Trace, setup: Setup) -> Outcome:
    """Same trace and setup, same outcome."""
    return _Simulation(trace, setup).run()


class _Simulation:
    def __init__(self, trace: Trace, setup: Setup) -> None:
        self._trace, self._setup = trace, setup
        self._draw = random.Random(f"{setup.seed}:{setup.policy}")
        size = len(trace)
        nothing = array("d", bytes(8 * size))
        self._seen = Outcome(trace, setup, bytearray(size), nothing, nothing[:], bytearray(size))
        self._seen.begin_s = min([-_BEFORE_S, *(at for at, _ in setup.schedule)])
        self._starts = list(reversed(setup.starts))
        self._events: list[tuple[float, int, Replica | None, int | Callable[[float], None]]] = []
        self._order = 0
        self._scaler = scaler_of(setup)
        self._told = self._scaler if isinstance(self._scaler, Questions) else None
        self._machines = Machines(setup.nodes, self._draw, self._later, self._note, self._place)
        self._asked = setup.min_replicas
        self._numbers = 0
        self._homeless: list[Replica] = []
        self._starting: dict[int, Replica] = {}
        self._running: dict[int, Replica] = {}
        self._choice: list[Replica] = []
        self._stopping: dict[int, Replica] = {}
        self._queue: deque[tuple[int, int]] = deque()
        self._waiting: list[int] = []
        self._wakes = 0
        self._in_work = 0
        self._no_token = 0
        self._counted = bytearray(size)
        self._open = size
        self._levels: dict[str, int] = {}
        self._every_s = max(1.0, (trace.end_s + 1200) / _SAMPLES)
        self._sampled = -math.inf
        self._over = False

    def run(self) -> Outcome:
        self._begin()
        events, pop = self._events, heapq.heappop
        times = [*(at + self._setup.api_s for at in self._trace.times), math.inf]
        now, place, coming = self._seen.begin_s, 0, times[0]
        while not self._over:
            if coming <= events[0][0]:
                now = coming
                self._arrive(now, place)
                place += 1
                coming = times[place]
                continue
            now, _, replica, what = pop(events)
            if replica is None:
                what(now)  # type: ignore[operator]
            elif replica.version == what:
                self._step(now, replica)
        self._seen.end_s = now
        self._machines.settle(now)
        self._seen.node_seconds = self._machines.node_seconds
        self._seen.nodes_left = self._machines.count
        return self._seen

    # -- beginning and clockwork --

    def _begin(self) -> None:
        setup, now = self._setup, self._seen.begin_s
        each = setup.nodes.gpus // setup.gpus
        self._machines.begin_with(0.0, math.ceil(setup.min_replicas / each))
        self._note(now, "replicas_wanted", self._asked)
        for _ in range(setup.min_replicas):
            replica = self._new()
            replica.node = self._machines.place(setup.gpus)
            self._running[replica.number] = replica
        self._chosen(now)
        handle = self._scaler.handle
        self._repeat(now, setup.tick_s, self._tick, whole=True)
        self._repeat(now, setup.nodes.reconcile_s, self._reconcile)
        if handle is not None:
            self._repeat(now, handle.record_s, self._record)
            self._repeat(now, handle.push_s, self._push)

    def _repeat(self, now: float, every_s: float, what: Callable[[float], None], *, whole: bool = False) -> None:
        """From somewhere in the interval on; `whole`: from its end."""
        phase = self._setup.phase if self._setup.phase is not None else self._draw.random()
        first = now + every_s * (1.0 if whole else phase)

        def again(at: float) -> None:
            what(at)
            self._later(at + every_s, again)

        self._later(first, again)

    def _later(self, at: float, what: Callable[[float], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, None, what))

    def _note(self, now: float, kind: str, value: int) -> None:
        if self._levels.get(kind, 0) != value:
            self._levels[kind] = value
            self._seen.changes.append(Change(now, kind, value))

    def _tick(self, now: float) -> None:
        asked = self._scaler.decide(now, self._asked, self._running, len(self._queue) + self._wakes)
        if asked != self._asked:
            self._asked = asked
            self._note(now, "replicas_wanted", asked)
        self._adjust(now)
        if now - self._sampled >= self._every_s:
            self._sampled = now
            self._seen.samples.append((now, self._in_work, self._no_token))
        if not self._open or now > self._trace.end_s + _AFTER_S:
            self._maybe_over(now)

    def _maybe_over(self, now: float) -> None:
        """All is answered and everything is back where it began; or it will never be."""
        setup = self._setup
        least = math.ceil(setup.min_replicas / (setup.nodes.gpus // setup.gpus))
        asleep = not self._wakes or self._scaler.handle is None
        quiet = self._asked == setup.min_replicas == len(self._running) and asleep
        if (
            quiet and not self._starting and not self._stopping and self._machines.count <= least
        ) or now > self._trace.end_s + _AFTER_S:
            self._over = True
            for request, outcome in enumerate(self._seen.outcomes):
                if outcome == OPEN:
                    self._finish(now, request, FAILED)

    # -- Serve's controller: as many replicas as asked for --

    def _adjust(self, now: float) -> None:
        have = len(self._homeless) + len(self._starting) + len(self._running)
        for _ in range(self._asked - have):
            self._homeless.append(self._new())
        if self._asked > have:
            self._place(now)
        for _ in range(have - self._asked):
            self._stop_one(now)

    def _new(self) -> Replica:
        self._numbers += 1
        return Replica(self._numbers, self._setup.engine)

    def _place(self, now: float) -> None:
        """Give waiting replicas the GPUs that are free."""
        setup = self._setup
        while self._homeless:
            node = self._machines.place(setup.gpus)
            if node is None:
                return
            replica = self._homeless.pop(0)
            replica.node = node
            self._starting[replica.number] = replica
            delay = setup.process.draw(self._draw) + setup.weights.draw(self._draw)
            delay = self._starts.pop() if self._starts else delay
            self._later(now + delay, lambda at, replica=replica: self._ready(at, replica))  # type: ignore[misc]

    def _ready(self, now: float, replica: Replica) -> None:
        if self._starting.pop(replica.number, None) is None:
            return
        self._running[replica.number] = replica
        self._chosen(now)
        self._wakes = 0
        self._drain_queue(now)
        for request in self._waiting:
            self._later(now + _LOOK_S + _ASK_S * self._draw.random(), self._dispatcher(request))
        self._waiting.clear()

    def _dispatcher(self, request: int) -> Callable[[float], None]:
        return lambda now: self._arrive(now, request)

    def _stop_one(self, now: float) -> None:
        """Who does not run first, then who is on the emptiest node, then the youngest (`deployment_scheduler.py`)."""
        if self._homeless:
            self._homeless.pop()
            return
        if self._starting:
            replica = self._starting.pop(max(self._starting))
            self._vacate(now, replica)
            return
        replica = max(self._running.values(), key=lambda one: (_node(one).free, one.number))
        del self._running[replica.number]
        self._chosen(now)
        self._stopping[replica.number] = replica
        replica.stop_by = now + self._setup.drain_s
        if replica.in_flight:
            self._later(replica.stop_by, lambda at: self._cut(at, replica))
        else:
            self._later(now + _STOP_S, lambda at: self._stopped(at, replica))

    def _cut(self, now: float, replica: Replica) -> None:
        """The drain is over: another replica goes on with what this one had in work."""
        if replica.number not in self._stopping or not replica.in_flight:
            return
        left = replica.abandon(now)
        self._worked(now, -len(left))
        self._seen.resumed += len(left)
        self._stopped(now, replica)
        for request, answer in left:
            if self._told is not None:
                self._told.left(request)
            self._dispatch(now, request, answer)

    def _stopped(self, now: float, replica: Replica) -> None:
        if self._stopping.pop(replica.number, None) is not None:
            self._vacate(now, replica)

    def _vacate(self, now: float, replica: Replica) -> None:
        self._machines.give_back(now, _node(replica), self._setup.gpus)
        self._place(now)

    def _chosen(self, now: float) -> None:
        self._choice = list(self._running.values())
        self._note(now, "replicas_ready", len(self._choice))

    # -- what the controllers see --

    def _record(self, now: float) -> None:
        loads = {number: replica.in_flight for number, replica in self._running.items()}
        if self._scaler.handle is not None:
            self._scaler.handle.record(now, len(self._queue) + self._wakes, loads)

    def _push(self, now: float) -> None:
        loads = {number: replica.in_flight for number, replica in self._running.items()}
        if self._scaler.handle is not None:
            self._scaler.handle.push(now, len(self._queue) + self._wakes, loads)
        if self._told is not None:
            self._told.pushed(now)

    def _reconcile(self, now: float) -> None:
        self._machines.reconcile(now, len(self._homeless), self._setup.gpus)

    def _worked(self, now: float, more: int) -> None:
        self._in_work += more
        if self._told is not None:
            self._told.report(now, self._in_work)

    # -- requests --

    def _arrive(self, now: float, request: int) -> None:
        setup, seen = self._setup, self._seen
        if now - self._trace.times[request] >= setup.deadline_s:
            self._finish(self._trace.times[request] + setup.deadline_s, request, FAILED)
        elif self._choice:
            self._dispatch(now, request, self._trace.answers[request])
        else:
            seen.cold[request] = 1
            wanted = self._trace.on_cold[request] if self._trace.on_cold else setup.on_cold
            if wanted == "wait":
                self._count(request)
                self._waiting.append(request)
            else:
                seen.first[request] = now + setup.extract_s
                self._finish(now + setup.extract_s, request, EXTRACTIVE if wanted == "extractive" else REJECTED)
            self._wake(now)

    def _wake(self, now: float) -> None:
        """One request of the Api waits in Serve's handle until there is a replica, and is reported at once."""
        if not self._wakes:
            self._wakes = 1
            self._push(now)

    def _dispatch(self, now: float, request: int, answer: int) -> None:
        """The less loaded of two replicas (`serve/_private/request_router/pow_2_router.py`); else it waits."""
        choice = self._choice
        self._count(request)
        if not choice:
            self._queue.append((request, answer))
            return
        replica = choice[0]
        if len(choice) > 1:
            one, other = self._draw.choice(choice), self._draw.choice(choice)
            replica = one if one.in_flight <= other.in_flight else other
            if replica.in_flight >= self._setup.max_ongoing:
                replica = min(choice, key=lambda candidate: candidate.in_flight)
        if replica.in_flight >= self._setup.max_ongoing:
            self._queue.append((request, answer))
            return
        if self._told is not None:
            self._told.taken(now, request)
        replica.take(now, request, self._trace.prompts[request], answer)
        self._worked(now, 1)
        self._await(replica)

    def _count(self, request: int) -> None:
        """It waits for its first token."""
        if not self._counted[request]:
            self._counted[request] = 1
            self._no_token += 1

    def _await(self, replica: Replica) -> None:
        at = replica.next_event()
        if at < math.inf:
            self._order += 1
            heapq.heappush(self._events, (at, self._order, replica, replica.version))

    def _step(self, now: float, replica: Replica) -> None:
        begun, done = replica.step(now)
        seen = self._seen
        for request in begun:
            if self._told is not None:
                self._told.first_token(now, request)
            if not seen.first[request]:
                seen.first[request] = now
                self._no_token -= 1
        for request in done:
            late = now - self._trace.times[request] > self._setup.deadline_s
            self._finish(now, request, FAILED if late else LLM)
        if done:
            self._worked(now, -len(done))
            if self._queue:
                self._drain_queue(now)
            if replica.stop_by is not None and not replica.in_flight:
                self._later(now + _STOP_S, lambda at: self._stopped(at, replica))
        self._await(replica)

    def _drain_queue(self, now: float) -> None:
        free = sum(max(0, self._setup.max_ongoing - replica.in_flight) for replica in self._choice)
        for _ in range(min(free, len(self._queue))):
            self._dispatch(now, *self._queue.popleft())

    def _finish(self, now: float, request: int, outcome: int) -> None:
        if outcome == FAILED and self._counted[request] and not self._seen.first[request]:
            self._no_token -= 1
        self._seen.outcomes[request] = outcome
        self._seen.done[request] = now
        self._open -= 1


def _node(replica: Replica) -> Node:
    assert isinstance(replica.node, Node)
    return replica.node
