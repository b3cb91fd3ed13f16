"""The values of a setup by name: for `--set NAME=VALUE`, and for the list of what can be set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from serving.errors import ConfigurationError
from serving.planning.setup import Setup

#: Set by the command's own options, or for the other deployments.
_NOT = {"policy", "on_cold", "seed", "phase", "scaling.api_requests", "scaling.busy", "scaling.cpu_plane"}


def knobs(setup: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(name, value as it is written, what it is and where its default comes from)."""
    written = setup.model_dump(mode="json")
    for name, info in type(setup).model_fields.items():
        value = getattr(setup, name)
        if isinstance(value, BaseModel):
            yield from knobs(value, f"{name}.")
        elif info.description and f"{prefix}{name}" not in _NOT:
            yield f"{prefix}{name}", written[name], info.description


def made(values: Mapping[str, Any]) -> Setup:
    """Raises ConfigurationError that names the value."""
    try:
        return Setup.model_validate(dict(values))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        name = ".".join(map(str, wrong["loc"]))
        raise ConfigurationError(f"{name}: {wrong['msg']}" if name else wrong["msg"]) from None


def turn(setup: Setup, words: Iterable[str]) -> Setup:
    """With each `NAME=VALUE` set. Raises ConfigurationError that says what is wrong."""
    values = {name: getattr(setup, name) for name in Setup.model_fields}
    groups = {name: value.model_dump() for name, value in values.items() if isinstance(value, BaseModel)}
    known = {name for name, _, _ in knobs(setup)}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {word}: say NAME=VALUE")
        if name not in known:
            raise ConfigurationError(f"--set {name}: there is no such value; --list says which there are")
        group, _, field = name.rpartition(".")
        (groups[group] if group else values)[field] = text
    return made({**values, **groups})
