"""What happened when: levels that change, and marks. Serve and Ray are asked several times a second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.rehearsal.application import serve_details
from loadtest.rehearsal.cluster import GPU_NODES
from serving.deployments.names import APP, LLM

#: Kinds of levels: GPU nodes that were asked for or are there, GPU nodes alive, Llm replicas wanted, running.
NODES_WANTED, NODES_UP = "nodes_wanted", "nodes_up"
REPLICAS_WANTED, REPLICAS_READY = "replicas_wanted", "replicas_ready"
LEVELS = (NODES_WANTED, NODES_UP, REPLICAS_WANTED, REPLICAS_READY)
#: Marks of what goes wrong on purpose.
NODE_KILLED, ROLLING_UPDATE = "node_killed", "rolling_update"
TROUBLE = (NODE_KILLED, ROLLING_UPDATE)

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is of `time.monotonic`; `value` is the level after the change, or what a mark says."""

    at: float
    kind: str
    value: int | str


@dataclass
class Timeline:
    """Changes only, in the order of their times."""

    listener: Callable[[Event], None] = lambda event: None
    events: list[Event] = field(default_factory=list)
    levels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))

    def level(self, kind: str, value: int, at: float | None = None) -> None:
        if self.levels[kind] != value:
            self.levels[kind] = value
            self._add(Event(time.monotonic() if at is None else at, kind, value))

    def mark(self, kind: str, value: int | str = 1, at: float | None = None) -> None:
        self._add(Event(time.monotonic() if at is None else at, kind, value))

    def first(self, kind: str, least: int = 1, after: float = -float("inf")) -> float | None:
        """When a level first was at least so high."""
        return next((e.at for e in self.events if e.kind == kind and _high(e, least) and e.at >= after), None)

    def zero(self, kind: str, after: float) -> float | None:
        """When a level fell to nothing for the last time, after the given time."""
        falls = [e.at for e in self.events if e.kind == kind and e.value == 0 and e.at >= after]
        return falls[-1] if falls and self.levels[kind] == 0 else None

    def least(self, kind: str, since: float, until: float) -> int:
        """The lowest that a level was in this time."""
        before = [int(e.value) for e in self.events if e.kind == kind and e.at <= since]
        within = [int(e.value) for e in self.events if e.kind == kind and since < e.at <= until]
        return min([before[-1] if before else 0, *within])

    def most(self, kind: str) -> int:
        return max((int(e.value) for e in self.events if e.kind == kind), default=0)

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self.events.sort(key=lambda one: one.at)
        self.listener(event)


def _high(event: Event, least: int) -> bool:
    return isinstance(event.value, int) and event.value >= least


@dataclass
class Delays:
    """Measured, one value an occurrence, seconds: a node from being asked for to being alive; a replica from when a GPU
    was there for it to running; a node from the loss of its last replica to its end."""

    node_s: list[float] = field(default_factory=list)
    replica_start_s: list[float] = field(default_factory=list)
    release_s: list[float] = field(default_factory=list)


@dataclass
class _Node:
    up: float
    #: When it was seen to have lost its last replica; None while it has one, or before the first one.
    empty: float | None = None
    used: bool = False


class Watcher:
    """Follows the cluster until it is cancelled."""

    def __init__(self, timeline: Timeline, record: Path) -> None:
        self.delays = Delays()
        self._timeline = timeline
        self._record = record
        self._read = 0
        self._wanted = 0
        #: When the look before began. A replica that is new has come since then, and is dated so: what follows from it
        #: (a node is asked for, a first token comes) is dated exactly, and may not seem to come before it.
        self._since = time.monotonic()
        #: When nodes that are not here yet were asked for, oldest first.
        self._asked: list[float] = []
        self._nodes: dict[str, _Node] = {}
        #: Nodes that were killed: their end says nothing of a release.
        self.killed: set[str] = set()
        #: Since when replicas start, by their ids, and on which nodes they run.
        self._starting: dict[str, float] = {}
        self._running: dict[str, str] = {}

    async def follow(self) -> None:
        from ray.exceptions import RayError

        while True:
            # A controller that is being replaced does not answer for a moment: what we knew stands.
            with suppress(RayError):
                await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Once, now."""
        began = time.monotonic()
        self._provider()
        self._alive(time.monotonic(), gpu_nodes())
        if details := llm_details():
            self._replicas(time.monotonic(), details)
            self._since = began

    def busy_node(self) -> str | None:
        """The GPU node that has had a running replica for longest, if any has."""
        busy = [node for node in self._running.values() if node in self._nodes]
        return min(busy, key=lambda node: self._nodes[node].up, default=None)

    def carries(self, node_id: str) -> bool:
        """Whether a running replica is there."""
        return node_id in self._running.values()

    def _provider(self) -> None:
        for line in _new_lines(self._record, self._read):
            self._read += len(line)
            said = json.loads(line)
            if said["type"] != GPU_NODES:
                continue
            asked = said["kind"] == "asked"
            self._wanted += said["count"] if asked else -said["count"]
            self._asked += [said["t"]] * said["count"] if asked else []
            self._timeline.level(NODES_WANTED, self._wanted, said["t"])

    def _alive(self, now: float, alive: set[str]) -> None:
        for node_id in sorted(alive - self._nodes.keys()):
            self._nodes[node_id] = _Node(now)
            if self._asked:
                self.delays.node_s.append(now - self._asked.pop(0))
        for node_id in self._nodes.keys() - alive:
            node = self._nodes.pop(node_id)
            if node.empty is not None and node_id not in self.killed:
                self.delays.release_s.append(now - node.empty)
        self._timeline.level(NODES_UP, len(alive), now)

    def _replicas(self, now: float, details: Mapping[str, Any]) -> None:
        self._level(REPLICAS_WANTED, int(details.get("target_num_replicas", 0)), now)
        states = {str(replica["replica_id"]): replica for replica in details.get("replicas", [])}
        running = {one: str(found.get("node_id")) for one, found in states.items() if _state(found) == "RUNNING"}
        for one, found in states.items():
            if _state(found) == "STARTING":
                self._starting.setdefault(one, now)
        for one, node_id in running.items():
            if one not in self._running and one in self._starting:
                there = self._nodes[node_id].up if node_id in self._nodes else 0.0
                self.delays.replica_start_s.append(now - max(self._starting.pop(one), there))
        self._running = running
        on_nodes = {str(found.get("node_id")) for found in states.values() if found.get("node_id")}
        for node_id, node in self._nodes.items():
            if node_id in on_nodes:
                node.used, node.empty = True, None
            elif node.used and node.empty is None:
                node.empty = now
        self._level(REPLICAS_READY, len(running), now)

    def _level(self, kind: str, value: int, now: float) -> None:
        self._timeline.level(kind, value, self._since if value > self._timeline.levels[kind] else now)


def gpu_nodes() -> set[str]:
    """Ids of the nodes alive that have a GPU."""
    import ray

    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")}


def llm_details() -> Mapping[str, Any]:
    """What Serve knows of the Llm (`DeploymentDetails`): nothing while it builds a new version of the application."""
    application = serve_details().get("applications", {}).get(APP, {})
    found: Mapping[str, Any] = application.get("deployments", {}).get(LLM, {})
    return found


def _state(replica: Mapping[str, Any]) -> str:
    return str(getattr(replica["state"], "value", replica["state"]))


def _new_lines(path: Path, start: int) -> Iterator[bytes]:
    """Whole lines only."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        yield from (line for line in file if line.endswith(b"\n"))
