"""One table a bench: what was measured, against what, the bar and whether it was reached."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.bench.rounds import Spread


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `passed` is None where the row is shown without a bar; `value` is what the bar is about."""

    metric: str
    ours: str
    peer: str
    ratio: str
    bar: str = "-"
    passed: bool | None = None
    value: Spread | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A bench's table and what must be known beside it."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(row.passed is not False for row in self.rows)


def at_least(metric: str, ours: str, peer: str, ratio: Spread, bar: float | None = None) -> Row:
    """A row whose ratio should be large."""
    passed = None if bar is None else ratio.median >= bar
    return Row(metric, ours, peer, ratio.text(unit="x"), f">= {bar:g}x" if bar else "-", passed, ratio)


def at_most(metric: str, ours: str, peer: str, ratio: Spread, bar: float | None = None) -> Row:
    """A row whose ratio should be small."""
    passed = None if bar is None else ratio.median <= bar
    return Row(metric, ours, peer, ratio.text(unit="x"), f"<= {bar:g}x" if bar else "-", passed, ratio)


def added(metric: str, ours: str, peer: str, more_ms: Spread, bar_ms: float | None = None) -> Row:
    """A row about milliseconds on top of the peer's."""
    passed = None if bar_ms is None else more_ms.median <= bar_ms
    return Row(
        metric, ours, peer, f"+{more_ms.text(1, ' ms')}", f"<= {bar_ms:g} ms" if bar_ms else "-", passed, more_ms
    )


def show(title: str, header: list[str], result: Result, console: Console | None = None) -> None:
    """Print the header, one table and its notes."""
    console = console or Console(width=150)
    table = Table(title="\n".join([f"[bold]{title}[/]", *header]), title_justify="left", title_style="")
    for heading in ("metric", "ours", "peer", "ratio", "bar", ""):
        table.add_column(heading, overflow="fold")
    for row in result.rows:
        mark = "" if row.passed is None else ("pass" if row.passed else "FAIL")
        table.add_row(row.metric, row.ours, row.peer, row.ratio, row.bar, mark)
    console.print(table)
    for note in result.notes:
        console.print(f"- {note}", markup=False)


def as_json(name: str, machine: dict[str, Any], result: Result) -> str:
    rows = [asdict(row) for row in result.rows]
    return json.dumps(
        {"bench": name, "machine": machine, "passed": result.passed, "rows": rows, "notes": result.notes}, indent=2
    )
