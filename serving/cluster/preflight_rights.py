"""May this user do what a deployment does?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serving.cluster.connection import Cluster, Json
from serving.cluster.findings import Finding, error, warning
from serving.cluster.kinds import Kind, Kinds
from serving.cluster.objects import CLUSTER_WIDE, identity
from serving.errors import ClusterRefused, NotFound

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
#: Server-side apply of what is not there asks for both; `get` tells what changes.
_NEEDED = ("get", "create", "patch")
#: What the progress reads; without it the deployment works and is not explained.
_READ = (("", "pods"), ("", "events"))


def rights(cluster: Cluster, kinds: Kinds, namespace: str, things: Sequence[Json]) -> Iterator[Finding]:
    """One review a kind and verb. Raises ClusterUnavailable."""
    wanted = {kind for thing in things if (kind := _kind(kinds, thing))}
    there = _namespace_is_there(cluster, namespace)
    lacking: dict[str, list[str]] = {}
    try:
        for kind in sorted(wanted, key=lambda each: (each.group, each.plural)):
            if kind.kind == "Namespace" and there:
                continue
            refused = [verb for verb in _NEEDED if not _may(cluster, kind.group, kind.plural, verb, namespace, kind)]
            if refused and not _all_there(cluster, kinds, things, kind):
                lacking.setdefault("/".join(refused), []).append(_named(kind))
        unseen = [name for group, name in _READ if not _may(cluster, group, name, "list", namespace, None)]
    except (ClusterRefused, NotFound) as refused_review:
        yield warning(f"Whether you have the rights could not be asked: {refused_review}")
        return
    for verbs, names in lacking.items():
        yield error(
            f"You may not {verbs} {', '.join(names)}" + (f" (namespace {namespace})." if namespace else "."),
            "Ask an administrator of the cluster for these rights, or to run the same command once.",
        )
    if unseen:
        yield warning(f"You may not list {' and '.join(unseen)}: what the deployment waits for cannot be said.")


def _kind(kinds: Kinds, thing: Json) -> Kind | None:
    who = identity(thing)
    return kinds.find(who.api_version, who.kind)


def _named(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def _may(cluster: Cluster, group: str, plural: str, verb: str, namespace: str, kind: Kind | None) -> bool:
    where = namespace if kind is None or kind.namespaced else ""
    asked = {"group": group, "resource": plural, "verb": verb, "namespace": where}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool((cluster.create(_REVIEWS, body).body.get("status") or {}).get("allowed"))


def _all_there(cluster: Cluster, kinds: Kinds, things: Sequence[Json], kind: Kind) -> bool:
    """Cluster-wide things that an administrator has made already are used as they are."""
    if kind.kind not in CLUSTER_WIDE or kind.kind == "Namespace":
        return False
    try:
        return all(cluster.find(kinds.path(who)) is not None for who in map(identity, things) if who.kind == kind.kind)
    except ClusterRefused:
        return False


def _namespace_is_there(cluster: Cluster, namespace: str) -> bool:
    try:
        return cluster.find(f"/api/v1/namespaces/{namespace}") is not None
    except ClusterRefused:
        return True  # whoever may not look at it was given it
