"""The few figures that belong to the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtest.figures import Mean
from loadtest.report.headline import allowed, apart, written
from loadtest.report.levels import Level
from loadtest.report.parts import Cell, Sign, Table, Tile
from loadtest.report.words import UNKNOWN, per_second, plural, priced, seconds, share


def tiles(of: Level, cost: Mapping[str, Any] | None) -> list[Tile]:
    figures = of.figures
    good = (
        f"{share(figures.good_share)} of the {per_second(figures.offered_rate)} that came"
        if figures.goodput is not None
        else "no SLO was given"
    )
    recall = figures.quality["source_recall"]
    return [
        Tile("Good answers (goodput)", per_second(figures.goodput), good, _unknown(figures.goodput)),
        _times(of, "First text (TTFT p95)", "ttft_p95_s", figures.ttft.p95, figures.ttft.at_least),
        _times(of, "Pauses (gap p99)", "gap_p99_s", figures.gap.p99, 0),
        _told(of, "Errors", "errors_max", figures.errors_share, f"of {plural(figures.requests, 'request')}"),
        _told(of, "Source recall", "source_recall_min", recall.value, _of(recall)),
        _cost(cost),
    ]


def _of(mean: Mean) -> str:
    return f"of {plural(mean.count, 'answer')}" if mean.count else "no answer could tell"


def _times(of: Level, name: str, objective: str, value: float | None, at_least: int) -> Tile:
    waited = f"{plural(at_least, 'request')} waited in vain" if at_least else ""
    tile = _told(of, name, objective, value, waited)
    return tile if value is not None else Tile(name, UNKNOWN, "no answer streamed", "unknown")


def _told(of: Level, name: str, objective: str, value: float | None, otherwise: str) -> Tile:
    """With the SLO's bound where it has one; else with `otherwise`."""
    written_by = seconds if objective.endswith("_s") else share
    for metric, one in of.judged:
        if one.name == objective and one.value is not None:
            sign: Sign = "" if one.met is None or of.void else "good" if one.met else "bad"
            return Tile(name, apart(metric, one)[0], f"SLO: {allowed(metric, one.bound)}", sign)
    return Tile(name, written_by(value), otherwise, _unknown(value))


def _unknown(value: float | None) -> Sign:
    return "unknown" if value is None else ""


def _cost(cost: Mapping[str, Any] | None) -> Tile:
    if cost is None:
        return Tile("Cost of 1,000 answers", UNKNOWN, "nobody looked at GPU nodes", "unknown")
    price, currency = cost.get("per_1000_answers"), cost.get("currency")
    if price is None:
        return Tile("Cost of 1,000 answers", UNKNOWN, str(cost.get("note") or ""), "unknown")
    hour = f"{cost.get('gpu') or 'a GPU'} at {priced(cost.get('gpu_hour'), currency)} an hour"
    return Tile("Cost of 1,000 answers", priced(price, currency), hour)


def objectives(shown: Sequence[Level]) -> Table | None:
    """What the SLO asks, and what each of these levels gave."""
    first = next((level for level in shown if level.judged), None)
    if first is None:
        return None
    rows = [
        [Cell(one.title), Cell(allowed(metric, one.bound)), *(_given(level, place) for level in shown)]
        for place, (metric, one) in enumerate(first.judged)
    ]
    if any(level.grew for level in shown):
        rows.append([Cell("line of waiting requests"), Cell("does not grow"), *map(_line, shown)])
    return Table("Objective by objective", ["Objective", "Allowed", *_heads(shown)], rows)


def _heads(shown: Sequence[Level]) -> Iterator[str]:
    for level in shown:
        yield f"at {level.label}"


def _given(level: Level, place: int) -> Cell:
    metric, one = level.judged[place]
    if one.met is None:
        return Cell(f"not judged: {one.why}", "unknown", prose=True)
    said = apart(metric, one)[0] if one.value is not None else written(metric, None)
    return Cell(said, "" if level.void else "good" if one.met else "bad")


def _line(level: Level) -> Cell:
    return Cell("grew", "bad") if level.grew else Cell("not seen to grow", "" if level.void else "good")
