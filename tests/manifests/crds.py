"""CustomResourceDefinitions as JSON Schema, closed as an API server with strict field validation has them.

The CRDs are not part of this repository: ANCHORAGE_CRDS names a folder of them, ../shared/crds is the default.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.protocols
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CRDS = Path(os.environ.get("ANCHORAGE_CRDS") or ROOT.parent / "shared" / "crds")
#: Kinds of clouds, of which there is no CRD to have: what we use of them.
OF_CLOUDS = Path(__file__).parent / "crds_of_clouds"
Path_ = tuple[str | int, ...]
#: Not JSON Schema's, or with another meaning there. `format` is checked for what Kubernetes checks of it: integers.
_DROPPED = {"format", "description", "default", "nullable", "example", "externalDocs", "title"}
_INTEGERS = {"int32": 2**31, "int64": 2**63}
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_TYPE_META = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", _PRESERVE: True},  # checked as Kubernetes' own
}


@dataclass(frozen=True)
class Definition:
    """One served version of a kind. `stored`: the version that the API server keeps."""

    group: str
    version: str
    kind: str
    namespaced: bool
    stored: str
    schema: Mapping[str, Any]
    validator: jsonschema.protocols.Validator


def required() -> None:
    """Skips the test, visibly, without the CRDs."""
    if not CRDS.is_dir():
        pytest.skip(f"no CRDs at {CRDS}: name a folder with ANCHORAGE_CRDS")


def definition(api_version: str, kind: str) -> Definition | None:
    """The kind in this version, or None where no CRD serves it."""
    group, _, version = api_version.partition("/")
    return _definition(group, version, kind)


def folders() -> list[Path]:
    """The files, one a kind."""
    return sorted([*CRDS.rglob("*.yaml"), *OF_CLOUDS.glob("*.yaml")])


@cache
def _definition(group: str, version: str, kind: str) -> Definition | None:
    for path in _named(group, kind):
        crd = load(path)
        if crd["spec"]["names"]["kind"] != kind:
            continue
        for served in crd["spec"]["versions"]:
            if served["name"] == version and served["served"]:
                schema = served["schema"]["openAPIV3Schema"]
                scope = crd["spec"]["scope"] == "Namespaced"
                whole = {**schema, "properties": {**schema.get("properties", {}), **_TYPE_META}}
                checker = jsonschema.Draft202012Validator(converted(whole))
                stored = next(one["name"] for one in crd["spec"]["versions"] if one["storage"])
                return Definition(group, version, kind, scope, stored, schema, checker)
    return None


def _named(group: str, kind: str) -> list[Path]:
    """Files of the group, the likely one first: each takes a tenth of a second to read."""
    found = [path for path in folders() if path.name.startswith(f"{group}_")]
    return sorted(found, key=lambda path: not path.name.startswith(f"{group}_{kind.lower()}"))


@cache
def load(path: Path) -> dict[str, Any]:
    """A CRD, once a session."""
    found: dict[str, Any] = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def converted(schema: Mapping[str, Any], *, close: bool = True) -> dict[str, Any]:
    """As JSON Schema 2020-12. Objects stay open where the API server keeps what it does not know.

    `close`: off within allOf, anyOf, oneOf and not, which only add conditions to what is described outside of them.
    """
    made = {key: value for key, value in schema.items() if not key.startswith("x-") and key not in _DROPPED}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if "pattern" in made:
        made["pattern"] = _pattern(made["pattern"])
    if schema.get("format") in _INTEGERS:
        bound = _INTEGERS[schema["format"]]
        made["minimum"] = max(-bound, made.get("minimum", -bound))
        made["maximum"] = min(bound - 1, made.get("maximum", bound - 1))
    _inner(schema, made, close=close)
    if schema.get("nullable") and "type" in made:
        kinds = made["type"] if isinstance(made["type"], list) else [made["type"]]
        made["type"] = [*kinds, "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return made


def _inner(schema: Mapping[str, Any], made: dict[str, Any], *, close: bool) -> None:
    properties = dict(schema.get("properties") or {})
    if schema.get("x-kubernetes-embedded-resource"):
        properties = {**_TYPE_META, **properties}
        made["required"] = sorted({*made.get("required", ()), "apiVersion", "kind"})
    if properties:
        made["properties"] = {name: converted(below, close=close) for name, below in properties.items()}
    if isinstance(schema.get("items"), Mapping):
        # A list that keeps what it does not know keeps it in its items (pruning/algorithm.go, skipPrune).
        kept = {_PRESERVE: True} if schema.get(_PRESERVE) else {}
        made["items"] = converted({**schema["items"], **kept}, close=close)
    if isinstance(schema.get("additionalProperties"), Mapping):
        made["additionalProperties"] = converted(schema["additionalProperties"], close=close)
    elif close and schema.get("type") == "object" and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get(_PRESERVE))
    for word in ("allOf", "anyOf", "oneOf"):
        if word in made:
            made[word] = [converted(one, close=False) for one in schema[word]]
    if "not" in made:
        made["not"] = converted(schema["not"], close=False)


def _pattern(pattern: str) -> str:
    """RE2 has flags anywhere; Python has them in front."""
    flags = re.search(r"\(\?i\)", pattern)
    return f"(?i){pattern.replace('(?i)', '')}" if flags else pattern


def defaulted(value: Any, schema: Mapping[str, Any]) -> Any:
    """A copy as the API server completes it: nulls of what cannot be null go, then defaults come."""
    if isinstance(value, list):
        items = schema.get("items") or {}
        return [defaulted(one, items) for one in value]
    if not isinstance(value, dict):
        return value
    properties, other = schema.get("properties") or {}, schema.get("additionalProperties")
    made: dict[str, Any] = {}
    for key, one in value.items():
        below = properties.get(key, other if isinstance(other, Mapping) else None)
        if one is None and key in properties and not properties[key].get("nullable"):
            continue
        made[key] = one if below is None else defaulted(one, below)
    for key, below in properties.items():
        if key not in made and "default" in below:
            made[key] = defaulted(copy.deepcopy(below["default"]), below)
    return made


def visited(value: Any, schema: Mapping[str, Any], path: Path_ = ()) -> Iterator[tuple[Mapping[str, Any], Path_, Any]]:
    """Each value with its schema and its path, from the outside in."""
    yield schema, path, value
    if isinstance(value, list):
        for i, one in enumerate(value):
            yield from visited(one, schema.get("items") or {}, (*path, i))
    elif isinstance(value, dict):
        properties, other = schema.get("properties") or {}, schema.get("additionalProperties")
        for key, one in value.items():
            below = properties.get(key, other if isinstance(other, Mapping) else None)
            if below is not None:
                yield from visited(one, below, (*path, key))
