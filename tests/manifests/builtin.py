"""Layer 2: core kinds, strictly, in the oldest and the newest release, and what their schemas do not say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jsonschema

from tests.manifests import builtin_kinds, builtin_rules
from tests.manifests.builtin_schema import (
    OBJECT_META,
    POD_TEMPLATE,
    RELEASES,
    known,
    of_type,
    type_of,
    typed,
    validator,
)
from tests.manifests.documents import Document, Rendered, pods, title


def is_builtin(document: Mapping[str, Any]) -> bool:
    """Whether Kubernetes has this kind, or should have: by its group, which is a word, or a word below k8s.io."""
    version, kind = document["apiVersion"], document["kind"]
    group = version.rpartition("/")[0]
    own = "." not in group or (group.endswith(".k8s.io") and group.count(".") == 2)
    return own or any(known(release, version, kind) for release in RELEASES)


def faults(rendered: Rendered) -> list[str]:
    """Of all documents of core kinds."""
    return [
        f"{title(document)}: {fault}"
        for document in rendered.documents
        if is_builtin(document)
        for fault in document_faults(document)
    ]


def document_faults(document: Document) -> tuple[str, ...]:
    """Of one, without its name in front."""
    return _cached(json.dumps(document, sort_keys=True))


@cache
def _cached(text: str) -> tuple[str, ...]:
    document = json.loads(text)
    schema = [fault for release in RELEASES for fault in _by_schema(document, release)]
    if schema:
        return tuple(dict.fromkeys(schema))
    return tuple(_by_rules(document))


def _by_schema(document: Document, release: str) -> Iterator[str]:
    version, kind = document["apiVersion"], document["kind"]
    if not known(release, version, kind):
        yield f"Kubernetes {release} has no {version} {kind}"
        return
    yield from (f"{one} (Kubernetes {release})" for one in schema_faults(validator(release, version, kind), document))


def _by_rules(document: Document) -> Iterator[str]:
    yield from builtin_kinds.name(document)
    newest = RELEASES[-1]
    start = type_of(newest, document["apiVersion"], document["kind"])
    yield from value_faults(start, document)
    for pod in pods(document):
        yield from (f"{pod.path}.spec.{fault}" for fault in builtin_kinds.pod(pod.spec))
    if document["kind"] in builtin_kinds.KINDS:
        yield from builtin_kinds.KINDS[document["kind"]](document)


def value_faults(name: str, value: Any) -> Iterator[str]:
    """Of a value of a named type of the newest release, by the rules of all types within."""
    for below, path, one in typed(RELEASES[-1], name, value):
        yield from (f"{'.'.join(map(str, path)) or '.'}: {fault}" for fault in builtin_rules.rules(below, one))


def template_faults(template: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a pod template, in whatever it stands."""
    return _cached_template(json.dumps(template, sort_keys=True))


@cache
def _cached_template(text: str) -> tuple[str, ...]:
    template = json.loads(text)
    schema = [
        f"{one} (Kubernetes {release})"
        for release in RELEASES
        for one in schema_faults(of_type(release, POD_TEMPLATE), template)
    ]
    if schema:
        return tuple(schema)
    inner = [f"spec.{fault}" for fault in builtin_kinds.pod(template["spec"])]
    return (*value_faults(POD_TEMPLATE, template), *inner)


@cache
def _metadata(text: str) -> tuple[str, ...]:
    metadata = json.loads(text)
    schema = [f"metadata.{one}" for one in schema_faults(of_type(RELEASES[-1], OBJECT_META), metadata)]
    return tuple(schema) or tuple(f"metadata.{fault}" for fault in value_faults(OBJECT_META, metadata))


def metadata_faults(document: Document) -> tuple[str, ...]:
    """Of the metadata of any kind."""
    return _metadata(json.dumps(document["metadata"], sort_keys=True))


def schema_faults(checker: jsonschema.protocols.Validator, value: Any) -> Iterator[str]:
    """Path and message of each, the most telling one where a schema has alternatives."""
    for error in checker.iter_errors(value):
        told = jsonschema.exceptions.best_match([error]) or error
        path = ".".join(map(str, told.absolute_path)) or "."
        yield f"{path}: {told.message if len(told.message) < 300 else told.message[:300] + '...'}"
