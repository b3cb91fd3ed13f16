"""`anchorage dispatch`: an ingestion as a job of the cluster that this pod belongs to."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from serving.errors import CallerError

Template = Annotated[str, typer.Argument(help="The RayJob to run a copy of; it is suspended itself.")]
Name = Annotated[str, typer.Option("--name", help="Name of the copy. One that exists is waited for.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Where the RayJobs are.")]
Queue = Annotated[str | None, typer.Option("--queue", help="LocalQueue of Kueue that decides when it starts.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Default: the service account of this pod.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("dispatch")(dispatch_command)


def dispatch_command(
    template: Template, name: Name, namespace: Namespace, queue: Queue = None, kubeconfig: Kubeconfig = None
) -> None:
    """Run a copy of the RayJob TEMPLATE in this Kubernetes cluster, and wait for its end.

    Meant for a CronJob (manifests/base/ingestion). Killed and started again with the same name, it goes on waiting.

    Exit codes: 0 the job succeeded; 1 it failed, or could not be started; 2 there is no such template.
    """
    from ingestion.dispatch import PATIENCE_S, Copy, RayJobs
    from serving.cluster.kubeconfig import connect

    console = Console(stderr=True, highlight=False)
    try:
        jobs = RayJobs(connect(kubeconfig, patience_s=PATIENCE_S), namespace)
        ended = jobs.dispatch(
            template, Copy(name, queue=queue), lambda state: console.print(f"{name}: {escape(state)}")
        )
    except CallerError as error:
        console.print(f"[bold red]anchorage:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from error
    if not ended.succeeded:
        console.print(f"[bold red]anchorage:[/] {name} failed: {escape(ended.message)}", soft_wrap=True)
        raise typer.Exit(1)
