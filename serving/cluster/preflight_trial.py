"""The server is asked to try it: a dry run of every object, and of each pod that operators would make."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from serving.cluster.apply import Applied, Applying, apply
from serving.cluster.connection import Cluster, Json
from serving.cluster.findings import Finding, error, warning
from serving.cluster.kinds import Kinds
from serving.cluster.objects import MANAGER, identity, pod_templates
from serving.errors import ClusterRefused, NotFound

#: Admission that says nothing about the pod: what it needs is applied together with it, or by somebody else.
_TOO_EARLY = ("looking up service account", "no PriorityClass with name", "not found", "cannot create resource")


def trial(
    cluster: Cluster, kinds: Kinds, things: Sequence[Json], *, force: bool
) -> tuple[list[Applied], list[Finding]]:
    """A server-side dry run: unknown fields, fields of others, webhooks. Raises ClusterUnavailable."""
    results = list(apply(cluster, kinds, things, Applying(dry_run=True, force=force)))
    found = [error(f"{each.who}: {each.reason}") for each in results if each.change == "failed"]
    told: dict[str, list[str]] = {}
    for each in results:
        if each.owner:
            told.setdefault(f"kept, {each.reason}", []).append(str(each.who))
        for text in each.warnings:
            told.setdefault(text, []).append(str(each.who))
    found += [warning(f"{', '.join(names[:3])}: {text}") for text, names in told.items()]
    return results, found


def admission(cluster: Cluster, namespace: str, things: Sequence[Json]) -> Iterator[Finding]:
    """Pod Security, quotas, limits and policies look at pods only; operators make them long after applying.

    Raises ClusterUnavailable.
    """
    path = f"/api/v1/namespaces/{namespace}/pods"
    for thing in things:
        for where, template in pod_templates(thing):
            try:
                cluster.create(path, _pod(thing, template), {"dryRun": "All", "fieldManager": MANAGER})
            except NotFound:
                return  # the namespace is not there yet
            except ClusterRefused as refused:
                text = str(refused)
                if refused.status == 403 and "cannot create resource" in text:
                    return  # operators make the pods, this user need not
                if any(each in text for each in _TOO_EARLY):
                    continue
                yield _refused(f"Pods of {identity(thing)} ({where})", text, refused.status)


def _refused(whose: str, text: str, status: int) -> Finding:
    if "PodSecurity" in text:
        return error(
            f"{whose} are not allowed in this namespace: {text}",
            "Ours are made for the level `restricted`; what your own overlay or a webhook adds must be, too.",
        )
    if "exceeded quota" in text or "LimitRange" in text or "usage per" in text:
        return error(f"{whose} do not fit: {text}", "Ask for a larger quota or limit, or choose smaller resources.")
    return (error if status in (400, 403, 422) else warning)(f"{whose} would be refused: {text}")


def _pod(thing: Json, template: Json) -> Json:
    """As an operator makes it, as far as admission is concerned; what is applied beside it need not be there yet."""
    spec: dict[str, Any] = copy.deepcopy(template["spec"])
    for later in ("serviceAccountName", "priorityClassName"):
        spec.pop(later, None)
    claims = [claim["metadata"]["name"] for claim in (thing.get("spec") or {}).get("volumeClaimTemplates") or []]
    spec["volumes"] = [*(spec.get("volumes") or []), *({"name": name, "emptyDir": {}} for name in claims)]
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "anchorage-check-",
            "labels": metadata.get("labels") or {},
            "annotations": metadata.get("annotations") or {},
        },
        "spec": spec,
    }
