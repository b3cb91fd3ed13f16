"""The block of metadata above a page: YAML between `---`, TOML between `+++`. The only importer of `yaml`."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any

_BLOCK = re.compile(r"\s*?(?P<fence>---|\+\+\+)[ \t]*\n(?P<body>.*?)^(?:(?P=fence)|\.\.\.)[ \t]*(?:\n|\Z)", re.S | re.M)
_SIMPLE = re.compile(r"^([A-Za-z_][\w-]*):[ \t]+(.+?)[ \t]*$", re.M)
_MAX_BLOCK = 64 * 1024
_MAX_KEYS = 64
_MAX_ITEMS = 64
_MAX_STRING = 1024
_INT64 = 2**63


def split(text: str) -> tuple[dict[str, Any], str]:
    """Metadata and the text below it. A block that cannot be parsed gives what its simple lines say."""
    match = _BLOCK.match(text[:_MAX_BLOCK])
    if match is None:
        return {}, text
    values = _parse(match["body"], toml=match["fence"] == "+++")
    if values is None:
        return {}, text
    return plain(values), text[match.end() :]


def _parse(body: str, *, toml: bool) -> Mapping[Any, Any] | None:
    if not body.strip():
        return {}
    try:
        values = tomllib.loads(body) if toml else _yaml(body)
    except (ValueError, RecursionError):
        values = dict(_SIMPLE.findall(body))
        return values or None
    return values if isinstance(values, Mapping) else None


def _yaml(body: str) -> Any:
    import yaml

    try:
        return yaml.load(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Scalars and lists of scalars, as JSON has them; everything else is left out, and nothing is huge."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if len(kept) == _MAX_KEYS:
            break
        reduced = _list(value) if isinstance(value, list | tuple) else _scalar(value)
        if reduced not in (None, []):
            kept[str(key)[:_MAX_STRING]] = reduced
    return kept


def _list(values: list[Any] | tuple[Any, ...]) -> list[Any]:
    return [item for item in map(_scalar, values[:_MAX_ITEMS]) if item is not None]


def _scalar(value: Any) -> str | int | float | bool | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:_MAX_STRING]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)[:_MAX_STRING]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date, too
        return value.isoformat()
    return None
