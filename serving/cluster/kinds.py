"""Which kinds the API server knows, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from serving.cluster.connection import Cluster, Json
from serving.cluster.objects import Identity
from serving.errors import ClusterRefused, ClusterUnavailable, NotFound


@dataclass(frozen=True, slots=True)
class Kind:
    """`plural` as in paths."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.api_version.partition("/")[0] if "/" in self.api_version else ""

    def path(self, namespace: str, name: str = "") -> str:
        """Of one object, or of all in the namespace."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        where = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return f"{root}{where}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


#: For a group that does not answer: it may be somebody's extension, which is broken for good.
_DISCOVERY_S = 1.0


@dataclass
class Kinds:
    """Asked for once a group and version. `silent`: those that `removable` got no answer of."""

    cluster: Cluster
    silent: list[str] = field(default_factory=list)
    _known: dict[str, dict[str, Kind]] = field(default_factory=dict)

    def find(self, api_version: str, kind: str) -> Kind | None:
        """None where the server does not know it."""
        if api_version not in self._known:
            root = "/apis" if "/" in api_version else "/api"
            found = self.cluster.find(f"{root}/{api_version}")
            self._known[api_version] = _kinds(api_version, found or {})
        return self._known[api_version].get(kind)

    def path(self, who: Identity) -> str:
        """Raises NotFound."""
        kind = self.find(who.api_version, who.kind)
        if kind is None:
            raise NotFound(f"The cluster does not know the kind {who.kind} of {who.api_version}.")
        return kind.path(who.namespace, who.name)

    def placed(self, things: Sequence[Json], namespace: str) -> list[Json]:
        """With a namespace where the kind has one, and only there: kustomize does not know every custom resource."""
        placed: list[Json] = []
        for thing in things:
            kind = self.find(str(thing.get("apiVersion")), str(thing.get("kind")))
            metadata = {key: value for key, value in thing["metadata"].items() if key != "namespace"}
            if kind is None:
                metadata = thing["metadata"]
            elif kind.namespaced:
                metadata["namespace"] = thing["metadata"].get("namespace") or namespace
            placed.append({**thing, "metadata": metadata})
        return placed

    def versions(self, group: str) -> list[str]:
        """`group/version` of a group that the server knows."""
        found = self.cluster.find(f"/apis/{group}") or {}
        return [str(version["groupVersion"]) for version in found.get("versions") or []]

    def removable(self) -> Iterator[Kind]:
        """Every kind, in its preferred version, that can be listed and deleted. APIs that do not answer are noted."""
        groups = self.cluster.get("/apis").get("groups") or []
        preferred = [str((group.get("preferredVersion") or {}).get("groupVersion")) for group in groups]
        for api_version in ["v1", *preferred]:
            root = "/apis" if "/" in api_version else "/api"
            try:
                found = self.cluster.get(f"{root}/{api_version}", patience_s=_DISCOVERY_S)
            except (ClusterUnavailable, ClusterRefused, NotFound):
                # Metrics come from servers that often are away, and are no objects.
                if "metrics.k8s.io/" not in api_version:
                    self.silent.append(api_version)
                continue
            for kind in _kinds(api_version, found).values():
                if {"list", "delete"} <= set(kind.verbs):
                    yield kind


def _kinds(api_version: str, found: Json) -> dict[str, Kind]:
    return {
        str(each["kind"]): Kind(
            api_version,
            str(each["kind"]),
            str(each["name"]),
            bool(each.get("namespaced")),
            tuple(each.get("verbs") or ()),
        )
        for each in found.get("resources") or []
        if "/" not in str(each.get("name", "/"))
    }
