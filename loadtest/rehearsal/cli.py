"""`anchorage rehearse`."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from loadtest.rehearsal.scenario import Policy, Scenario, quick
from serving.cli_options import AsJson, read_settings
from serving.cli_signals import Ending

if TYPE_CHECKING:
    from loadtest.rehearsal.result import Result

_LOAD, _NODES, _TROUBLE, _OUTPUT = "The load", "Nodes and engine", "What goes wrong", "Output"


def register(app: typer.Typer) -> None:
    app.command()(rehearse)


def rehearse(
    burst: Annotated[
        float | None, typer.Option(min=0.1, help="Questions a second. Default: 4.", rich_help_panel=_LOAD)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="How long the burst lasts. Default: 45.", rich_help_panel=_LOAD)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens of an answer. Default: 120.", rich_help_panel=_LOAD)
    ] = None,
    token_s: Annotated[
        float | None, typer.Option(min=0.001, help="Between two of them. Default: 0.05.", rich_help_panel=_LOAD)
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=1, help="Instead of a burst: answers that are always under way.", rich_help_panel=_LOAD),
    ] = None,
    total: Annotated[
        int | None, typer.Option(min=1, help="With --streams: answers in all.", rich_help_panel=_LOAD)
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="GPU nodes at most. Default: 3.", rich_help_panel=_NODES)
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs of a node; a replica takes one. Default: 1.", rich_help_panel=_NODES)
    ] = None,
    node_delay_s: Annotated[
        float | None,
        typer.Option(min=0, help="From asking for a node to its start. Default: 5.", rich_help_panel=_NODES),
    ] = None,
    start_s: Annotated[
        float | None, typer.Option(min=0, help="How long the engine takes to load. Default: 5.", rich_help_panel=_NODES)
    ] = None,
    idle_s: Annotated[
        float | None,
        typer.Option(min=1, help="How long a node is idle before it goes. Default: 10.", rich_help_panel=_NODES),
    ] = None,
    reconcile_s: Annotated[
        int | None,
        typer.Option(min=1, help="How often Ray's autoscaler looks. Default: 5, as Ray's.", rich_help_panel=_NODES),
    ] = None,
    policy: Annotated[
        Policy | None,
        typer.Option(help="Whose rule says how many replicas: ours, or Serve's own.", rich_help_panel=_NODES),
    ] = None,
    kill: Annotated[
        bool | None, typer.Option("--kill", help="Kill a GPU node under load.", rich_help_panel=_TROUBLE)
    ] = None,
    rolling_update: Annotated[
        bool | None, typer.Option("--rolling-update", help="Redeploy under load.", rich_help_panel=_TROUBLE)
    ] = None,
    short: Annotated[bool, typer.Option("--quick", help="As short as it can be.", rich_help_panel=_LOAD)] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it into this .svg, .png or .pdf file.", rich_help_panel=_OUTPUT)
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Keep what Ray, Serve and Milvus write in this folder.", rich_help_panel=_OUTPUT)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rehearse a burst on this machine: GPU nodes come when questions need them and go when they don't.

    Real Ray with its real autoscaler, real Serve, the real application and HTTP; nodes are Ray nodes on this machine, a
    GPU is a number in Ray's books, the engine is a script. Exit code 1 if a request failed, a stream was cut or a node
    stayed. Variables `ANCHORAGE_SCALING__…` are heeded; no other setting and no store of yours is used.
    """
    from loadtest.rehearsal.plot import check, draw
    from loadtest.rehearsal.report import show

    given: dict[str, Any] = {
        "rate": burst,
        "seconds": seconds,
        "tokens": tokens,
        "token_s": token_s,
        "streams": streams,
        "total": total,
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "node_delay_s": node_delay_s,
        "start_s": start_s,
        "idle_s": idle_s,
        "reconcile_s": reconcile_s,
        "policy": policy,
        "kill": kill,
        "rolling_update": rolling_update,
    }
    base = quick(Scenario()) if short else Scenario()
    scenario = replace(base, **{name: value for name, value in given.items() if value is not None}).check()
    if plot is not None:
        check(plot)
    result = _rehearsed(scenario, logs)
    if result is None:
        raise typer.Exit(1)
    show(result, Console(stderr=as_json, highlight=False))
    if as_json:
        sys.stdout.write(json.dumps(result.as_json(), indent=2) + "\n")
    if plot is not None:
        draw(result, plot)
    if result.problems:
        raise typer.Exit(1)


def _rehearsed(scenario: Scenario, logs: Path | None) -> Result | None:
    """None if somebody ended it before it was over."""
    from loadtest.rehearsal.live import Live
    from loadtest.rehearsal.run import rehearse as run

    live = Live()
    ending = Ending(lambda: live.say("ending all that was started …"))
    results: list[Result] = []

    async def work() -> None:
        results.append(await run(scenario, read_settings().scaling, live, ready=ending.arm, logs=logs))

    asyncio.run(ending.run(work()))
    return results[0] if results else None
