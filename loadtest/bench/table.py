"""One table a bench: what was measured, against what, the bar and whether it was reached."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `passed` is None where the row is shown without a bar."""

    metric: str
    ours: str
    peer: str
    ratio: str
    bar: str = "-"
    passed: bool | None = None


def show(title: str, rows: list[Row], console: Console | None = None) -> bool:
    """Print the rows; True when every bar was reached."""
    table = Table(title=title, title_justify="left")
    for heading in ("metric", "ours", "peer", "ratio", "bar", ""):
        table.add_column(heading, overflow="fold")
    for row in rows:
        mark = "" if row.passed is None else ("pass" if row.passed else "FAIL")
        table.add_row(row.metric, row.ours, row.peer, row.ratio, row.bar, mark)
    (console or Console(width=140)).print(table)
    return all(row.passed is not False for row in rows)
