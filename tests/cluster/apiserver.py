"""An API server's HTTP on loopback: discovery, server-side apply, dry run, watches, access reviews, deletion.

No controllers run, unless a test plays one: what is applied stays as it is, what has a finalizer stays Terminating.
"""

from __future__ import annotations

import copy
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.cluster.applying import Conflict, apply
from tests.cluster.known_kinds import CUSTOM, KINDS

Json = dict[str, Any]

PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<ns>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
    r"(?:/(?P<sub>log|status|proxy/metrics))?$"
)
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Refused(Exception):
    """A Status object."""

    def __init__(self, code: int, reason: str, message: str, *, causes: list[Json] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code, "details": {"causes": causes or []},
        }  # fmt: skip


@dataclass
class Fault:
    """What goes wrong with a request whose `METHOD path` matches, `times` times (-1: always)."""

    pattern: str
    status: int = 0
    reason: str = "InternalError"
    message: str = "not now"
    retry_after: int | None = None
    times: int = 1
    #: Close the connection without an answer; or, of a watch, in the middle of an event.
    reset: bool = False
    #: Do it, and then close the connection without an answer.
    lost: bool = False
    delay_s: float = 0.0


@dataclass
class Server:
    """The state of a cluster. Tests put objects into it, and faults."""

    url: str = ""
    version: str = "v1.36.2"
    kinds: dict[str, tuple[str, str, bool]] = field(default_factory=lambda: {**KINDS, **CUSTOM})
    objects: dict[tuple[str, str, str], Json] = field(default_factory=dict)  # (kind, namespace, name)
    #: (verb, plural), or (verb, plural, namespace), that this user may not.
    denied: set[tuple[str, ...]] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    logs: dict[str, str] = field(default_factory=dict)
    #: What the deployment's Service says, asked through the API server.
    metrics: str = ""
    requests: list[str] = field(default_factory=list)
    #: What it says with every patch.
    warning: str = ""
    #: What a mutating or validating webhook of the cluster says: raise Refused, or change the object.
    admission: list[Callable[[Json, str], None]] = field(default_factory=list)
    #: Watches from an older version are told that it is gone; running ones, too, while `expire_watches`.
    oldest: int = 0
    expire_watches: bool = False
    #: (resourceVersion, type, object), for watches.
    history: list[tuple[int, str, Json]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    _versions: Any = field(default_factory=lambda: itertools.count(100))
    latest: int = 100

    def put(self, thing: Json, *, event: str = "") -> Json:
        """Store it as it is, and tell the watchers."""
        metadata = thing.setdefault("metadata", {})
        key = (thing["kind"], metadata.get("namespace", ""), metadata["name"])
        with self.changed:
            self.latest = next(self._versions)
            metadata["resourceVersion"] = str(self.latest)
            metadata.setdefault("uid", f"uid-{self.latest}")
            metadata.setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            self.history.append((self.latest, event or ("MODIFIED" if key in self.objects else "ADDED"), thing))
            self.objects[key] = thing
            self.changed.notify_all()
        return thing

    def drop(self, key: tuple[str, str, str]) -> None:
        with self.changed:
            thing = copy.deepcopy(self.objects.pop(key))
            self.latest = next(self._versions)
            thing["metadata"]["resourceVersion"] = str(self.latest)
            self.history.append((self.latest, "DELETED", thing))
            self.changed.notify_all()

    def find(self, kind: str, name: str, namespace: str = "anchorage") -> Json | None:
        return self.objects.get((kind, namespace if self.kinds[kind][2] else "", name))

    def names(self) -> set[str]:
        return {f"{kind}/{name}" for kind, _, name in self.objects}

    # -- what requests do --

    def log(self, pod: str, query: Json) -> str | Iterator[str]:
        """Of a pod; piece by piece where it is still written."""
        return self.logs.get(pod, "")

    def answer(
        self, method: str, target: str, body: Json | None, content: str
    ) -> tuple[int, Json | str | Iterator[str]]:
        url = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if url.path == "/version":
            return 200, {"gitVersion": self.version, "major": "1", "minor": self.version.split(".")[1]}
        discovered = self._discovered(url.path)
        if discovered is not None:
            return 200, discovered
        if url.path.endswith("/selfsubjectaccessreviews"):
            return 201, self._reviewed(body or {})
        found = PATH.match(url.path)
        if found is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        api_version = found["core"] or found["group"]
        kind = next((k for k, (gv, p, _) in self.kinds.items() if gv == api_version and p == found["plural"]), None)
        if kind is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        namespace, name = found["ns"] or "", found["name"] or ""
        verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
        self._allow(verb, found["plural"], namespace)
        if found["sub"] == "log":
            return 200, self.log(name, query)
        if found["sub"] == "proxy/metrics":
            if not self.metrics:
                raise Refused(503, "ServiceUnavailable", 'no endpoints available for service "anchorage"')
            return 200, self.metrics
        if method == "GET":
            return 200, self._get((kind, namespace, name), url.path) if name else self._list(kind, namespace, query)
        if method == "DELETE":
            return 200, self._delete((kind, namespace, name), found["plural"])
        if method == "POST":
            name = (body or {}).get("metadata", {}).get("name", "")
            if (kind, namespace, name) in self.objects:
                raise Refused(409, "AlreadyExists", f'{found["plural"]} "{name}" already exists')
        return self._write(method, (kind, namespace, name), body or {}, query, content)

    def _write(self, method: str, key: tuple[str, str, str], body: Json, query: Json, content: str) -> tuple[int, Json]:
        kind, namespace, name = key
        live, dry = self.objects.get(key), query.get("dryRun") == "All"
        holder = self.objects.get(("Namespace", "", namespace))
        if namespace and (holder is None or holder["metadata"].get("deletionTimestamp")):
            if holder is None:
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            raise Refused(
                403,
                "Forbidden",
                f"unable to create new content in namespace {namespace} because it is being terminated",
            )
        manager = query.get("fieldManager", "unknown")
        if content == "application/apply-patch+yaml":
            assert body["metadata"]["name"] == name
            assert "fieldManager" in query
            if body["metadata"].get("managedFields"):
                raise Refused(400, "BadRequest", "metadata.managedFields must be nil")
            try:
                after = apply(live, body, manager, force=query.get("force") == "true")
            except Conflict as conflict:
                causes = [
                    {"reason": "FieldManagerConflict", "message": f'conflict with "{who}" using v1', "field": path}
                    for who, path in conflict.fields
                ]
                text = f"Apply failed with {len(causes)} conflict(s)"
                raise Refused(409, "Conflict", text, causes=causes) from conflict
        elif method == "POST":
            after = {**copy.deepcopy(body)}
            after.setdefault("metadata", {})["managedFields"] = [
                {"manager": manager, "operation": "Update", "fieldsV1": {}}
            ]
        else:
            if live is None:
                raise Refused(404, "NotFound", f'{self.kinds[kind][1]} "{name}" not found')
            if body.get("metadata", {}).get("uid", live["metadata"]["uid"]) != live["metadata"]["uid"]:
                raise Refused(409, "Conflict", "Precondition failed: UID in precondition")
            after = _merged(live, body)
        after["metadata"] = {**(live or {}).get("metadata", {}), **after["metadata"], "name": name}
        if namespace:
            after["metadata"]["namespace"] = namespace
        for review in self.admission:
            review(after, "" if live is None else "update")
        if kind == "PersistentVolumeClaim":
            after["metadata"].setdefault("finalizers", ["kubernetes.io/pvc-protection"])
        if kind == "Namespace":
            after.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        if live is not None and after == live:
            return 200, live
        if dry:
            return (200 if live else 201), after
        return (200 if live else 201), self.put(after)

    def _get(self, key: tuple[str, str, str], path: str) -> Json:
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{self.kinds[key[0]][1]} "{key[2]}" not found')
        return self.objects[key]

    def _list(self, kind: str, namespace: str, query: Json) -> Json:
        items = [
            thing
            for (other, where, _), thing in self.objects.items()
            if other == kind and (not namespace or where == namespace) and selected(thing, query)
        ]
        api_version = self.kinds[kind][0]
        bare = [{k: v for k, v in thing.items() if k not in ("apiVersion", "kind")} for thing in items]
        first, limit = int(query.get("continue", 0)), int(query.get("limit", 500))
        more = {"continue": str(first + limit)} if first + limit < len(bare) else {}
        return {
            "kind": f"{kind}List", "apiVersion": api_version, "items": bare[first : first + limit],
            "metadata": {"resourceVersion": str(self.latest), **more},
        }  # fmt: skip

    def _delete(self, key: tuple[str, str, str], plural: str) -> Json:
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{plural} "{key[2]}" not found')
        thing = self.objects[key]
        if thing["metadata"].get("finalizers") or (thing.get("spec") or {}).get("finalizers"):
            thing["metadata"]["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            if key[0] == "Namespace":
                thing.setdefault("status", {})["phase"] = "Terminating"
            self.put(thing)
            return thing
        self.drop(key)
        return {"kind": "Status", "status": "Success"}

    def _allow(self, verb: str, plural: str, namespace: str) -> None:
        if (verb, plural) in self.denied or (verb, plural, namespace) in self.denied:
            raise Refused(403, "Forbidden", f'{plural} is forbidden: User "u" cannot {verb} resource "{plural}"')

    def _reviewed(self, body: Json) -> Json:
        asked = body["spec"]["resourceAttributes"]
        verb, plural = asked["verb"], asked["resource"]
        denied = (verb, plural) in self.denied or (verb, plural, asked.get("namespace", "")) in self.denied
        return {**body, "status": {"allowed": not denied}}

    def _discovered(self, path: str) -> Json | None:
        groups: dict[str, list[str]] = {}
        for api_version, _, _ in self.kinds.values():
            if "/" in api_version and api_version not in groups.setdefault(api_version.split("/")[0], []):
                groups[api_version.split("/")[0]].append(api_version)
        listed = [
            {
                "name": group,
                "versions": [{"groupVersion": each} for each in versions],
                "preferredVersion": {"groupVersion": versions[0]},
            }
            for group, versions in groups.items()
        ]
        if path == "/apis":
            return {"kind": "APIGroupList", "groups": listed}
        for group in listed:
            if path == f"/apis/{group['name']}":
                return {"kind": "APIGroup", **group}
        api_version = path.removeprefix("/apis/").removeprefix("/api/")
        resources = [
            {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": _VERBS, "singularName": ""}
            for kind, (version, plural, namespaced) in self.kinds.items()
            if version == api_version
        ]
        return {"kind": "APIResourceList", "groupVersion": api_version, "resources": resources} if resources else None


def _merged(live: Json, change: Json) -> Json:
    merged = copy.deepcopy(live)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merged(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def selected(thing: Json, query: Json) -> bool:
    labels = thing["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if (labels.get(key) != value) if equals else (key not in labels):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = term.partition("=")
        at: Any = thing
        for step in key.split("."):
            at = (at or {}).get(step)
        if str(at) != value:
            return False
    return True
