"""Layer 3: custom resources against their CRDs: schema, defaults, keys of lists, rules in CEL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache

from tests.manifests import builtin_kinds, cel
from tests.manifests.builtin import is_builtin, metadata_faults, schema_faults
from tests.manifests.crds import Definition, defaulted, definition, visited
from tests.manifests.documents import Document, Rendered, title

_LISTS = ("map", "set")


def faults(rendered: Rendered) -> list[str]:
    """Of all custom resources. Callers ask crds.required() first."""
    return [
        f"{title(document)}: {fault}"
        for document in rendered.documents
        if not is_builtin(document)
        for fault in document_faults(document)
    ]


def document_faults(document: Document) -> tuple[str, ...]:
    """Of one, without its name in front."""
    return _cached(json.dumps(document, sort_keys=True))


@cache
def _cached(text: str) -> tuple[str, ...]:
    document = json.loads(text)
    found = definition(document["apiVersion"], document["kind"])
    if found is None:
        kind = f"{document['apiVersion']} {document['kind']}"
        return (f"no CRD serves {kind}: is it misspelt? If not, its CRD is missing in the folder of CRDs",)
    return tuple(
        dict.fromkeys((*builtin_kinds.name(document), *metadata_faults(document), *_by_schema(document, found)))
    )


def _by_schema(document: Document, found: Definition) -> Iterator[str]:
    if _age(found.version) < _age(found.stored):
        yield f"apiVersion: {found.version} is served for old clients: write {found.group}/{found.stored}"
    if "status" in document:
        yield "status: is the operator's to write: take it out"
    whole = defaulted(document, found.schema)
    schema = list(schema_faults(found.validator, whole))
    if schema:
        yield from schema
        return
    yield from _lists(whole, found)
    yield from cel.faults(whole, found.schema)


def _age(version: str) -> tuple[int, ...]:
    """As Kubernetes orders versions: v1alpha2, v1beta1, v1, v2."""
    major, stage, minor = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version).groups()  # type: ignore[union-attr]
    return {"alpha": 0, "beta": 1, None: 2}[stage], int(major), int(minor or 0)


def _lists(document: Document, found: Definition) -> Iterator[str]:
    """A list that is a map or a set has nothing twice."""
    for schema, path, value in visited(document, found.schema):
        kind = schema.get("x-kubernetes-list-type")
        if kind not in _LISTS or not isinstance(value, list):
            continue
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        seen = set()
        for one in value:
            key = json.dumps([one.get(name) for name in keys] if kind == "map" else one, sort_keys=True)
            if key in seen:
                yield f"{'.'.join(map(str, path))}: two entries of {', '.join(keys) or 'one value'} {key}: keep one"
            seen.add(key)
