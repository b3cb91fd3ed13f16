"""`anchorage loadtest`: load tests that tell the truth."""

from __future__ import annotations

import typer

HELP = """How many users can it take, how good are the answers then, and what does it cost?

`run` holds one load, `sweep` finds the highest rate that keeps the objectives, `compare` tells a difference from
noise. Results go to `loadtest-results/`: `result.json`, and `report.html` for people. A key for the server comes from
`ANCHORAGE_API_KEY`.

Exit codes: 0 the objectives are met; 1 they are not, or it failed; 2 the command line is wrong; 3 a rate was found, but
not surely; 4 void: this client was the limit, and the run says nothing about the server."""


def register(app: typer.Typer) -> None:
    """Adds the sub-app. What a command needs is imported when it is called."""
    from loadtest.cli_compare import compare
    from loadtest.cli_report import report
    from loadtest.cli_run import run
    from loadtest.cli_sweep import sweep
    from loadtest.flat_options import flat

    commands = typer.Typer(help=HELP, no_args_is_help=True)
    for command in (run, sweep, compare, report):
        commands.command()(flat(command))
    app.add_typer(commands, name="loadtest")
