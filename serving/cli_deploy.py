"""`anchorage deploy`: an empty namespace to a serving endpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from serving.cli_cluster import (
    DEFAULT_NAMESPACE,
    Context,
    Kubeconfig,
    Namespace,
    Progress,
    Timeout,
    Yes,
    confirmed,
    namespace_name,
    waiting_table,
)
from serving.cli_deploy_text import next_steps, served, settings_of
from serving.cli_next import program
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from serving.cluster.apply import Applied
    from serving.cluster.connection import Cluster
    from serving.cluster.findings import Finding
    from serving.cluster.kinds import Kinds
    from serving.cluster.objects import Identity, Json
    from serving.cluster.tailor import Wishes

Overlay = Annotated[
    str | None,
    typer.Option(
        "--overlay", "-o", help="local, eks, gke, aks, onprem, or a folder. Default: by what the cluster is.",
        show_default=False,
    ),
]  # fmt: skip
With = Annotated[
    list[str] | None, typer.Option("--with", help="A component on top (manifests/components), or a folder. Repeatable.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="Model of the LLM, as vLLM takes it. Adds `llm` and `guard`.")
]
Gpus = Annotated[int | None, typer.Option("--gpus", min=1, max=64, help="GPUs of one replica of the LLM.")]
Gpu = Annotated[
    str | None, typer.Option("--gpu", help="Type of these GPUs, as `anchorage plan` calls it: L4, H100 ...")
]
MaxReplicas = Annotated[int | None, typer.Option("--max-replicas", min=1, help="Replicas of the LLM at most.")]
Image = Annotated[str | None, typer.Option("--image", help="In place of the CPU image.")]
GpuImage = Annotated[str | None, typer.Option("--gpu-image", help="In place of the GPU image.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="GROUP.FIELD=VALUE of the serving settings. Repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Let the server say what would change; change nothing.")]
Render = Annotated[bool, typer.Option("--render", help="Print the manifests; no cluster is needed.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Apply, and do not wait until it is ready.")]
Force = Annotated[bool, typer.Option("--force-conflicts", help="Take over fields that somebody else set.")]
Prune = Annotated[bool, typer.Option("--prune", help="Delete what an earlier deployment applied and this one lacks.")]

_COLOURS = {"created": "green", "changed": "yellow", "unchanged": "dim", "failed": "bold red", "unknown": "cyan"}


def register(app: typer.Typer) -> None:
    app.command()(deploy)


def deploy(
    overlay: Overlay = None,
    with_: With = None,
    model: Model = None,
    gpus: Gpus = None,
    gpu: Gpu = None,
    max_replicas: MaxReplicas = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    image: Image = None,
    gpu_image: GpuImage = None,
    set_: Set = None,
    dry_run: DryRun = False,
    render: Render = False,
    no_wait: NoWait = False,
    timeout: Timeout = 1800.0,
    force_conflicts: Force = False,
    prune: Prune = False,
    yes: Yes = False,
) -> None:
    """Bring Anchorage up in a Kubernetes namespace: look, apply, wait until it serves.

    Run it again whenever you like: what is as it should be stays untouched, and a run that was cut short is completed.
    Secrets that are missing are made with random values, once; nothing prints them.

    Exit codes: 0 it is ready (or, with --dry-run, could be); 1 something is missing, was refused or took too long.
    """
    from serving.cluster.tailor import Wishes

    wishes = Wishes(model, gpus, max_replicas, image, gpu_image, settings_of(set_ or ()), gpu)
    # First, for others change what it brings.
    components = tuple(dict.fromkeys([*(["llm", "guard"] if wishes.for_llm else []), *(with_ or ())]))
    if render:
        _print_manifests(overlay, components, namespace_name(namespace), wishes)
        return
    console = Console(highlight=False, soft_wrap=True)
    run = _opened(console, overlay, components, namespace_name(namespace), wishes, kubeconfig, context)
    run.force = force_conflicts
    run.look()
    if dry_run:
        raise typer.Exit(run.trial())
    if not confirmed(console, "Apply?", yes):
        raise typer.Exit(1)
    applied = run.apply(prune)
    if not no_wait:
        raise typer.Exit(run.wait(applied, timeout))


def _print_manifests(overlay: str | None, components: Sequence[str], namespace: str, wishes: Wishes) -> None:
    from serving.cluster.provider import FALLBACK
    from serving.cluster.render import as_yaml

    things, found = _things(overlay or FALLBACK, components, namespace, wishes)
    for each in found:
        if each.level == "error":
            raise ConfigurationError(f"{each.what} {each.do}")
        typer.echo(f"{each.what} {each.do}", err=True)
    sys.stdout.write(as_yaml(things))


def _opened(
    console: Console,
    overlay: str | None,
    components: Sequence[str],
    namespace: str,
    wishes: Wishes,
    kubeconfig: str | None,
    context: str | None,
) -> _Run:
    """With the cluster's own overlay where none was named."""
    from serving.cluster.kinds import Kinds
    from serving.cluster.kubeconfig import connect
    from serving.cluster.provider import overlay_for

    cluster = connect(kubeconfig, context)
    # One that is away is said at once; the long patience is for one that goes away in the middle.
    cluster.get("/version", patience_s=5.0)
    chosen, why = (overlay, "") if overlay else overlay_for(cluster)
    things, found = _things(str(chosen), components, namespace, wishes)
    console.print(
        f"[bold]{escape(cluster.name)}[/], namespace [bold]{namespace}[/], overlay [bold]{escape(str(chosen))}[/]"
        + (f" ({escape(why)})" if why else "")
        + (f" with {escape(', '.join(components))}" if components else "")
    )
    kinds = Kinds(cluster)
    return _Run(console, cluster, kinds, namespace, kinds.placed(things, namespace), found)


def _things(
    overlay: str, components: Sequence[str], namespace: str, wishes: Wishes
) -> tuple[list[Json], list[Finding]]:
    """And what is to be said about the model. Raises ConfigurationError."""
    from serving.cli_deploy_size import sized
    from serving.cluster.exclusive import check
    from serving.cluster.render import Wanted, render, without
    from serving.cluster.tailor import arguments_of, tailor

    wanted = Wanted(overlay, tuple(components), namespace)
    check(wanted)
    alone = without(wanted, "llm")
    plain = arguments_of(render(alone)) if alone is not None else None
    things = tailor(render(wanted), wishes, served, plain)
    for_llm = wishes.for_llm or any(name.startswith("llm.") for name in wishes.settings)
    return things, sized(things) if for_llm else []


class _Run:
    """One deployment, step by step. A step that fails ends the command with what to do."""

    def __init__(
        self,
        console: Console,
        cluster: Cluster,
        kinds: Kinds,
        namespace: str,
        things: list[Json],
        found: Sequence[Finding] = (),
    ) -> None:
        self._console = console
        self._cluster = cluster
        self._kinds = kinds
        self._namespace = namespace
        self._things = things
        self._found = found
        self.force = False
        self._missing: list[Any] = []

    def look(self) -> None:
        """Stops where the deployment could not work."""
        from serving.cluster import secrets
        from serving.cluster.preflight import preflight
        from serving.errors import ClusterRefused

        try:
            self._missing = secrets.missing(self._cluster, self._namespace, self._things)
        except ClusterRefused as refused:
            if refused.status == 401:
                raise
            self._findings_alone(f"Whether the Secrets are there could not be seen: {refused}")
        found = preflight(self._cluster, self._kinds, self._namespace, self._things, self._missing)
        self._stop_at([*self._found, *found])

    def trial(self) -> int:
        """A table of what would change. The exit code."""
        from serving.cluster.preflight_trial import admission, trial

        results, found = trial(self._cluster, self._kinds, self._things, force=self.force)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("", "object", ""):
            table.add_column(title)
        for each in results:
            table.add_row(Text(each.change, style=_COLOURS.get(each.change, "")), str(each.who), Text(each.reason))
        for secret in self._missing:
            table.add_row(Text("created", style="green"), f"Secret/{secret.name}", "with random values")
        self._console.print(table)
        found += list(admission(self._cluster, self._namespace, self._things))
        self._show(found)
        return 1 if any(each.level == "error" for each in found) else 0

    def apply(self, prune: bool) -> list[Identity]:
        """Namespace first; then the server is asked about all the rest before any of it is applied."""
        from serving.cluster import secrets
        from serving.cluster.objects import identity
        from serving.cluster.preflight_trial import admission, trial

        first = [thing for thing in self._things if thing["kind"] == "Namespace"]
        rest = [thing for thing in self._things if thing["kind"] != "Namespace"]
        self._applied(first)
        _, found = trial(self._cluster, self._kinds, rest, force=self.force)
        self._stop_at([*found, *admission(self._cluster, self._namespace, rest)])
        for name in secrets.make(self._cluster, self._namespace, self._things, self._missing):
            self._console.print(f"  [green]created[/]   Secret/{name} [dim]with random values[/]")
        self._applied(rest)
        self._leftovers(prune)
        return [identity(thing) for thing in rest]

    def wait(self, workloads: Sequence[Identity], timeout_s: float) -> int:
        """The exit code."""
        from serving.cluster.follow import follow

        self._console.print()
        try:
            with Progress(self._console) as progress:
                left = follow(self._cluster, self._kinds, self._namespace, workloads, timeout_s, progress.show)
        except KeyboardInterrupt:
            option = "" if self._namespace == DEFAULT_NAMESPACE else f" --namespace {self._namespace}"
            self._console.print(f"It goes on by itself: {program()} status --cluster{option}")
            return 130
        if left:
            self._console.print(f"[bold red]Not ready after {timeout_s:.0f} s.[/] It still waits for:")
            self._console.print(waiting_table(left))
            self._console.print("The same command goes on from here.")
            return 1
        self._console.print(next_steps(self._things, self._namespace))
        return 0

    def _applied(self, things: Sequence[Json]) -> None:
        from serving.cluster.apply import Applying, apply

        failed: list[Applied] = []
        for each in apply(self._cluster, self._kinds, things, Applying(force=self.force)):
            if each.change == "failed":
                failed.append(each)
            line = Text.assemble("  ", (f"{each.change:<9}", _COLOURS.get(each.change, "")), f" {each.who}")
            self._console.print(line.append(f"  {each.reason}" if each.reason else ""))
        if failed:
            raise ConfigurationError(
                f"{len(failed)} of {len(things)} objects were refused. The others are applied; the same command goes "
                "on when the reasons above are gone."
            )

    def _leftovers(self, prune: bool) -> None:
        from serving.cluster.apply import leftovers
        from serving.cluster.destroy import delete, find

        found = find(self._cluster, self._kinds, self._namespace)
        stale = leftovers(self._things, [who for who, _ in found.things if who not in found.shared])
        if prune:
            for who, reason in delete(self._cluster, found, stale):
                self._console.print(Text(f"  deleted   {who}  {reason}"))
        elif stale:
            names = ", ".join(map(str, stale[:5])) + (f" and {len(stale) - 5} more" if len(stale) > 5 else "")
            self._console.print(f"  [dim]left from an earlier deployment: {escape(names)} (--prune deletes them)[/]")

    def _stop_at(self, found: Sequence[Finding]) -> None:
        self._show(found)
        if any(each.level == "error" for each in found):
            raise ConfigurationError("Nothing was applied. Remedy what is marked ✗, and run it again.")

    def _findings_alone(self, text: str) -> None:
        from serving.cluster.findings import warning

        self._show([warning(text)])

    def _show(self, found: Sequence[Finding]) -> None:
        for each in found:
            mark = ("  ✗ ", "bold red") if each.level == "error" else ("  ! ", "yellow")
            self._console.print(Text.assemble(mark, each.what, (f" {each.do}" if each.do else "", "dim")))
