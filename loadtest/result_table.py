"""A run or a sweep on a terminal: a short table, and the verdict in one sentence."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.figures import Figures, without_llm
from loadtest.metrics import metric
from loadtest.percentiles import Percentiles
from loadtest.slo import Judged, Verdict, shown
from loadtest.sweep import Found

_PERCENTS = (50, 90, 95, 99)


def show_run(found: Figures, verdict: Verdict, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("", *(f"p{percent}" for percent in _PERCENTS), "longest", "values"):
        table.add_column(name, justify="left" if not name else "right")
    for title, times in (("TTFT", found.ttft), ("gap", found.gap), ("total", found.total)):
        if times.count:
            table.add_row(title, *_times(times), str(times.count))
    console.print(table)
    console.print(
        f"{found.requests} requests, {found.offered_rate:.2f}/s; {found.answered_rate:.2f} answers/s, "
        f"{found.goodput or 0.0:.2f}/s good ones; {found.tokens_out_rate:.0f} tokens/s"
    )
    if said := without_llm(found):
        console.print(f"[yellow]{said}[/]")
    for failed in found.errors:
        console.print(f"[red]{failed.count} {failed.kind}[/] {escape(failed.message)}")
    console.print(verdict_line(verdict))


def verdict_line(verdict: Verdict) -> str:
    """In rich's markup."""
    if verdict.void:
        return f"[bold yellow]Void[/]: {escape('; '.join(verdict.void))}"
    if verdict.met:
        kept = ", ".join(_kept(one) for one in verdict.objectives if one.met)
        untold = ", ".join(one.title for one in verdict.objectives if one.met is None)
        left_out = f". Not judged, because nothing was asked that could tell: {untold}" if untold else ""
        return f"[bold green]Objectives met[/]: {escape(kept + left_out)}"
    return f"[bold red]Objectives not met[/]: {escape('; '.join(verdict.why) or 'none of them could be measured')}"


def found_line(found: Found) -> str:
    """In rich's markup."""
    why = escape(found.why)
    if found.rate is None:
        return f"[bold red]No rate was found that keeps the objectives[/]: {why}"
    how = "[bold green]" if found.sure else "[bold yellow]perhaps "
    return f"{how}{found.rate:g} requests a second[/] keep the objectives: {why}"


def _times(times: Percentiles) -> list[str]:
    return [spoken(times.at(percent)) for percent in _PERCENTS] + [spoken(times.longest)]


def spoken(seconds: float | None) -> str:
    """`250 ms`, `2.50 s`; a dash where it is not known."""
    if seconds is None:
        return "–"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _kept(one: Judged) -> str:
    known = metric(one.name) or metric(one.name.rpartition("_")[0])
    return f"{one.title} {shown(known, one.value)}" if known and one.value is not None else one.title
