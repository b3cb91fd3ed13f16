"""A sidecar: a small file beside a document that says its title and metadata. `guide.pdf` has `guide.pdf.meta.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ingestion.front_matter import plain
from serving.errors import DocumentError

T = TypeVar("T")

#: In order of precedence, where a document has several.
SUFFIXES = (".meta.json", ".meta.yaml", ".meta.yml", ".metadata.json")
_LAST = max(SUFFIXES)
#: More than anybody writes by hand.
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """What a sidecar says."""

    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def document_of(name: str) -> str | None:
    """The name of the document that a sidecar of this name belongs to; None if it is no sidecar's name."""
    for suffix in SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix)
    return None


def names_for(name: str) -> tuple[str, ...]:
    """What a document's sidecar may be called."""
    return tuple(name + suffix for suffix in SUFFIXES)


def paired(listing: Iterable[T], key: Callable[[T], str]) -> Iterator[tuple[T, T | None]]:
    """Documents with their sidecars, from a listing in the order of keys, holding only those that still may get one.

    A sidecar without its document comes by itself.
    """
    waiting: dict[str, tuple[T, T | None]] = {}
    for item in listing:
        name = key(item)
        for ready in [document for document in waiting if name > document + _LAST]:
            yield waiting.pop(ready)
        owner = document_of(name)
        if owner is None:
            waiting[name] = item, None
        elif owner in waiting:
            document, first = waiting[owner]
            waiting[owner] = document, item if first is None else first
        else:
            yield item, None
    yield from waiting.values()


def sidecar_of(name: str, names: Container[str]) -> str | None:
    """The sidecar of a document, among the names in its folder."""
    return next((name + suffix for suffix in SUFFIXES if name + suffix in names), None)


def parse(name: str, data: bytes) -> Told:
    """Raises DocumentError: a document must not lose what somebody took the trouble to write."""
    if len(data) > MAX_BYTES:
        raise DocumentError(f"its sidecar {name} is too large: more than {MAX_BYTES // 1024} kB")
    try:
        values = json.loads(data) if name.endswith("json") else _yaml(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DocumentError(f"its sidecar {name} cannot be parsed: {reason}") from error
    if not isinstance(values, Mapping):
        raise DocumentError(f'its sidecar {name} must hold names with values, like {{"title": "Guide"}}')
    return told({str(key): value for key, value in values.items()}, f"its sidecar {name}")


def told(values: Mapping[str, Any], where: str) -> Told:
    """Title and metadata apart. Raises DocumentError for values that would be lost; `where` begins the message."""
    values = dict(values)
    title = values.pop("title", "")
    if not isinstance(title, str):
        raise DocumentError(f"{where}: the title is not a text")
    kept = plain(values)
    for key, value in values.items():
        if value not in (None, [], ()) and key not in kept:
            raise DocumentError(
                f"{where}: the value of {key[:80]!r} is not a text, number, truth value or list of them"
            )
    return Told(" ".join(title.split()), kept)


def _yaml(data: bytes) -> Any:
    import yaml

    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
