"""What the commands for a Kubernetes cluster share: options, connecting, tables of reasons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from serving.cluster.waits import Waiting

Namespace: TypeAlias = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the deployment.")]
Context: TypeAlias = Annotated[
    str | None,
    typer.Option("--context", help="Context of the kubeconfig. Default: its current one.", show_default=False),
]
Kubeconfig: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig",
        envvar="KUBECONFIG",
        help="Default: ~/.kube/config; in a pod, its service account.",
        show_default=False,
    ),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout: TypeAlias = Annotated[float, typer.Option("--timeout", min=0.0, help="Longest wait, seconds.")]

DEFAULT_NAMESPACE = "anchorage"
#: RFC 1123: what a namespace may be called.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def namespace_name(name: str) -> str:
    """Raises ConfigurationError."""
    if not _LABEL.fullmatch(name):
        raise ConfigurationError(
            f"--namespace {name!r}: a namespace has up to 63 lower-case letters, digits and '-', not at its ends."
        )
    return name


def confirmed(console: Console, question: str, yes: bool) -> bool:
    """Asked only where somebody can answer."""
    return yes or not console.is_terminal or typer.confirm(question, default=True)


def since(seconds: float | None) -> str:
    """`3 m 20 s`; nothing where it is not known."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} m {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def waiting_table(found: Sequence[Waiting]) -> Table:
    """What, since when, why."""
    now = datetime.now(UTC)
    table = Table("waiting for", "since", "why", box=None, pad_edge=False, header_style="bold")
    table.columns[1].no_wrap = True
    for each in found:
        # As text: what a cluster says is no markup.
        table.add_row(Text(each.what, style="" if each.blocks else "dim"), since(each.seconds(now)), Text(each.reason))
    return table


class Progress:
    """A live table on a terminal; elsewhere a line when a reason is new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._told: set[tuple[str, str]] = set()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, found: Sequence[Waiting]) -> None:
        if self._live is not None:
            self._live.update(waiting_table(found))
            return
        now = datetime.now(UTC)
        for each in found:
            if (each.what, each.reason) not in self._told:
                age = since(each.seconds(now))
                self._console.print(Text(f"  {each.what}{f' ({age})' if age else ''}: {each.reason}"))
        self._told = {(each.what, each.reason) for each in found}
