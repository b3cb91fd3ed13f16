"""Run by run: what each of them found, and whether its client could be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.client_limit import CPU_LIMIT, late_limit_s, lateness_s
from loadtest.percentiles import Percentiles
from loadtest.report.levels import Held, Level, label
from loadtest.report.parts import Cell, Section, Table, cells
from loadtest.report.words import UNKNOWN, count, number, plural, priced, seconds, share, span
from loadtest.run import Run

_PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)


def run_table(runs: Sequence[Held]) -> Table:
    head = ["Run", "Load", "SLO", "Held", "Warm-up", "Requests", "Goodput", "TTFT p50", "TTFT p95", "Gap p99", "Errors"]
    return Table("All runs", head, [_run(one) for one in runs])


def _run(one: Held) -> list[Cell]:
    run, of = one.run, one.figures
    kept = Cell("none given", "unknown")
    if one.verdict:
        kept = Cell("kept", "good") if one.verdict.met else Cell("not kept", "bad")
    return [
        Cell(str(one.number + 1)),
        Cell(str(run.load.get("arrivals") or label(run))),
        Cell("void", "void") if run.void else kept,
        *cells(span(run.duration_s), span(run.warmup_s), count(of.requests), number(of.goodput)),
        *cells(seconds(of.ttft.p50), seconds(of.ttft.p95), seconds(of.gap.p99), share(of.errors_share)),
    ]


def times(shown: Sequence[Level]) -> Table:
    """Percentiles of everything that is timed."""
    rows = [
        cells(
            f"{name}, {level.label}",
            count(of.count),
            *(_at(of, percent) for percent in _PERCENTS),
            seconds(of.longest),
            count(of.at_least),
        )
        for level in shown
        for name, of in (
            ("TTFT", level.figures.ttft),
            ("gap", level.figures.gap),
            ("total", level.figures.total),
            ("dispatch delay", level.figures.dispatch),
        )
    ]
    head = ["Of", "Values", *(f"p{percent:g}" for percent in _PERCENTS), "Longest", "Waited in vain"]
    note = "Those who waited in vain count with as long as they waited; they would have waited longer."
    return Table("Percentiles", head, rows, note)


def _at(of: Percentiles, percent: float) -> str:
    """Not of so few values that it would be the longest."""
    return seconds(of.at(percent)) if of.count * (100 - percent) >= 100 else "too few"


def tasks(those: Sequence[Level]) -> Table | None:
    """By what users did, where they did more than one thing."""
    if not any(len(level.figures.tasks) > 1 for level in those):
        return None
    rows = [
        cells(
            f"{task}, {level.label}",
            count(of.requests),
            count(of.errors),
            seconds(of.ttft.p95),
            seconds(of.total.p50),
            seconds(of.total.p95),
        )
        for level in those
        for task, of in level.figures.tasks.items()
    ]
    return Table("By what users did", ["What", "Requests", "Errors", "TTFT p95", "Total p50", "Total p95"], rows)


def client(runs: Sequence[Run]) -> Section:
    """Its CPU and its delay, beside what would have made the run void."""
    void = sum(bool(run.void) for run in runs)
    said = "No: it had time to spare in every run." if not void else f"Yes, in {void} of {plural(len(runs), 'run')}."
    head = ["Run", "CPU of the busiest process", "void above", "Delay p99", "void above", "Verdict"]
    tables = [Table("The client beside its limits", head, [_watched(at, run) for at, run in enumerate(runs)])]
    return Section("Was the client the limit?", [said], tables=tables)


def _watched(at: int, run: Run) -> list[Cell]:
    busiest = max((one.cpu_share for one in run.clients), default=None)
    return [
        *cells(str(at + 1), share(busiest), share(CPU_LIMIT), seconds(lateness_s(run)), seconds(late_limit_s(run))),
        Cell("; ".join(run.void), "void", prose=True) if run.void else Cell("not the limit", "good"),
    ]


def cost(of: Mapping[str, Any]) -> Section:
    currency = of.get("currency")
    facts = [
        ("1,000 answers", priced(of.get("per_1000_answers"), currency)),
        ("GPU", str(of.get("gpu") or UNKNOWN)),
        ("An hour of it", priced(of.get("gpu_hour"), currency)),
        ("GPU minutes used", number(of.get("gpu_minutes"))),
        ("By", str(of.get("note") or UNKNOWN)),
    ]
    return Section("What it costs", facts=facts)
