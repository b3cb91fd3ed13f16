"""`anchorage destroy`: what `anchorage deploy` applied, taken away again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from serving.cli_cluster import DEFAULT_NAMESPACE, Context, Kubeconfig, Namespace, Timeout, Yes, namespace_name

if TYPE_CHECKING:
    from serving.cluster.destroy import Found, Terminating
    from serving.cluster.objects import Identity

Data = Annotated[bool, typer.Option("--data", help="Volumes and Secrets, too: all that was ingested is lost.")]


def register(app: typer.Typer) -> None:
    app.command()(destroy)


def destroy(
    namespace: Namespace = DEFAULT_NAMESPACE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    data: Data = False,
    timeout: Timeout = 600.0,
    yes: Yes = False,
) -> None:
    """Delete what `anchorage deploy` applied in a namespace. Volumes and Secrets stay, unless --data is given.

    What somebody else made is left alone, and so is a namespace that was there before. What is cluster-wide stays
    while a deployment in another namespace uses it.

    Exit codes: 0 it is gone; 1 something could not be deleted, or is still there when the time is over.
    """
    from serving.cluster.destroy import DATA, delete, find, holds_data, in_phases, to_delete, wait_gone
    from serving.cluster.kinds import Kinds
    from serving.cluster.kubeconfig import connect

    console = Console(highlight=False, soft_wrap=True)
    namespace = namespace_name(namespace)
    cluster = connect(kubeconfig, context)
    cluster.get("/version", patience_s=5.0)
    kinds = Kinds(cluster)
    found = find(cluster, kinds, namespace)
    wanted = to_delete(found, data=data, keep_namespace=not data and holds_data(cluster, namespace))
    kept = [who for who, _ in found.things if who not in wanted and who not in found.shared]
    if found.hidden:
        console.print(Text(f"  ! You may not list {', '.join(found.hidden)}: what there is of them stays.", "yellow"))
    if kinds.silent:
        silent = f"{', '.join(kinds.silent)} did not answer: what there is of it stays. Run the same command again."
        console.print(Text(f"  ! {silent}", "yellow"))
    if found.shared:
        console.print(_shared(found))
    if not wanted:
        console.print(f"There is nothing of ours in {namespace}." + (f" {_kept(kept)}" if kept else ""))
        raise typer.Exit(1 if kinds.silent else 0)
    console.print(f"[bold]{cluster.name}[/], namespace [bold]{namespace}[/]: {len(wanted)} objects to delete")
    lost = [who for who in wanted if who.kind in DATA]
    if lost:
        console.print(Text(f"  with all data: {', '.join(map(str, lost))}", "bold red"))
    if not yes and not (console.is_terminal and typer.confirm("Delete them?", default=False)):
        console.print("Nothing was deleted. --yes does it without asking.")
        raise typer.Exit(1)
    refused = 0
    deadline = time.monotonic() + timeout
    phases = in_phases(wanted)
    for number, phase in enumerate(phases):
        for who, reason in delete(cluster, found, phase):
            refused += bool(reason)
            console.print(Text(f"  {'✗' if reason else '-'} {who}  {reason}".rstrip(), "red" if reason else ""))
        # What does not go in half of the time does not keep the rest from being deleted.
        remaining = max(0.0, deadline - time.monotonic()) / (len(phases) - number)
        wait_gone(cluster, namespace, found, phase, remaining, lambda left: _still(console, left))
    left = wait_gone(cluster, namespace, found, wanted, max(0.0, deadline - time.monotonic()))
    for each in left:
        console.print(Text(f"  still there: {each.who}: {each.reason}", "yellow"))
    if kept:
        console.print(_kept(kept))
    raise typer.Exit(1 if left or refused or kinds.silent else 0)


def _still(console: Console, left: Sequence[Terminating]) -> None:
    if left:
        console.print(Text(f"  {len(left)} still there: {left[0].who}: {left[0].reason}", "dim"))


def _shared(found: Found) -> Text:
    from serving.cluster.destroy import command

    names = ", ".join(map(str, found.shared))
    if found.others:
        return Text(f"  ! {names}: kept: still used by {', '.join(found.others)}.", "yellow")
    return Text(
        f"  ! {names}: kept: whether another deployment uses them could not be seen ({found.unseen}). "
        f"If none does: {command(found.shared)}",
        "yellow",
    )


def _kept(kept: Sequence[Identity]) -> Text:
    return Text(f"Kept: {', '.join(map(str, kept))} (--data deletes what holds data, too).", "dim")
