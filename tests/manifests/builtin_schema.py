"""Core kinds by the schemas that kubernetes-validate ships: closed, one set for each Kubernetes release.

Its own `validate` reads 2 MB of JSON for each document and stops at the first fault; here they are read once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import jsonschema
import jsonschema.protocols
from referencing import Registry
from referencing.jsonschema import DRAFT202012

#: The oldest and the newest Kubernetes that the manifests are for.
RELEASES = ("1.34", "1.37")
_DEFINITIONS = "/api/_definitions.json"
POD_TEMPLATE = "io.k8s.api.core.v1.PodTemplateSpec"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


@cache
def definitions(release: str) -> dict[str, Any]:
    """Every type of the release, by its full name."""
    found: dict[str, Any] = json.loads(_file(release, "_definitions.json"))["$defs"]
    return found


def known(release: str, api_version: str, kind: str) -> bool:
    """Whether the release has this kind in this version of its API."""
    return _name(release, api_version, kind) is not None


def validator(release: str, api_version: str, kind: str) -> jsonschema.protocols.Validator:
    """For documents of a kind that is `known`."""
    name = _name(release, api_version, kind)
    assert name, f"{api_version} {kind} is not in Kubernetes {release}"
    return of_type(release, name)


@cache
def of_type(release: str, name: str) -> jsonschema.protocols.Validator:
    """For values of one type, by its full name."""
    content = {"$defs": definitions(release)}
    registry: Registry[Any] = Registry().with_resource(_DEFINITIONS, DRAFT202012.create_resource(content))
    return jsonschema.Draft202012Validator({"$ref": f"{_DEFINITIONS}#/$defs/{name}"}, registry=registry)


@cache
def _name(release: str, api_version: str, kind: str) -> str | None:
    group, _, version = api_version.rpartition("/")
    wanted = {"group": group, "version": version, "kind": kind}
    for name, schema in definitions(release).items():
        if wanted in schema.get("x-kubernetes-group-version-kind", ()):
            return name
    return None


def typed(release: str, name: str, value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Each value below this one whose schema has a name: that name, its path and itself; and each list by its rule.

    A list that the API server merges by keys comes as `list:KEY,KEY`.
    """
    schema = definitions(release)[name]
    yield name, path, value
    yield from _within(release, schema, value, path)


def type_of(release: str, api_version: str, kind: str) -> str:
    name = _name(release, api_version, kind)
    assert name, f"{api_version} {kind} is not in Kubernetes {release}"
    return name


def _within(
    release: str, schema: Mapping[str, Any], value: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[str, Any, Any]]:
    if "$ref" in schema:
        yield from typed(release, schema["$ref"].rpartition("/")[2], value, path)
    elif isinstance(value, dict):
        properties, other = schema.get("properties") or {}, schema.get("additionalProperties")
        for key, below in value.items():
            if key in properties:
                yield from _within(release, properties[key], below, (*path, key))
            elif isinstance(other, Mapping):
                yield from _within(release, other, below, (*path, key))
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys:
            yield f"list:{','.join(keys)}", path, value
        for i, below in enumerate(value):
            yield from _within(release, schema.get("items") or {}, below, (*path, i))


def _file(release: str, name: str) -> str:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{release}.0-local-strict"
    return (folder / name).read_text()
