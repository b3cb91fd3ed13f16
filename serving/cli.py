"""`anchorage`: the command line. Commands live in `cli_*.py`; other packages add theirs.

A package registers commands through the entry-point group `anchorage.commands`: a callable `register(app)`. Nothing
heavy is imported before a command needs it, so that `anchorage --help` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from serving import (
    cli_ask,
    cli_demo,
    cli_deploy,
    cli_destroy,
    cli_guard,
    cli_plan,
    cli_serve,
    cli_serve_config,
    cli_simulate,
    cli_status,
)
from serving.errors import AnchorageError

COMMAND_GROUP = "anchorage.commands"

HELP = """Ask your documents: every answer anchored in a passage.

Start with `anchorage serve`, add documents with `anchorage ingest FOLDER`, then `anchorage ask "…"`.

Settings come from the environment, as variables named `ANCHORAGE_GROUP__FIELD`, for example
`ANCHORAGE_INDEX__MILVUS_URI`."""

EPILOG = (
    "Exit codes: 0 everything was done; 1 it failed, or a part is down; 2 the command line is wrong; "
    "3 some of it failed (the rest was done)."
)


def main() -> None:
    """The console script."""
    try:
        build()()
    except AnchorageError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]anchorage:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def build() -> typer.Typer:
    """The program with every command that is installed."""
    app = typer.Typer(
        name="anchorage",
        help=HELP,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="markdown",
    )
    cli_serve.register(app)
    cli_serve_config.register(app)
    for entry_point in sorted(importlib.metadata.entry_points(group=COMMAND_GROUP), key=lambda found: found.name):
        _register(app, entry_point)
    cli_ask.register(app)
    cli_status.register(app)
    cli_demo.register(app)
    cli_deploy.register(app)
    cli_destroy.register(app)
    cli_guard.register(app)
    cli_plan.register(app)
    cli_simulate.register(app)
    app.command()(version)
    return app


def _register(app: typer.Typer, entry_point: importlib.metadata.EntryPoint) -> None:
    try:
        register = entry_point.load()
    except ImportError as error:
        # One package in disorder does not take the other commands away.
        sys.stderr.write(f"anchorage: the command {entry_point.name!r} is missing: {error}\n")
        return
    register(app)


def version(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say which version this is."""
    number = importlib.metadata.version("anchorage")
    sys.stdout.write((json.dumps({"version": number}) if as_json else f"anchorage {number}") + "\n")


if __name__ == "__main__":
    main()
