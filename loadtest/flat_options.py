"""Commands of typer whose options come in groups: a parameter that is a dataclass stands for its fields."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, get_type_hints


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer understands it: every field is an option of its own, with its `Annotated` type."""
    own = inspect.signature(command, eval_str=True)
    groups = {
        name: parameter.annotation
        for name, parameter in own.parameters.items()
        if dataclasses.is_dataclass(parameter.annotation)
    }
    shown: list[inspect.Parameter] = []
    for name, parameter in own.parameters.items():
        shown += _fields(groups[name]) if name in groups else [parameter.replace(kind=parameter.KEYWORD_ONLY)]

    @wraps(command)
    def typed(**given: Any) -> None:
        made = {name: _taken(group, given) for name, group in groups.items()}
        command(**made, **given)

    typed.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined] # what typer reads
    return typed


def _fields(group: Any) -> list[inspect.Parameter]:
    types: Mapping[str, Any] = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )
        for field in dataclasses.fields(group)
    ]


def _taken(group: Any, given: dict[str, Any]) -> Any:
    """Made of its values, which `given` has no more."""
    return group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
