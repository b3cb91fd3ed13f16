"""Layer 7, command lines: what containers and jobs run is what the program understands, on the ports that they say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import typer

from tests.manifests.documents import Rendered, containers, title

PROGRAM = "anchorage"
#: What typer raises for what it does not understand; it has no public name of its own.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def faults(rendered: Rendered) -> list[str]:
    """Of containers that run the program, and of RayJobs' entrypoints."""
    found = []
    for pod in rendered.pods():
        for container in containers(pod.spec):
            line = [*(container.get("command") or ()), *(container.get("args") or ())]
            if line[:1] == [PROGRAM]:
                found += [f"{pod.where}: {container['name']}: {fault}" for fault in _container(container, line)]
    for job in rendered.of("RayJob"):
        line = shlex.split(job["spec"].get("entrypoint") or "")
        if line[:1] == [PROGRAM]:
            found += [f"{title(job)}: spec.entrypoint: {fault}" for fault in [_refused(tuple(line[1:]))] if fault]
    return found


def _container(container: Mapping[str, Any], line: Sequence[str]) -> Iterator[str]:
    if fault := _refused(tuple(line[1:])):
        yield f"args: {fault}"
        return
    port = parameters(tuple(line[1:])).get("port")
    given = [one["containerPort"] for one in container.get("ports") or ()]
    if port is not None and port not in given:
        yield f"ports: `{PROGRAM} {line[1]}` listens on {port}, not on {given}"


@cache
def _refused(arguments: tuple[str, ...]) -> str | None:
    """What the program says to it, or None."""
    try:
        parameters(arguments)
    except _UsageError as error:
        return f"`{PROGRAM} {shlex.join(arguments)}`: {error}"
    return None


def parameters(arguments: tuple[str, ...]) -> Mapping[str, Any]:
    """As the program understands them. Raises _UsageError."""
    name, *rest = arguments
    command = _program().commands.get(name)
    if command is None:
        raise typer.BadParameter(f"No such command {name!r}")
    given: Mapping[str, Any] = command.make_context(name, rest).params
    return given


@cache
def _program() -> Any:
    from serving.cli import build

    return typer.main.get_command(build())
