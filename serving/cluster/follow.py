"""Waiting until a deployment is ready, with the reasons on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from serving.cluster.connection import Cluster
from serving.cluster.kinds import Kinds
from serving.cluster.look import look, reasons
from serving.cluster.objects import Identity
from serving.cluster.waits import Waiting
from serving.errors import ClusterUnavailable

_LOOK_S = 2.0


def follow(
    cluster: Cluster,
    kinds: Kinds,
    namespace: str,
    workloads: Sequence[Identity],
    timeout_s: float,
    on_look: Callable[[Sequence[Waiting]], None],
) -> list[Waiting]:
    """What still blocks when the time is over; nothing: it is ready. An API server that is away is waited for.

    Raises ClusterRefused (credentials that ran out).
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = reasons(cluster, namespace, look(cluster, kinds, namespace, workloads))
        except ClusterUnavailable as away:
            found = [Waiting("API server", str(away), blocks=True)]
        on_look(found)
        blocking = [each for each in found if each.blocks]
        if not blocking:
            return []
        if time.monotonic() >= deadline:
            return found
        time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
