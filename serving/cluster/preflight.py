"""A look at the cluster before anything is changed: what is missing, and what to do about it.

The checks are in `preflight_*.py`. None needs more than the API: a server without nodes and controllers will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from serving.cluster.connection import Cluster, Json
from serving.cluster.findings import Finding, error, warning
from serving.cluster.kinds import Kinds
from serving.cluster.objects import MANAGED_BY, MANAGER, PART_OF, Identity, identity
from serving.cluster.preflight_capacity import disks, gpus, quotas, volumes
from serving.cluster.preflight_rights import rights
from serving.cluster.quantities import first_pods, storage
from serving.cluster.render import manifests
from serving.cluster.secrets import Missing
from serving.errors import ClusterRefused

#: The oldest release that the manifests are checked against.
TESTED = (1, 34)
#: API group of custom resources -> the folder under manifests/infrastructure that says how its operator is installed.
_OPERATORS = {
    "ray.io": "kuberay",
    "milvus.io": "milvus-operator",
    "karpenter.sh": "karpenter",
    "karpenter.k8s.aws": "karpenter",
    "kueue.x-k8s.io": "kueue",
    "gateway.networking.k8s.io": "gateway-api",
    "cert-manager.io": "cert-manager",
    "monitoring.coreos.com": "prometheus-operator",
}


def preflight(
    cluster: Cluster, kinds: Kinds, namespace: str, things: Sequence[Json], missing: Sequence[Missing]
) -> list[Finding]:
    """What can be known without asking the server to try. Raises ClusterUnavailable, ClusterRefused (401)."""
    found = [*version(cluster), *unknown_kinds(kinds, things), *namespace_state(cluster, namespace)]
    found += [*rights(cluster, kinds, namespace, things)]
    found += [*absent_secrets(missing, namespace)]
    if not any(each.level == "error" for each in found):
        found += [*clashes(cluster, kinds, things)]
    fresh = [thing for thing in things if not _runs(cluster, kinds, thing)]
    for check in (quotas, volumes, gpus, disks):
        try:
            found += [*check(cluster, kinds, namespace, things if check in (gpus, disks) else fresh)]
        except ClusterRefused as refused:
            if refused.status == 401:
                raise
            found.append(warning(f"One thing could not be looked at: {refused}"))
    return found


def version(cluster: Cluster) -> Iterator[Finding]:
    """Raises as Cluster: who cannot be asked its version cannot be asked anything."""
    told = str(cluster.get("/version", patience_s=5.0).get("gitVersion", ""))
    number = re.match(r"v(\d+)\.(\d+)", told)
    if number and (int(number[1]), int(number[2])) < TESTED:
        yield warning(
            f"Kubernetes {told} is older than what is tested ({TESTED[0]}.{TESTED[1]}).",
            "It may work; fields that it does not know are refused by name.",
        )


def unknown_kinds(kinds: Kinds, things: Sequence[Json]) -> Iterator[Finding]:
    """Custom resources without their operator."""
    lacking: dict[str, set[str]] = {}
    for who in map(identity, things):
        if kinds.find(who.api_version, who.kind) is None:
            lacking.setdefault(who.api_version, set()).add(who.kind)
    for api_version, names in sorted(lacking.items()):
        group = api_version.partition("/")[0]
        what = f"The cluster does not know {', '.join(sorted(names))} of {api_version}."
        others = [each for each in kinds.versions(group) if each != api_version] if "/" in api_version else []
        if others:
            yield error(what, f"It has {', '.join(others)}: update what serves {group}. {_installing(group)}")
        elif group in _OPERATORS:
            yield error(what, _installing(group))
        else:
            yield error(what, "Its Kubernetes is too old for it, or an operator is missing.")


def _installing(group: str) -> str:
    """The command of the operator's own README."""
    operator = _OPERATORS.get(group)
    if operator is None:
        return ""
    folders = sorted((manifests() / "infrastructure").glob(f"*{operator}"))
    if not folders:
        return f"Install {operator}."
    readme = folders[0] / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    commands = re.findall(r"^\s*((?:helm|kubectl) .*?[^\\])$", text, flags=re.MULTILINE | re.DOTALL)
    shown = " && ".join(re.sub(r"\s*\\\n\s*", " ", command) for command in commands[:3])
    # With its path: the commands name files beside the README.
    return (
        f"Install {operator} first, in {folders[0]}: {shown}" if shown else f"Install {operator} first: see {readme}."
    )


def namespace_state(cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """Whether it is going away."""
    try:
        found = cluster.find(f"/api/v1/namespaces/{namespace}")
    except ClusterRefused as refused:
        if refused.status == 401:
            raise
        return
    if found is not None and found["metadata"].get("deletionTimestamp"):
        yield error(f"The namespace {namespace} is being deleted.", "Wait for that, or choose another --namespace.")


def absent_secrets(missing: Sequence[Missing], namespace: str) -> Iterator[Finding]:
    for each in missing:
        if not each.made:
            what = f"The Secret {each.name} is missing in {namespace}" + (
                f", or its {' and '.join(each.keys)}." if each.keys else "."
            )
            yield error(what, each.how[:1].upper() + each.how[1:] + ".")


def clashes(cluster: Cluster, kinds: Kinds, things: Sequence[Json]) -> Iterator[Finding]:
    """Objects of our names that are somebody else's."""
    taken: list[str] = []
    for thing in things:
        who = identity(thing)
        live = None if who.kind == "Namespace" else _look(cluster, kinds, who)
        if live is None or _ours(live):
            continue
        if (live["metadata"].get("labels") or {}).get(PART_OF) == "anchorage":
            taken.append(str(who))
        else:
            yield error(
                f"{who} is already there, and is not part of Anchorage.",
                "Choose another --namespace" + (
                    "; it is cluster-wide: rename yours, or take it out of the overlay." if not who.namespace else "."
                ),
            )  # fmt: skip
    if taken:
        yield warning(
            f"Applied before in another way, and taken over: {', '.join(taken[:5])}"
            + (f" and {len(taken) - 5} more." if len(taken) > 5 else ".")
        )


def _look(cluster: Cluster, kinds: Kinds, who: Identity) -> Json | None:
    try:
        return cluster.find(kinds.path(who))
    except ClusterRefused:
        return None  # applying it will say so


def _runs(cluster: Cluster, kinds: Kinds, thing: Json) -> bool:
    """A quota counts the pods and volumes of what was deployed before."""
    who = identity(thing)
    if kinds.find(who.api_version, who.kind) is None:
        return False
    started = any(True for _ in first_pods(thing)) or any(True for _ in storage(thing))
    return started and _look(cluster, kinds, who) is not None


def _ours(live: Json) -> bool:
    labels = live["metadata"].get("labels") or {}
    managers = {entry.get("manager") for entry in live["metadata"].get("managedFields") or []}
    return labels.get(MANAGED_BY) == MANAGER or MANAGER in managers
