"""The course of simulations as a picture. The only user of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import ConfigurationError
from serving.planning.outcome import LLM, Outcome, percentile

#: Times to first token are gathered in so many columns.
_COLUMNS = 120
_COLOURS = {"anchorage": "#0b6e4f", "serve": "#c8553d", "known": "#5a6f8f"}


def draw(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """Requests, replicas, nodes and times to first token, by policy: SVG, or a page with it for `.html`.

    Raises ConfigurationError without matplotlib, for another kind of file, and for one that cannot be written.
    """
    if path.suffix not in (".svg", ".html"):
        raise ConfigurationError(f"--plot {path}: the picture is an .svg, or an .html page")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError("pictures need matplotlib: pip install 'anchorage[plot]'") from None
    # The same input, the same file.
    with matplotlib.rc_context({"svg.hashsalt": "anchorage", "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 10), layout="constrained")
        _panels(figure, outcomes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    if path.suffix == ".html":
        svg = f"<!doctype html><meta charset=utf-8><title>anchorage simulate</title>{svg[svg.index('<svg') :]}"
    try:
        path.write_text(svg)
    except OSError as error:
        raise ConfigurationError(f"--plot {path}: {error}") from error


def _panels(figure: Any, outcomes: Mapping[str, Outcome]) -> None:
    work, replicas, nodes, first = figure.subplots(4, 1, sharex=True)
    work.set_ylabel("requests in work\n(dotted: without a first token)")
    replicas.set_ylabel("replicas serving\n(dotted: wanted)")
    nodes.set_ylabel("GPU nodes up\n(dotted: wanted)")
    first.set_ylabel("TTFT p95, s")
    first.set_yscale("log")
    first.yaxis.set_major_formatter("{x:g}")
    first.yaxis.set_minor_formatter("{x:g}")
    first.set_xlabel("minutes")
    for name, outcome in outcomes.items():
        colour = _COLOURS.get(name)
        times = [at / 60 for at, _, _ in outcome.samples]
        work.plot(times, [count for _, count, _ in outcome.samples], color=colour, label=name, lw=1)
        work.plot(times, [count for _, _, count in outcome.samples], color=colour, ls=":", lw=1)
        _steps(replicas, outcome.level("replicas_ready"), outcome, color=colour, lw=1.3)
        _steps(replicas, outcome.level("replicas_wanted"), outcome, color=colour, ls=":", lw=1)
        _steps(nodes, outcome.level("nodes_up"), outcome, color=colour, lw=1.3)
        _steps(nodes, outcome.level("nodes_wanted"), outcome, color=colour, ls=":", lw=1)
        first.plot(*_first_tokens(outcome), color=colour, lw=1)
    work.legend()
    for panel in (work, replicas, nodes, first):
        panel.grid(alpha=0.25)


def _steps(panel: Any, levels: Sequence[tuple[float, int]], outcome: Outcome, **style: Any) -> None:
    points = [(outcome.begin_s, 0), *levels, (outcome.end_s, levels[-1][1] if levels else 0)]
    panel.step([at / 60 for at, _ in points], [value for _, value in points], where="post", **style)


def _first_tokens(outcome: Outcome) -> tuple[list[float], list[float]]:
    """(minutes, p95 of what arrived then)."""
    width = max(outcome.trace.end_s / _COLUMNS, 1e-9)
    columns: dict[int, list[float]] = {}
    for request, code in enumerate(outcome.outcomes):
        if code == LLM:
            at = outcome.trace.times[request]
            columns.setdefault(int(at / width), []).append(outcome.first[request] - at)
    rows = [(column, percentile(sorted(times), 0.95)) for column, times in sorted(columns.items())]
    return [(column + 0.5) * width / 60 for column, _ in rows], [value for _, value in rows if value is not None]
