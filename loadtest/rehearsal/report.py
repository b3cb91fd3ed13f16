"""A rehearsal's result for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table

from loadtest.rehearsal.client import Row
from loadtest.rehearsal.result import Result, percentile
from loadtest.rehearsal.timeline import NODES_UP, REPLICAS_READY, Timeline


def show(result: Result, console: Console) -> None:
    """Tables, then what was wrong, if anything was."""
    console.print(Group(_times(result), _answers(result), _delays(result)))
    counts, total = result.counts(), len(result.rows)
    resumed = sum(row.resumed > 0 for row in result.rows)
    console.print(
        f"{total} requests, {counts['failed']} failed, {counts['cut']} cut, {resumed} went on in another replica; "
        f"at most {result.timeline.most(NODES_UP)} GPU nodes and {result.timeline.most(REPLICAS_READY)} replicas; "
        f"left over: {result.timeline.levels[NODES_UP]} nodes, {result.timeline.levels[REPLICAS_READY]} replicas"
    )
    if needless := result.needlessly_cold():
        console.print(f"[yellow]![/] {needless} requests were treated as cold although a replica served")
    for problem in result.problems:
        console.print(f"[bold red]✗[/] {problem}", soft_wrap=True)
    if not result.problems:
        console.print("[green]✓[/] nothing failed, nothing was cut, no node stayed")


def _times(result: Result) -> RenderableType:
    table = Table("time to react, from the first question", "s", "time to release, from the last answer", "s")
    react, release = list(result.reaction().items()), list(result.release().items())
    for at in range(max(len(react), len(release))):
        cells = [*_cells(react, at), *_cells(release, at)]
        table.add_row(*cells)
    _right(table, (1, 3))
    return table


def _cells(figures: Sequence[tuple[str, float | None]], at: int) -> tuple[str, str]:
    if at >= len(figures):
        return "", ""
    name, value = figures[at]
    return name, _number(value)


def _answers(result: Result) -> RenderableType:
    """By what the caller wanted while the LLM was cold, and then once it was warm."""
    table = Table(
        "asked", "wanted when cold", "answered", "requests", "first text p50 s", "p95 s", "what came meanwhile"
    )
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in result.rows:
        wanted: str = row.on_cold if row.cold else ""
        groups.setdefault(("cold" if row.cold else "warm", wanted, row.outcome), []).append(row)
    for (when, wanted, outcome), some in sorted(groups.items()):
        first = [row.ttft_s for row in some if row.ttft_s is not None]
        table.add_row(
            when,
            wanted,
            outcome,
            str(len(some)),
            _number(percentile(first, 0.5)),
            _number(percentile(first, 0.95)),
            _meanwhile(some, result.timeline),
        )
    _right(table, (3, 4, 5))
    return table


def _meanwhile(rows: Sequence[Row], timeline: Timeline) -> str:
    said = [row.retry_after_s for row in rows if row.retry_after_s is not None]
    if said:
        ready = [timeline.first(REPLICAS_READY, after=row.at) for row in rows]
        took = [at - row.at for at, row in zip(ready, rows, strict=True) if at is not None]
        return f"Retry-After {_range(said)}; a replica came after {_range(took)}"
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages))
    return f"progress: {', '.join(stages)}" if stages else ""


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f} s" if values else "no time"


def _delays(result: Result) -> RenderableType:
    table = Table("delay", "times", "least s", "median s", "most s")
    delays = result.delays
    for name, values in (
        ("node: asked for to alive", delays.node_s),
        ("replica: a GPU is there to serving", delays.replica_start_s),
        ("node: last replica gone to gone", delays.release_s),
    ):
        figures = [min(values, default=None), percentile(values, 0.5), max(values, default=None)]
        table.add_row(name, str(len(values)), *map(_number, figures))
    _right(table, (1, 2, 3, 4))
    return table


def _right(table: Table, columns: Iterable[int]) -> None:
    for column in columns:
        table.columns[column].justify = "right"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"
