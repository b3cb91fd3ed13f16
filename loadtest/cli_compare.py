"""`anchorage loadtest compare`: is B worse than A, or is it chance?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.extra import SHOWING, check_installed
from serving.cli_options import AsJson
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from loadtest.compare import Comparison, Level, Row

UNUSABLE = 4
_STYLES = {"better": "green", "worse": "red", "gone": "red", "too little data": "dim", "no difference seen": ""}


def compare(
    a: Annotated[Path, typer.Argument(help="result.json, or its folder: how it was.", exists=True)],
    b: Annotated[Path, typer.Argument(help="The same: how it is now.", exists=True)],
    tolerance: Annotated[str, typer.Option(help="What may be worse by that much: 5% or 0.05 of what it was.")] = "5%",
    gate: Annotated[
        str | None,
        typer.Option(
            help="What must not be worse, by comma: ttft_p95_s,gap_p99_s,errors,source_recall,goodput (these are the "
            "default), total_p99_s, answer_match, cited ..."
        ),
    ] = None,
    allow_void: Annotated[bool, typer.Option("--allow-void", help="Also where the client was the limit.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Tell a difference between two results from noise. For CI: fails where B is worse.

    Intervals are by bootstrap over blocks of neighbouring requests, as those resemble each other. Loads are compared
    one by one. Exit codes: 0 nothing gated is worse; 1 something is, by more than the tolerance and more than chance
    (5 % for all of them together); 2 the command line is wrong; 4 the results are void, or cannot be compared: also
    where there is too little data for something that is gated, at every load.
    """
    check_installed(*SHOWING)
    from loadtest.compare import GATE
    from loadtest.compare import compare as compared
    from loadtest.run import Study

    names, allowed = _names(gate) or GATE, _share(tolerance)
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 120
    try:
        found = compared(Study.load(a), Study.load(b), gate=names, tolerance=allowed, allow_void=allow_void, seed=seed)
    except ConfigurationError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]Error:[/] {escape(str(error))}")
        raise typer.Exit(UNUSABLE) from error
    code = _code(found)
    if as_json:
        sys.stdout.write(json.dumps({**found.as_json(), "exit_code": code}) + "\n")
    else:
        _show(out, found, allowed)
    raise typer.Exit(code)


def _code(found: Comparison) -> int:
    if found.failed:
        return 1
    return 0 if found.judged and not found.unjudged else UNUSABLE


def _names(gate: str | None) -> tuple[str, ...]:
    from loadtest.metrics import metric, spelled

    names = tuple(filter(None, (name.strip() for name in (gate or "").split(","))))
    for name in names:
        if metric(name) is None:
            raise typer.BadParameter(f"there is no {name!r}; there are {spelled()}", param_hint="--gate")
    return names


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 100:
        raise typer.BadParameter(f"{text!r} is no share: 5% or 0.05", param_hint="--tolerance")
    return share


def _show(out: Console, found: Comparison, tolerance: float) -> None:
    for warning in found.warnings:
        out.print(f"[yellow]not alike:[/] {escape(warning)}")
    for sentence in found.rates:
        out.print(escape(sentence))
    for level in found.levels:
        out.print(_table(level, found.gate))
        for note in level.notes:
            out.print(f"[yellow]{escape(note)}[/]")
    out.print(
        f"[dim]* gated: fails if worse by more than {100 * tolerance:g} % and by more than chance. Intervals at 95 %, "
        "each on its own: of twenty metrics one differs by chance.[/]"
    )
    for sentence in found.failed:
        out.print(f"[bold red]worse:[/] {escape(sentence)}")
    if not any(level.gated for level in found.levels):
        out.print("[bold red]nothing could be judged: at every load the line of A grew[/]")
    elif not found.judged or found.unjudged:
        what = escape(", ".join(found.unjudged)) or "anything that is gated"
        out.print(f"[bold red]too little data to judge {what}: longer runs, or more of them, would do[/]")
    elif not found.failed:
        out.print("[bold green]nothing that is gated is worse[/]")


def _table(level: Level, gate: Sequence[str]) -> Table:
    runs = f"{level.runs[0]} run{'s' * (level.runs[0] > 1)} against {level.runs[1]}"
    table = Table(
        "", "A", "B", "B - A", "", "95 %", "", title=f"{level.load} ({runs})", box=None, pad_edge=False,
        header_style="bold", title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:6]:
        column.justify = "right"
    for row in level.rows:
        mark = "*" if level.gated and row.name in gate else ""
        table.add_row(f"{row.title}{mark}", *_cells(row), row.word, style=_STYLES[row.word])
    return table


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    change = f"{row.relative:+.1%}" if row.relative is not None and row.unit != "share" else ""
    moved = None if row.a is None or row.b is None else row.b - row.a
    between = [_number(end, row.unit, "+") for end in (row.low, row.high) if end is not None]
    return (
        _number(row.a, row.unit),
        _number(row.b, row.unit),
        _number(moved, row.unit, "+"),
        change,
        " to ".join(between),
    )


def _number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return "-"
    if unit == "share":
        return f"{100 * value:{sign}.2f} %"
    if unit == "1/s":
        return f"{value:{sign}.2f}/s"
    if abs(value) >= 1:
        return f"{value:{sign}.2f} s"
    return f"{1000 * value:{sign}.1f} ms" if not 0 < abs(value) < 1e-3 else f"{1e6 * value:{sign}.0f} us"
