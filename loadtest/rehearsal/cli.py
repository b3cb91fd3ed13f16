"""`anchorage rehearse`."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from loadtest.rehearsal import options
from loadtest.rehearsal.plot import check, draw
from loadtest.rehearsal.report import show
from loadtest.rehearsal.scenario import Scenario, quick
from serving.cli_options import AsJson, read_settings
from serving.cli_signals import Ending

if TYPE_CHECKING:
    from loadtest.rehearsal.result import Result

_FIELDS = {field.name for field in fields(Scenario)}


def register(app: typer.Typer) -> None:
    app.command()(rehearse)


def rehearse(
    rate: options.Burst = None,
    seconds: options.Seconds = None,
    tokens: options.Tokens = None,
    token_s: options.TokenS = None,
    streams: options.Streams = None,
    total: options.Total = None,
    short: options.Quick = False,
    nodes: options.Nodes = None,
    gpus_per_node: options.GpusPerNode = None,
    node_delay_s: options.NodeDelayS = None,
    start_s: options.StartS = None,
    idle_s: options.IdleS = None,
    reconcile_s: options.ReconcileS = None,
    policy: options.WhosePolicy = None,
    kill: options.Kill = None,
    rolling_update: options.RollingUpdate = None,
    plot: options.Plot = None,
    logs: options.Logs = None,
    as_json: AsJson = False,
) -> None:
    """Rehearse a burst on this machine: GPU nodes come when questions need them and go when they don't.

    Real Ray with its real autoscaler, real Serve, the real application and HTTP; nodes are Ray nodes on this machine, a
    GPU is a number in Ray's books, the engine is a script. Exit code 1 if a request failed, a stream was cut or a node
    stayed. Variables `ANCHORAGE_SCALING__…` are heeded; no other setting and no store of yours is used.
    """
    given = {name: value for name, value in locals().items() if name in _FIELDS and value is not None}
    scenario = replace(quick(Scenario()) if short else Scenario(), **given).check()
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
