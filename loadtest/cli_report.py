"""`anchorage loadtest report`: the page of a result, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loadtest.extra import SHOWING, check_installed


def report(
    result: Annotated[Path, typer.Argument(help="result.json of a run or a sweep, or its folder.", exists=True)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Default: report.html beside the result.", dir_okay=False)
    ] = None,
) -> None:
    """Make the report of a result again: one HTML file that opens anywhere, offline."""
    check_installed(*SHOWING)
    from loadtest.cli_study import write
    from loadtest.report import page
    from loadtest.run import Study

    path = out or (result if result.is_dir() else result.parent) / "report.html"
    write(path, page(Study.load(result)))
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"report: {path}", markup=False)
