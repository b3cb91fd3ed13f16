"""Levels beside each other: what happens as the load grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from loadtest.figures import Figures
from loadtest.report.levels import Level
from loadtest.report.parts import Cell, Table, cells
from loadtest.report.plot import Axis, Bound, Dot, Line, Plot, exact, fitting
from loadtest.report.words import count, number, seconds, share

Value = Callable[[Figures], float | None]

_LATENCY: Sequence[tuple[str, Value]] = (
    ("p50", lambda of: of.ttft.p50),
    ("p95", lambda of: of.ttft.p95),
    ("p99", lambda of: of.ttft.p99),
)
_GAPS: Sequence[tuple[str, Value]] = (
    ("p50", lambda of: of.gap.p50),
    ("p95", lambda of: of.gap.p95),
    ("p99", lambda of: of.gap.p99),
)
_TOTALS: Sequence[tuple[str, Value]] = (
    ("p50", lambda of: of.total.p50),
    ("p95", lambda of: of.total.p95),
    ("p99", lambda of: of.total.p99),
)
_WORK: Sequence[tuple[str, Value]] = (
    ("offered", lambda of: of.offered_rate),
    ("answered meanwhile", lambda of: of.answered_rate),
    ("good answers (goodput)", lambda of: of.goodput),
)
_QUALITY: Sequence[tuple[str, Value]] = (
    ("source recall", lambda of: of.quality["source_recall"].value),
    ("answer match", lambda of: of.quality["answer_match"].value),
    ("valid citations", lambda of: of.quality["citations_valid"].value),
)
_ERRORS: Sequence[tuple[str, Value]] = (("errors", lambda of: of.errors_share),)


def against_rate(levels: Sequence[Level], found: float | None, bounds: Mapping[str, Bound]) -> list[Plot]:
    """`bounds`: of `ttft`, `gap`, `total`, `errors`; `found`: the rate that is the answer."""
    rates = [level.rate for level in levels if level.rate is not None]
    if len(rates) < 2:
        return []
    x = _rates(rates)
    marks = [] if found is None else [(found, f"found: {number(found)}/s")]
    plots = (
        _plot("Time to first token against rate", levels, x, _LATENCY, seconds, bounds.get("ttft")),
        _plot("Answered and good against offered rate", levels, x, _WORK, number, None, "per second"),
        _plot("Gaps between pieces of text against rate", levels, x, _GAPS, seconds, bounds.get("gap")),
        _plot("Whole answer against rate", levels, x, _TOTALS, seconds, bounds.get("total")),
        _plot("Quality against rate", levels, x, _QUALITY, share, bounds.get("source_recall")),
        _plot("Errors against rate", levels, x, _ERRORS, share, bounds.get("errors")),
    )
    return [replace(plot, marks=marks) for plot in plots if plot]


def _rates(rates: Sequence[float]) -> Axis:
    """With some room at both ends, from 0 where the lowest is near it."""
    low, high = min(rates), max(rates)
    room = 0.06 * (high - low or high)
    return exact("offered, requests a second", 0.0 if low < 0.4 * high else low - room, high + room, number)


def _plot(
    title: str,
    levels: Sequence[Level],
    x: Axis,
    values: Sequence[tuple[str, Value]],
    write: Callable[[float | None], str],
    bound: Bound = None,
    label: str = "",
) -> Plot | None:
    """None where none of the values is known at any level."""
    lines = [line for look, (name, of) in enumerate(values) if (line := _line(name, look, levels, of, write))]
    if not lines:
        return None
    known = [dot.y for line in lines for dot in line.dots]
    # Quality is a share of a whole that is worth seeing; errors are a share that should be too small for that.
    y = exact("", 0.0, 1.0, share, 5) if values is _QUALITY else fitting(label, known, write, bound, write is not share)
    said = " ".join(f"{line.label}: " + ", ".join(dot.title for dot in line.dots) + "." for line in lines)
    return Plot(title, x, y, said, lines=lines, bound=bound)


def _line(
    name: str, look: int, levels: Sequence[Level], of: Value, write: Callable[[float | None], str]
) -> Line | None:
    """Void levels have dots, but no line goes through them."""
    dots, points = [], []
    for level in levels:
        value = of(level.figures)
        if level.rate is None or value is None:
            continue
        dots.append(Dot(level.rate, value, f"{name} {write(value)} at {level.label}{level.doubt}", level.sign))
        if level.sign != "void":
            points.append((level.rate, value))
    return Line(name, look, points, dots=dots) if dots else None


def level_table(levels: Sequence[Level]) -> Table:
    head = [
        "Level",
        "SLO",
        "Runs",
        "Requests",
        "Offered",
        "Answered",
        "Goodput",
        "TTFT p50",
        "TTFT p95",
        "TTFT p99",
        "Gap p50",
        "Gap p99",
        "Total p50",
        "Total p95",
        "Errors",
        "Tokens in",
        "Tokens out",
        "In flight, mean",
        "In flight, most",
    ]
    return Table(
        "All levels",
        head,
        [[Cell(level.label), level.cell, *cells(str(len(level.runs)), *_row(level.figures))] for level in levels],
        "Rates are per second.",
    )


def _row(of: Figures) -> Iterator[str]:
    yield count(of.requests)
    yield from map(number, (of.offered_rate, of.answered_rate, of.goodput))
    yield from map(seconds, (of.ttft.p50, of.ttft.p95, of.ttft.p99, of.gap.p50, of.gap.p99, of.total.p50, of.total.p95))
    yield share(of.errors_share)
    yield from map(number, (of.tokens_in_rate, of.tokens_out_rate, of.in_flight_mean))
    yield count(of.in_flight_most)
