"""Server-side apply of rendered manifests, in order, under our own field manager: the same again changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from serving.cluster.connection import Cluster, Json, Query
from serving.cluster.kinds import Kinds
from serving.cluster.objects import INSTANCE, MANAGED_BY, MANAGER, Identity, content, identity, in_order
from serving.errors import AnchorageError, ClusterRefused, ClusterUnavailable, FieldConflict, NotFound

Change = Literal["created", "changed", "unchanged", "kept", "failed", "unknown"]


#: How long a Job that is deleted may take to go, seconds.
_GONE_S = 30.0
UNCHECKED = "its namespace does not exist yet"


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one object. `kept`: not ours, and left as it is; `unknown`: a dry run could not ask.

    `reason` is fit for a person; `warnings` are the server's. `conflict`: force would take the fields over.
    """

    who: Identity
    change: Change
    reason: str = ""
    warnings: tuple[str, ...] = ()
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class Applying:
    """How: `dry_run` asks the server what would happen; `force` takes fields over that others set."""

    dry_run: bool = False
    force: bool = False


def apply(cluster: Cluster, kinds: Kinds, things: Sequence[Json], how: Applying) -> Iterator[Applied]:
    """One result an object, as it is done. An object that is refused does not keep the others from being applied.

    Raises ClusterUnavailable (applying again goes on from there).
    """
    lacking: set[str] = set()
    for thing in in_order(things):
        who = identity(thing)
        if who.namespace in lacking:
            yield Applied(who, "unknown", UNCHECKED)
            continue
        try:
            done = (
                _one(cluster, kinds, thing, how) if who.kind != "Namespace" else _namespace(cluster, kinds, thing, how)
            )
        except ClusterUnavailable:
            raise
        except FieldConflict as conflict:
            done = Applied(who, "failed", _whose(conflict), conflict=True)
        except (ClusterRefused, NotFound) as refused:
            unasked = how.dry_run and (isinstance(refused, NotFound) or "does not support dry run" in str(refused))
            done = Applied(who, "unknown" if unasked else "failed", _advised(who, refused))
        if how.dry_run and who.kind == "Namespace" and done.change == "created":
            lacking.add(who.name)
        yield done


def _namespace(cluster: Cluster, kinds: Kinds, thing: Json, how: Applying) -> Applied:
    """One that was there is somebody else's, also where it may not be looked at."""
    who = identity(thing)
    try:
        live = cluster.find(kinds.path(who))
    except ClusterRefused as refused:
        if refused.status != 403:
            raise
        return Applied(who, "kept", "you may not look at it: it is taken to be there")
    if live is not None and _labels(live).get(MANAGED_BY) != MANAGER:
        return Applied(who, "kept", "it was there before us")
    return _one(cluster, kinds, thing, how)


def _one(cluster: Cluster, kinds: Kinds, thing: Json, how: Applying) -> Applied:
    who = identity(thing)
    path = kinds.path(who)
    live = cluster.find(path)
    if live is not None and not who.namespace:
        thing = _shared(thing, live)
    query: dict[str, str | int | bool] = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
    query |= {"force": True} if how.force else {}
    query |= {"dryRun": "All"} if how.dry_run else {}
    try:
        answer = cluster.apply(path, thing, query)
    except ClusterRefused as refused:
        if refused.status == 403 and live is not None and not who.namespace:
            return Applied(who, "kept", "it is there, and you may not change it")
        if who.kind != "Job" or "immutable" not in str(refused):
            raise
        return _again(cluster, path, thing, query, how)
    if live is None:
        return Applied(who, "created", warnings=answer.warnings)
    same = content(live) == content(answer.body)
    return Applied(who, "unchanged" if same else "changed", warnings=answer.warnings)


def _again(cluster: Cluster, path: str, thing: Json, query: Query, how: Applying) -> Applied:
    """A Job cannot be changed; ours can be done again."""
    done = Applied(identity(thing), "changed", "made again: a Job cannot be changed")
    if how.dry_run:
        return done
    cluster.delete(path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"})
    deadline = time.monotonic() + _GONE_S
    while cluster.find(path) is not None:
        if time.monotonic() > deadline:
            raise ClusterRefused(f"The old Job is still there after {_GONE_S:.0f} s. Run the same command again.")
        time.sleep(0.2)
    cluster.apply(path, thing, query)
    return done


def _shared(thing: Json, live: Json) -> Json:
    """What is cluster-wide belongs to the deployment that made it; another one uses it."""
    owner = _labels(live).get(INSTANCE) if _labels(live).get(MANAGED_BY) == MANAGER else None
    if owner is None:
        return thing
    return {**thing, "metadata": {**thing["metadata"], "labels": {**_labels(thing), INSTANCE: owner}}}


def _whose(conflict: FieldConflict) -> str:
    told = "; ".join(
        f"{manager} set {', '.join(fields[:4])}{f' and {len(fields) - 4} more' if len(fields) > 4 else ''}"
        for manager, fields in conflict.managers.items()
    )
    return f"somebody else decides about these fields: {told}. --force-conflicts takes them over."


def _advised(who: Identity, refused: AnchorageError) -> str:
    if who.kind == "Secret":
        return "the server refused it (its words may quote what is in it, and are not shown)"
    text = str(refused)
    if "immutable" in text or "updates to statefulset spec" in text:
        kind = who.kind.lower()
        return f"{text}. Take it away first: kubectl delete {kind} {who.name} --namespace {who.namespace} (data stays)."
    return text


def _labels(thing: Json) -> Json:
    return (thing.get("metadata") or {}).get("labels") or {}


def leftovers(things: Sequence[Json], ours: Sequence[Identity]) -> list[Identity]:
    """What an earlier deployment applied and this one does not have. Data is never among it, nor a run of ingestion."""
    wanted = {(who.group, who.kind, who.name) for who in map(identity, things)}
    keep = {"PersistentVolumeClaim", "Secret", "Namespace", "RayJob"}
    return [who for who in ours if (who.group, who.kind, who.name) not in wanted and who.kind not in keep]
