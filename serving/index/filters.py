"""The caller's metadata filter (JSON) as a Milvus boolean expression.

The grammar is that of OpenAI's vector stores, plus a short form:

    {"type": "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "in" | "nin", "key": "author", "value": "Ada"}
    {"type": "and" | "or", "filters": [ ... ]}
    {"author": "Ada", "year": 2020}                      every one equal

A key names a metadata attribute of the document, or one of the reserved `uri` and `title`. A document without the
attribute matches `ne` and `nin` and nothing else. Nothing a caller sends is ever part of an expression but as a
literal that this file wrote: Milvus Lite has no filter templates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from serving.errors import InvalidFilter
from serving.index import schema
from serving.index.expressions import literal

MAX_DEPTH = 8
#: Comparisons in the whole filter; each value of an `in` or `nin` is one.
MAX_CONDITIONS = 256
MAX_STRING = 2048

_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_MEMBERSHIP = ("in", "nin")
_COMPARISONS = ("eq", "ne", *_ORDER, *_MEMBERSHIP)
_GROUPS = ("and", "or")
_RESERVED = {"uri": schema.URI, "title": schema.TITLE}
_INT64 = 2**63 - 1


def compile_filter(value: Any, place: str = "filter") -> str:
    """A filter as an expression; "" for None and for {}.

    Raises InvalidFilter, whose message and `param` name the place (`filter.filters[1].value`).
    """
    if value is None:
        return ""
    return _Compiler().compile(value, place, 1)


class _Compiler:
    """One filter's compilation: counts conditions, so that size is bounded across the whole tree."""

    def __init__(self) -> None:
        self._conditions = 0

    def compile(self, value: Any, place: str, depth: int) -> str:
        if not isinstance(value, Mapping):
            raise _invalid(place, f"must be an object, not {_kind(value)}")
        if depth > MAX_DEPTH:
            raise _invalid(place, f"is nested deeper than {MAX_DEPTH} levels")
        if _is_group(value):
            return self._group(value, place, depth)
        if _is_comparison(value):
            return self._comparison(value, place)
        return self._short_form(value, place)

    def _group(self, value: Mapping[str, Any], place: str, depth: int) -> str:
        _known_type(value, _GROUPS, place)
        _only(value, ("type", "filters"), place)
        if "filters" not in value:
            raise _invalid(f"{place}.filters", "is missing")
        filters = value["filters"]
        if not isinstance(filters, list):
            raise _invalid(f"{place}.filters", f"must be an array, not {_kind(filters)}")
        if not filters:
            raise _invalid(f"{place}.filters", "must not be empty")
        parts = [self.compile(part, f"{place}.filters[{i}]", depth + 1) for i, part in enumerate(filters)]
        if empty := [i for i, part in enumerate(parts) if not part]:
            raise _invalid(f"{place}.filters[{empty[0]}]", "must not be empty")
        joint = f" {value['type']} "
        return f"({joint.join(parts)})"

    def _comparison(self, value: Mapping[str, Any], place: str) -> str:
        _known_type(value, _COMPARISONS, place)
        _only(value, ("type", "key", "value"), place)
        for name in ("key", "value"):
            if name not in value:
                raise _invalid(f"{place}.{name}", "is missing")
        return self._condition(value["type"], value["key"], value["value"], place, f"{place}.key", f"{place}.value")

    def _short_form(self, value: Mapping[str, Any], place: str) -> str:
        parts = [self._condition("eq", key, wanted, place, place, f"{place}.{key}") for key, wanted in value.items()]
        return f"({' and '.join(parts)})" if parts else ""

    def _condition(self, kind: str, key: Any, value: Any, place: str, key_place: str, value_place: str) -> str:
        if not isinstance(key, str) or not key:
            raise _invalid(key_place, "must be a non-empty string")
        field = _field(key, key_place)
        reserved = key in _RESERVED
        values = _list(value, value_place) if kind in _MEMBERSHIP else [(value, value_place)]
        self._conditions += len(values)
        if self._conditions > MAX_CONDITIONS:
            raise _invalid(place, f"makes the filter longer than {MAX_CONDITIONS} conditions")
        literals = [_literal(item, item_place, reserved) for item, item_place in values]
        if kind in _ORDER:
            if isinstance(value, bool):
                raise _invalid(value_place, f"must be a number or a string with {kind!r}, not a boolean")
            return f"({field} {_ORDER[kind]} {literals[0]})"
        # Milvus Lite takes `in` for plain fields only, and servers disagree about lists of mixed types.
        equal = f"({' or '.join(f'{field} == {item}' for item in literals)})"
        return equal if kind in ("eq", "in") else _unless(equal, field, reserved)


def _is_group(value: Mapping[str, Any]) -> bool:
    return "type" in value and ("filters" in value or value["type"] in _GROUPS)


def _is_comparison(value: Mapping[str, Any]) -> bool:
    """`{"type": "pod"}` alone is the short form for an attribute that happens to be called `type`."""
    return "type" in value and ("key" in value or "value" in value or value["type"] in _COMPARISONS)


def _field(key: str, place: str) -> str:
    return _RESERVED.get(key) or f"{schema.METADATA}[{_string(key, place)}]"


def _unless(condition: str, field: str, reserved: bool) -> str:
    """The opposite, true also where the attribute is missing: servers disagree on what `!=` says then."""
    if reserved:
        return f"(not {condition})"
    return f"(not (exists {field}) or not {condition})"


def _list(value: Any, place: str) -> list[tuple[Any, str]]:
    if not isinstance(value, list):
        raise _invalid(place, f"must be an array, not {_kind(value)}")
    if not value:
        raise _invalid(place, "must not be empty")
    return [(item, f"{place}[{i}]") for i, item in enumerate(value)]


def _literal(value: Any, place: str, reserved: bool) -> str:
    if isinstance(value, str):
        return _string(value, place)
    if reserved:
        raise _invalid(place, f"must be a string, not {_kind(value)}")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > _INT64:
            raise _invalid(place, "is beyond 64 bits")
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid(place, "must be a finite number")
        return repr(value)
    raise _invalid(place, f"must be a string, a number or a boolean, not {_kind(value)}")


def _string(value: str, place: str) -> str:
    if len(value) > MAX_STRING:
        raise _invalid(place, f"is longer than {MAX_STRING:,} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _invalid(place, "is not valid Unicode") from error
    return literal(value)


def _known_type(value: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    if value["type"] not in known:
        raise _invalid(f"{place}.type", f"must be one of {', '.join(known)}")


def _only(value: Mapping[str, Any], allowed: Sequence[str], place: str) -> None:
    if extra := [key for key in value if key not in allowed]:
        raise _invalid(place, f"has an unknown field {str(extra[0])[:100]!r}; known are {', '.join(allowed)}")


def _invalid(place: str, problem: str) -> InvalidFilter:
    place = place[:200].encode("utf-8", "replace").decode()
    return InvalidFilter(f"{place} {problem}.", param=place)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
