"""Server-side apply as the API server does it: who owns which field, what conflicts, what a later apply takes away."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Path = tuple[str, ...]

#: Lists whose items are told apart by a key; every other list is one value. (x-kubernetes-list-map-keys of the core.)
KEYED = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "name",
    "workerGroupSpecs": "groupName",
}


@dataclass
class Conflict(Exception):
    """(manager, field) of everything that somebody else set."""

    fields: list[tuple[str, str]]


def apply(live: Json | None, wanted: Json, manager: str, *, force: bool) -> Json:
    """The object as it is afterwards, with managedFields. Raises Conflict."""
    before = copy.deepcopy(live or {})
    owners = owned_fields(before)
    mine = leaves(wanted)
    taken = [
        (other, path)
        for path in mine
        for other, paths in owners.items()
        if other != manager and path in paths and value_at(before, path) != value_at(wanted, path)
    ]
    if taken and not force:
        raise Conflict([(other, "." + ".".join(path)) for other, path in taken])
    for other, path in taken:
        owners[other].discard(path)
    others = {path for other, paths in owners.items() if other != manager for path in paths}
    for path in owners.get(manager, set()) - set(mine) - others:
        remove(before, path)
    for path in mine:
        put(before, path, copy.deepcopy(value_at(wanted, path)))
    owners[manager] = set(mine)
    after = {**before, "apiVersion": wanted["apiVersion"], "kind": wanted["kind"]}
    keep_owners(after, owners, applied=manager)
    return after


def leaves(value: object, path: Path = ()) -> list[Path]:
    """Every field that is set; metadata's own names are nobody's."""
    if isinstance(value, dict) and value:
        skipped = {"apiVersion", "kind"} if not path else {"name", "namespace"} if path == ("metadata",) else set()
        return [leaf for key, inner in value.items() if key not in skipped for leaf in leaves(inner, (*path, key))]
    key = KEYED.get(path[-1]) if path else None
    if key and isinstance(value, list) and value and all(isinstance(item, dict) and key in item for item in value):
        return [leaf for item in value for leaf in leaves(item, (*path, f"[{item[key]}]"))]
    return [path] if path else []


def value_at(thing: Any, path: Path) -> Any:
    for number, step in enumerate(path):
        if step.startswith("[") and isinstance(thing, list):
            key = KEYED[path[number - 1]]
            thing = next((item for item in thing if str(item.get(key)) == step[1:-1]), None)
        else:
            thing = thing.get(step) if isinstance(thing, dict) else None
    return thing


def put(thing: Any, path: Path, value: object) -> None:
    for number, step in enumerate(path[:-1]):
        following = path[number + 1]
        if step.startswith("["):
            thing = _item(thing, KEYED[path[number - 1]], step)
        else:
            if not isinstance(thing.get(step), dict | list):
                thing[step] = [] if following.startswith("[") else {}
            thing = thing[step]
    thing[path[-1]] = value


def _item(items: list[Json], key: str, step: str) -> Json:
    for item in items:
        if str(item.get(key)) == step[1:-1]:
            return item
    items.append({key: step[1:-1]})
    return items[-1]


def remove(thing: Json, path: Path) -> None:
    parent = value_at(thing, path[:-1]) if len(path) > 1 else thing
    if isinstance(parent, dict):
        parent.pop(path[-1], None)


def owned_fields(thing: Json) -> dict[str, set[Path]]:
    return {
        entry["manager"]: set(_paths(entry["fieldsV1"], ()))
        for entry in (thing.get("metadata") or {}).get("managedFields") or []
    }


def keep_owners(thing: Json, owners: dict[str, set[Path]], *, applied: str) -> None:
    known = {entry["manager"]: entry["operation"] for entry in thing.get("metadata", {}).get("managedFields") or []}
    thing.setdefault("metadata", {})["managedFields"] = [
        {
            "manager": manager,
            "operation": "Apply" if manager == applied else known.get(manager, "Update"),
            "apiVersion": thing.get("apiVersion"),
            "fieldsType": "FieldsV1",
            "fieldsV1": _nested(paths),
        }
        for manager, paths in sorted(owners.items())
        if paths
    ]


def _nested(paths: set[Path]) -> Json:
    root: Json = {}
    for path in sorted(paths):
        at = root
        for step in path:
            at = at.setdefault(f"k:{step}" if step.startswith("[") else f"f:{step}", {})
    return root


def _paths(nested: Json, path: Path) -> list[Path]:
    if not nested:
        return [path]
    return [leaf for step, inner in nested.items() for leaf in _paths(inner, (*path, step[2:]))]
