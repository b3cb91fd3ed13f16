"""One look at a deployment in its namespace, for the progress and for `anchorage status`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serving.cluster.connection import Cluster, Json
from serving.cluster.kinds import Kinds
from serving.cluster.objects import Identity
from serving.cluster.waits import WORKLOADS, Seen, Waiting, open_reasons
from serving.errors import AnchorageError, ClusterRefused, NotFound


def look(cluster: Cluster, kinds: Kinds, namespace: str, workloads: Sequence[Identity]) -> Seen:
    """What this user may see of it; `workloads` that are gone are left out. Raises ClusterUnavailable."""
    found: list[Json] = []
    for who in workloads:
        if who.kind in WORKLOADS:
            thing = cluster.find(kinds.path(who))
            if thing is not None:
                found.append({**thing, "apiVersion": who.api_version, "kind": who.kind})
    root = f"/api/v1/namespaces/{namespace}"
    pods = listed(cluster, f"{root}/pods")
    claims = listed(cluster, f"{root}/persistentvolumeclaims")
    return Seen(found, pods, claims, listed(cluster, f"{root}/events"))


def listed(cluster: Cluster, path: str) -> list[Json]:
    """Empty where this user may not look. Raises ClusterUnavailable, ClusterRefused (401)."""
    try:
        return cluster.items(path)
    except NotFound:
        return []
    except ClusterRefused as refused:
        if refused.status == 401:
            raise
        return []


def reasons(cluster: Cluster, namespace: str, seen: Seen) -> list[Waiting]:
    """With the last line that a crashing container logged."""
    return [_with_log(cluster, namespace, each) for each in open_reasons(seen)]


def _with_log(cluster: Cluster, namespace: str, waiting: Waiting) -> Waiting:
    if not waiting.pod:
        return waiting
    path = f"/api/v1/namespaces/{namespace}/pods/{waiting.pod}/log"
    query: dict[str, str | int | bool] = {"container": waiting.container, "tailLines": 3}
    try:
        text = cluster.text(path, {**query, "previous": True}) or cluster.text(path, query)
    except AnchorageError:
        return waiting
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return replace(waiting, reason=f"{waiting.reason}; its last words: {lines[-1][:300]}") if lines else waiting
