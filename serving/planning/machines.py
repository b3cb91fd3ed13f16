"""Ray's autoscaler v2 and what gives it machines: from replicas that find no GPU to nodes, and back.

The rules of `autoscaler/v2/scheduler.py` and `instance_manager/reconciler.py` of Ray 2.60, for one kind of node: every
`reconcile_s` it counts what does not fit on nodes that are there or on their way, asks for as many as that takes within
its limits, and takes nodes away that were empty for longer than `idle_s`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from serving.planning.setup import Nodes


class Node:
    """`gpus` free of those it has. `up`: Ray's node is alive. `idle_since` None: in use, or not up."""

    __slots__ = ("asked_s", "free", "idle_since", "kept_until", "up")

    def __init__(self, asked_s: float, gpus: int) -> None:
        self.asked_s = asked_s
        self.free = gpus
        self.up = False
        self.idle_since: float | None = None
        self.kept_until = math.inf


class Machines:
    """`later(at, what)`: calls `what` at that time. `changed(kind, level)`: is told nodes_wanted and nodes_up.

    `node_seconds` grows by a machine's life when it goes; `settle` counts those that are left.
    """

    def __init__(
        self,
        nodes: Nodes,
        draw: random.Random,
        later: Callable[[float, Callable[[float], None]], None],
        changed: Callable[[float, str, int], None],
        arrived: Callable[[float], None],
    ) -> None:
        self._setup = nodes
        self._draw = draw
        self._later = later
        self._changed = changed
        self._arrived = arrived
        self._asked: list[Node] = []
        self._up: list[Node] = []
        self._leaving: list[Node] = []
        self._kept: list[Node] = []
        self._given = list(reversed(nodes.given))
        self.node_seconds = 0.0

    @property
    def count(self) -> int:
        """Machines that are paid for."""
        return len(self._asked) + len(self._up) + len(self._leaving) + len(self._kept)

    def begin_with(self, now: float, count: int) -> None:
        """So many are up already."""
        for _ in range(count):
            node = Node(now, self._setup.gpus)
            node.up, node.idle_since = True, now
            self._up.append(node)
        self._tell(now)

    def place(self, gpus: int) -> Node | None:
        """GPUs on the fullest node that has them."""
        fitting = [node for node in self._up if node.free >= gpus]
        if not fitting:
            return None
        node = min(fitting, key=lambda candidate: candidate.free)
        node.free -= gpus
        node.idle_since = None
        return node

    def give_back(self, now: float, node: Node, gpus: int) -> None:
        node.free += gpus
        if node.free == self._setup.gpus:
            node.idle_since = now

    def reconcile(self, now: float, waiting: int, gpus: int) -> None:
        """`waiting` replicas of so many `gpus` found no place."""
        setup = self._setup
        each = setup.gpus // gpus
        missing = math.ceil(waiting / each) - len(self._asked)
        room = setup.most - len(self._asked) - len(self._up) - len(self._leaving)
        at_once = max(1, math.ceil(setup.upscaling_speed * max(1, len(self._up))))
        for _ in range(max(0, min(missing, room, at_once, setup.launches - len(self._asked)))):
            self._ask(now)
        for node in [node for node in self._up if node.idle_since is not None]:
            if now - (node.idle_since or 0.0) > setup.idle_s and not waiting:
                self._release(now, node)
        self._tell(now)

    def settle(self, now: float) -> None:
        """Count what is still there until now."""
        for node in (*self._asked, *self._up, *self._leaving, *self._kept):
            self.node_seconds += max(0.0, now - node.asked_s)

    def _ask(self, now: float) -> None:
        setup = self._setup
        if self._kept:
            node = self._kept.pop()
            node.kept_until = math.inf
            node.free = setup.gpus
            delay = setup.pod.draw(self._draw)
        else:
            node = Node(now, setup.gpus)
            delay = sum(part.draw(self._draw) for part in (setup.machine, setup.image, setup.pod))
            delay = self._given.pop() if self._given else delay
        self._asked.append(node)
        self._later(now + delay, lambda at: self._came(at, node))

    def _came(self, now: float, node: Node) -> None:
        self._asked.remove(node)
        self._up.append(node)
        node.up, node.idle_since = True, now
        self._tell(now)
        self._arrived(now)

    def _release(self, now: float, node: Node) -> None:
        """Nothing is placed on it any more; it leaves Ray a moment later, and its machine goes after `keep_s`."""
        self._up.remove(node)
        self._leaving.append(node)
        node.idle_since = None
        self._later(now + self._setup.leave.draw(self._draw), lambda at: self._left(at, node))

    def _left(self, now: float, node: Node) -> None:
        self._leaving.remove(node)
        self._kept.append(node)
        node.up = False
        node.kept_until = now + self._setup.keep_s
        self._later(node.kept_until, lambda at: self._gone(at, node))
        self._tell(now)

    def _gone(self, now: float, node: Node) -> None:
        if node in self._kept and now >= node.kept_until:
            self._kept.remove(node)
            self.node_seconds += now - node.asked_s

    def _tell(self, now: float) -> None:
        up = len(self._up) + len(self._leaving)
        self._changed(now, "nodes_wanted", len(self._asked) + up)
        self._changed(now, "nodes_up", up)
