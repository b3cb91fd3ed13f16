"""Taking a deployment away: what we applied, found by its labels and its field manager, in reverse order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from serving.cluster.connection import Cluster, Json
from serving.cluster.kinds import Kind, Kinds
from serving.cluster.neighbours import RAY_GROUP, RAY_SERVICE, living
from serving.cluster.objects import INSTANCE, MANAGED_BY, MANAGER, PART_OF, Identity, identity, in_order, is_ours
from serving.errors import AnchorageError, ClusterRefused, NotFound

#: What cannot be made again.
DATA = ("PersistentVolumeClaim", "Secret")
_SELECTOR = f"{MANAGED_BY}={MANAGER}"
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a deployment. `hidden`: kinds that this user may not list.

    `others`: namespaces with another deployment of ours; `unseen`: why they could not be looked for, or empty.
    """

    things: list[tuple[Identity, Json]]
    paths: dict[Identity, str]
    hidden: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    unseen: str = ""

    @property
    def shared(self) -> list[Identity]:
        """What is cluster-wide, and is or may be used by another deployment."""
        if not self.others and not self.unseen:
            return []
        return [who for who, _ in self.things if not who.namespace and who.kind != "Namespace"]


@dataclass(frozen=True, slots=True)
class Terminating:
    """What is still there, and why."""

    who: Identity
    reason: str


def find(cluster: Cluster, kinds: Kinds, namespace: str) -> Found:
    """Everything that we applied for the deployment in `namespace`, itself included. Raises as Cluster.

    Where there is no other deployment, what earlier ones left cluster-wide for others is part of it.
    """
    things: list[tuple[Identity, Json]] = []
    paths: dict[Identity, str] = {}
    hidden: list[str] = []
    known = list(kinds.removable())
    others, unseen = _others(cluster, kinds, known, namespace)
    for kind in known:
        wide = not kind.namespaced and kind.kind != "Namespace"
        inherits = wide and not others and not unseen
        selector = _SELECTOR if inherits else f"{_SELECTOR},{INSTANCE}={namespace}"
        try:
            listed = cluster.items(kind.path(namespace), {"labelSelector": selector})
        except ClusterRefused:
            hidden.append(kind.kind)
            continue
        except NotFound:
            continue
        for thing in listed:
            whole = {**thing, "apiVersion": kind.api_version, "kind": kind.kind}
            instance = thing["metadata"]["labels"].get(INSTANCE, "") if inherits else namespace
            if _mine(whole, instance, kind):
                who = identity(whole)
                things.append((who, whole))
                paths[who] = kind.path(who.namespace, who.name)
    return Found(things, paths, tuple(hidden), others, unseen)


def _others(cluster: Cluster, kinds: Kinds, known: Sequence[Kind], namespace: str) -> tuple[tuple[str, ...], str]:
    """Namespaces with another deployment, and why they could not be seen. Raises ClusterUnavailable."""
    ray_service = next((kind for kind in known if (kind.group, kind.kind) == (RAY_GROUP, RAY_SERVICE)), None)
    silent = [each for each in kinds.silent if each.startswith(f"{RAY_GROUP}/")]
    if silent:
        return (), f"{silent[0]} did not answer"
    try:
        return tuple(sorted(living(cluster, ray_service) - {namespace})), ""
    except (ClusterRefused, NotFound) as refused:
        return (), str(refused).rstrip(".")


def _mine(thing: Json, namespace: str, kind: Kind) -> bool:
    # A StatefulSet's controller makes its volume claims: they have our labels and not our field manager.
    if kind.kind == "PersistentVolumeClaim":
        return not (thing["metadata"].get("ownerReferences"))
    return is_ours(thing, namespace)


def holds_data(cluster: Cluster, namespace: str) -> bool:
    """Whether a volume or Secret is in it, be it ours, of an operator or of a user; if that cannot be seen, yes."""
    for plural in ("persistentvolumeclaims", "secrets"):
        try:
            listed = cluster.items(f"/api/v1/namespaces/{namespace}/{plural}")
        except ClusterRefused:
            return True
        except NotFound:
            continue
        # Old clusters make such a token for every ServiceAccount.
        if any(thing.get("type") != "kubernetes.io/service-account-token" for thing in listed):
            return True
    return False


def to_delete(found: Found, *, data: bool, keep_namespace: bool) -> list[Identity]:
    """In the order of deletion. What others use stays; without `data`, so do volumes and Secrets, and with
    `keep_namespace` what holds them.
    """
    by_identity = dict(found.things)
    ordered = [identity(thing) for thing in reversed(in_order(by_identity.values()))]
    kept = (*(() if data else DATA), *(("Namespace",) if keep_namespace else ()))
    shared = frozenset(found.shared)
    return [who for who in ordered if who.kind not in kept and who not in shared]


def command(wanted: Sequence[Identity]) -> str:
    """That deletes what is cluster-wide, for a person to copy."""
    return " ".join(
        ["kubectl delete", *(f"{who.kind.lower()}{f'.{who.group}' if who.group else ''}/{who.name}" for who in wanted)]
    )


def in_phases(wanted: Sequence[Identity]) -> list[list[Identity]]:
    """What operators look after goes first, and with its pods, while that which they need for it is still there.

    KubeRay empties the Redis of a Ray cluster that it deletes.
    """
    operated = [who for who in wanted if _operated(who)]
    return [phase for phase in (operated, [who for who in wanted if who not in operated]) if phase]


def _operated(who: Identity) -> bool:
    return "." in who.group and not who.group.endswith("k8s.io")


def delete(cluster: Cluster, found: Found, wanted: Sequence[Identity]) -> Iterator[tuple[Identity, str]]:
    """Each with why it could not be deleted, or an empty text. Raises ClusterUnavailable."""
    for who in wanted:
        try:
            cluster.delete(found.paths[who])
        except NotFound:
            pass
        except ClusterRefused as refused:
            yield who, str(refused)
            continue
        yield who, ""


def wait_gone(
    cluster: Cluster,
    namespace: str,
    found: Found,
    wanted: Sequence[Identity],
    timeout_s: float,
    on_change: Callable[[list[Terminating]], None] = lambda left: None,
) -> list[Terminating]:
    """What is left, our pods included, when all are gone or the time is over. Raises ClusterUnavailable."""
    deadline = time.monotonic() + timeout_s
    waiting, told = list(wanted), -1
    # The others' pods are not to go yet.
    ray_only = all(map(_operated, wanted))
    while True:
        left = [each for who in waiting if (each := _terminating(cluster, who, found.paths[who]))]
        waiting = [each.who for each in left]
        left += _pods(cluster, namespace, ray_only=ray_only)
        if len(left) != told:
            on_change(left)
            told = len(left)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))


def _pods(cluster: Cluster, namespace: str, *, ray_only: bool) -> list[Terminating]:
    """Those that a garbage collector has yet to take away with their owners. None where we may not look."""
    selector = f"{PART_OF}=anchorage" + (",ray.io/cluster" if ray_only else "")
    try:
        pods = cluster.items(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})
    except (ClusterRefused, NotFound):
        return []
    return [
        Terminating(
            Identity("v1", "Pod", namespace, str(pod["metadata"]["name"])),
            f"it finishes what it has begun, {pod['metadata'].get('deletionGracePeriodSeconds', 30)} s at most"
            if pod["metadata"].get("deletionTimestamp")
            else "its owner is gone; the garbage collector has not come yet (or none runs)",
        )
        for pod in pods
    ]


def _terminating(cluster: Cluster, who: Identity, path: str) -> Terminating | None:
    try:
        thing = cluster.find(path)
    except AnchorageError as error:
        return Terminating(who, str(error))
    if thing is None:
        return None
    metadata = thing.get("metadata") or {}
    if not metadata.get("deletionTimestamp"):
        return Terminating(who, "somebody made it again")
    if who.kind == "Namespace":
        return Terminating(who, _namespace_reason(thing))
    finalizers = metadata.get("finalizers") or []
    if finalizers:
        return Terminating(who, f"waits for whoever set the finalizer {', '.join(map(str, finalizers))}")
    return Terminating(who, "its grace period runs")


def _namespace_reason(thing: Json) -> str:
    conditions = (thing.get("status") or {}).get("conditions") or []
    told = [str(each.get("message")) for each in conditions if each.get("status") == "True"]
    return "; ".join(told) or "the namespace controller has not emptied it yet (or none runs)"
