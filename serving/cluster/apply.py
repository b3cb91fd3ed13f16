"""Server-side apply of rendered manifests, in order, under our own field manager: the same again changes nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from serving.cluster.connection import Cluster, Json, Query
from serving.cluster.kinds import Kinds
from serving.cluster.neighbours import RAY_SERVICE, RAY_VERSION, living
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
    `owner`: the namespace of the deployment that it is kept for.
    """

    who: Identity
    change: Change
    reason: str = ""
    warnings: tuple[str, ...] = ()
    conflict: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Applying:
    """How: `dry_run` asks the server what would happen; `force` takes over what others set, and what is theirs."""

    dry_run: bool = False
    force: bool = False


def apply(cluster: Cluster, kinds: Kinds, things: Sequence[Json], how: Applying) -> Iterator[Applied]:
    """One result an object, as it is done. An object that is refused does not keep the others from being applied.

    Raises ClusterUnavailable (applying again goes on from there).
    """
    lacking: set[str] = set()
    lives = functools.cache(lambda namespace: _lives(cluster, kinds, namespace))
    for thing in in_order(things):
        who = identity(thing)
        if who.namespace in lacking:
            yield Applied(who, "unknown", UNCHECKED)
            continue
        try:
            done = (
                _namespace(cluster, kinds, thing, how)
                if who.kind == "Namespace"
                else _cluster_wide(cluster, kinds, thing, how, lives)
                if not who.namespace
                else _one(cluster, kinds, thing, how)
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


def _cluster_wide(cluster: Cluster, kinds: Kinds, thing: Json, how: Applying, lives: Callable[[str], bool]) -> Applied:
    """It belongs to the deployment that made it, while that lives; others use it as it is."""
    live = cluster.find(kinds.path(identity(thing)))
    owner = _owner(live) if live is not None else ""
    if live is None or how.force or owner in ("", _labels(thing).get(INSTANCE)) or not lives(owner):
        return _one(cluster, kinds, thing, how)
    who, theirs = identity(thing), {**_labels(thing), INSTANCE: owner}
    same = False
    with suppress(ClusterRefused, NotFound):  # what cannot be tried would be a change, as far as anybody knows
        wanted = {**thing, "metadata": {**thing["metadata"], "labels": theirs}}
        answer = cluster.apply(kinds.path(who), wanted, {**_query(how), "dryRun": "All"})
        same = content(live) == content(answer.body)
    if same:
        return Applied(who, "unchanged")
    reason = f"belongs to {owner}, and is not as this deployment wants it: --force-conflicts takes it over."
    return Applied(who, "kept", reason, owner=owner)


def _lives(cluster: Cluster, kinds: Kinds, namespace: str) -> bool:
    """Whether a deployment is there; yes, too, where it may not be looked at. Raises ClusterUnavailable."""
    try:
        return namespace in living(cluster, kinds.find(RAY_VERSION, RAY_SERVICE), namespace)
    except ClusterRefused:
        return True
    except NotFound:
        return False


def _query(how: Applying) -> dict[str, str | int | bool]:
    query: dict[str, str | int | bool] = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
    return query | ({"force": True} if how.force else {}) | ({"dryRun": "All"} if how.dry_run else {})


def _one(cluster: Cluster, kinds: Kinds, thing: Json, how: Applying) -> Applied:
    who = identity(thing)
    path, query = kinds.path(who), _query(how)
    live = cluster.find(path)
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
    cluster.delete(path)
    deadline = time.monotonic() + _GONE_S
    while cluster.find(path) is not None:
        if time.monotonic() > deadline:
            raise ClusterRefused(f"The old Job is still there after {_GONE_S:.0f} s. Run the same command again.")
        time.sleep(0.2)
    cluster.apply(path, thing, query)
    return done


def _owner(live: Json) -> str:
    """The namespace of the deployment that it belongs to; empty where it is none of ours."""
    return str(_labels(live).get(INSTANCE) or "") if _labels(live).get(MANAGED_BY) == MANAGER else ""


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
