"""Settings as arguments: of the builder (`serve run`, a Serve config) and of `--set GROUP.FIELD=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from serving.errors import ConfigurationError
from serving.settings import Settings


def read_settings(args: Mapping[str, Any]) -> Settings:
    """`{"llm": {"model": M}}` or `{"llm.model": M}`, over the environment's.

    Raises ConfigurationError for arguments that are no settings.
    """
    nested: dict[str, Any] = {}
    for name, value in args.items():
        _put(nested, name.split("."), value)
    try:
        return Settings(**nested)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigurationError(f"These settings cannot be used: {reasons}") from None


def read_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """`llm.max_replicas=2` as an argument; a value that is JSON is read as such.

    Raises ConfigurationError for what is no such pair.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or "." not in name:
            raise ConfigurationError(f"{pair!r} is not GROUP.FIELD=VALUE, as in llm.max_replicas=2")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def _put(into: dict[str, Any], path: list[str], value: Any) -> None:
    name, *rest = path
    if rest:
        inner = into.get(name)
        into[name] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        _put(inner, rest, value)
    elif isinstance(value, Mapping) and isinstance(into.get(name), Mapping):
        into[name] = {**into[name], **value}
    else:
        into[name] = dict(value) if isinstance(value, Mapping) else value
