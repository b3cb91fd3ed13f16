"""The rules that CRDs carry in CEL (`x-kubernetes-validations`), evaluated as the API server does on creation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import cel as expressions

from tests.manifests.crds import Path_, visited

#: Names that CEL has for itself: a property of such a name is written `__name__`.
_WORDS = frozenset(
    {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"}
    | {"let", "loop", "package", "namespace", "return", "var", "void", "while"}
)
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}


def faults(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """Path and message of each rule that does not hold. Rules on changes (`oldSelf`) are not for creation."""
    for below, path, one in visited(value, schema):
        for rule in below.get("x-kubernetes-validations") or ():
            if "oldSelf" not in rule["rule"]:
                yield from _broken(rule, one, below, path)


def _broken(rule: Mapping[str, Any], value: Any, schema: Mapping[str, Any], path: Path_) -> Iterator[str]:
    where = ".".join(map(str, path)) or "."
    try:
        holds = program(rule["rule"]).execute(context(spoken(value, schema)))
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        # What a rule cannot be evaluated on is refused by the API server, too.
        yield f"{where}: the rule {rule['rule']!r} cannot be evaluated: {error}"
        return
    if holds is not True:
        yield f"{where}: {rule.get('message') or rule['rule']}"


@cache
def program(rule: str) -> expressions.Program:
    """Raises ValueError for what is no CEL."""
    return expressions.compile(rule)


def context(self: Any) -> expressions.Context:
    """With the functions that Kubernetes adds to CEL, as far as the CRDs use them."""
    return expressions.Context(variables={"self": self}, functions={"find": _find, "split": _split})


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


def _split(text: str, separator: str) -> list[str]:
    return text.split(separator)


def spoken(value: Any, schema: Mapping[str, Any]) -> Any:
    """As CEL knows it: properties by names that it can write, numbers as doubles where the schema says so."""
    if isinstance(value, list):
        return [spoken(one, schema.get("items") or {}) for one in value]
    if isinstance(value, dict):
        properties, other = schema.get("properties") or {}, schema.get("additionalProperties")
        inner = other if isinstance(other, Mapping) else {}
        return {
            (escaped(key) if key in properties else key): spoken(one, properties.get(key, inner))
            for key, one in value.items()
        }
    if schema.get("type") == "number" and isinstance(value, int):
        return float(value)
    return value


def escaped(name: str) -> str:
    if name in _WORDS:
        return f"__{name}__"
    return re.sub(r"__|[./-]", lambda found: _ESCAPES[found[0]], name)
