"""Percentile curves: how long the slowest of ten, of a hundred, of a thousand took."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.percentiles import Percentiles
from loadtest.report.plot import LOOKS, Bound, Line, Plot, fitting, nines
from loadtest.report.words import seconds


def curves(title: str, of: Sequence[tuple[str, Percentiles]], bound: Bound = None) -> Plot | None:
    """A curve for each (label, times) that has any; None without."""
    known = [(label, times) for label, times in of if times.count][:LOOKS]
    if not known:
        return None
    x = nines("share of them that took no longer", max(times.count for _, times in known))
    lines = [
        Line(label, look, [(percent / 100, value) for percent, value in times.curve()])
        for look, (label, times) in enumerate(known)
    ]
    y = fitting("", [value for line in lines for _, value in line.points], seconds, bound)
    words = (
        f"{label}: p50 {seconds(times.p50)}, p95 {seconds(times.p95)}, p99 {seconds(times.p99)}, "
        f"longest {seconds(times.longest)}."
        for label, times in known
    )
    return Plot(title, x, y, " ".join(words), lines=lines, bound=bound)
