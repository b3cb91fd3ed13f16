"""The serving side while a load is held: looked at every few seconds, from another thread, never in the load's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from loadtest.cluster_look import Look, Looking, Node
from loadtest.run import Run, Sample
from serving.errors import AnchorageError

EVERY_S = 2.0
#: Looking takes at most this share of the time of whoever is looked at.
_SHARE = 0.25
#: A replica that was left out of looks for less than this was there all the time, seconds.
_UNSURE_S = 15.0
#: A look that is still under way when the watch ends is waited for so long, seconds.
_END_S = 5.0


@dataclass
class Watched:
    """What was seen, by the clock of this machine (seconds since 1970). `missing`: what could not be, and why."""

    looks: list[tuple[float, Look]] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)

    def take(self, at: float, look: Look) -> None:
        self.looks.append((at, look))
        for why in look.missing:
            self.miss(why)

    def miss(self, why: str) -> None:
        self.missing[why] = self.missing.get(why, 0) + 1

    @property
    def gpu_type(self) -> str:
        """As `anchorage plan` names it; empty where no node says it, or several say different ones."""
        names = {node.gpu_type for node in self._nodes().values() if node.gpu_type}
        return names.pop() if len(names) == 1 else ""

    def into(self, runs: Sequence[Run]) -> None:
        """Samples and events, each into the run that was the last to begin before it; what came before all of them,
        into the first.

        Both clocks are taken to agree: that of this machine, and that of the one that made the load.
        """
        starts = [run.began for run in runs]
        nodes, looks = self._nodes(), _sure(self.looks)
        for at, look in looks:
            place = _place(starts, at)
            runs[place].samples.append(_sample(at - starts[place], look, nodes))
        for at, what, detail in _changes(looks, nodes):
            place = _place(starts, at)
            event = {"t_s": round(at - starts[place], 3), "what": what, "detail": detail}
            runs[place].events = [*runs[place].events, event]
        for why, count in self.missing.items():
            runs[0].events = [*runs[0].events, {"t_s": 0.0, "what": "not seen", "detail": f"{why} (looks: {count})"}]
        for run in runs:
            run.events = sorted(run.events, key=lambda event: float(event["t_s"]))

    def _nodes(self) -> dict[str, Node]:
        """Those that were ours at any time, with all the GPUs that they had when they were whole.

        A node costs from its first minute, before its GPUs are known and after our last pod has left it.
        """
        found: dict[str, Node] = {}
        for _, look in self.looks:
            for name, node in (look.nodes or {}).items():
                known = found.get(name, node)
                ours, kind = node.ours or known.ours, node.gpu_type or known.gpu_type
                found[name] = Node(max(node.gpus, known.gpus), ours, kind)
        return {name: node for name, node in found.items() if node.ours}


@contextmanager
def watching(looking: Looking, every_s: float = EVERY_S) -> Iterator[Watched]:
    """What is seen while the block runs. A look that fails is missing, and nothing else happens."""
    watched, ended = Watched(), threading.Event()

    def watch() -> None:
        while True:
            began = time.monotonic()
            try:
                look = looking()
            except AnchorageError as error:
                watched.miss(str(error))
            except (AttributeError, LookupError, TypeError, ValueError) as error:  # no answer of this API's shape
                watched.miss(f"{type(error).__name__}: {error}")
            else:
                watched.take(time.time(), look)
            took_s = time.monotonic() - began
            if ended.wait(max(every_s - took_s, took_s * (1 - _SHARE) / _SHARE, 0.0)):
                return

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        ended.set()
        thread.join(_END_S)


def _place(starts: Sequence[float], at: float) -> int:
    return max((place for place, start in enumerate(starts) if start <= at), key=starts.__getitem__, default=0)


def _sample(t_s: float, look: Look, nodes: Mapping[str, Node]) -> Sample:
    up = None if look.nodes is None else [nodes[name] for name in look.nodes if name in nodes]
    return Sample(
        round(t_s, 3),
        {name: len(replicas) for name, replicas in look.ready.items()},
        dict(look.wanted),
        None if up is None else len(up),
        None if up is None else sum(node.gpus for node in up),
    )


def _sure(looks: Sequence[tuple[float, Look]]) -> list[tuple[float, Look]]:
    """With the replicas that were left out of a few looks, and came back, or may still do so."""
    ready = [{name: set(replicas) for name, replicas in look.ready.items()} for _, look in looks]
    seen: dict[tuple[str, str], int] = {}

    def there(name: str, replica: str, after: int, before: int) -> None:
        for place in range(after + 1, before):
            ready[place].setdefault(name, set()).add(replica)

    for place, (at, look) in enumerate(looks):
        for name in look.unsure:
            for replica in look.ready[name]:
                last = seen.get((name, replica), place)
                if at - looks[last][0] <= _UNSURE_S:
                    there(name, replica, last, place)
                seen[name, replica] = place
    for (name, replica), last in seen.items():
        if looks[-1][0] - looks[last][0] <= _UNSURE_S:
            there(name, replica, last, len(looks))
    return [
        (at, replace(look, ready={name: frozenset(replicas) for name, replicas in some.items()}))
        for (at, look), some in zip(looks, ready, strict=True)
    ]


def _changes(looks: Sequence[tuple[float, Look]], nodes: Mapping[str, Node]) -> Iterator[tuple[float, str, str]]:
    """(time, what, which), each since the last look that could see it."""
    ready: dict[str, frozenset[str]] = {}
    up: frozenset[str] | None = None
    for at, look in looks:
        for name, replicas in sorted(look.ready.items()):
            before = ready.get(name, replicas)
            for word, changed in (("gained", replicas - before), ("lost", before - replicas)):
                yield from ((at, f"replica {word}", f"{name}: {each}") for each in sorted(changed))
            ready[name] = replicas
        if look.nodes is not None:
            now = frozenset(look.nodes) & nodes.keys()
            for word, changed in (
                ("appeared", now - (now if up is None else up)),
                ("gone", (now if up is None else up) - now),
            ):
                yield from ((at, f"GPU node {word}", each) for each in sorted(changed))
            up = now
