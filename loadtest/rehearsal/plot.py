"""A rehearsal as a picture: requests, replicas and nodes over time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loadtest.rehearsal.client import Row
from loadtest.rehearsal.result import OUTCOMES, Result
from loadtest.rehearsal.timeline import NODES_UP, NODES_WANTED, REPLICAS_READY, REPLICAS_WANTED, TROUBLE
from serving.errors import ConfigurationError

SUFFIXES = (".svg", ".png", ".pdf")
_COLOURS = {"llm": "C0", "extractive": "C1", "rejected": "C2", "failed": "C3", "cut": "C4"}


def check(path: Path) -> None:
    """Raises ConfigurationError where a picture could not be made or kept in the end."""
    if path.suffix not in SUFFIXES:
        raise ConfigurationError(f"--plot {path}: name a file that ends in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"--plot {path}: there is no folder {path.absolute().parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigurationError("--plot needs matplotlib: pip install matplotlib") from None


def draw(result: Result, path: Path) -> None:
    """Write it; the file's suffix says the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    answers, waiting, replicas, nodes = figure.subplots(4, 1, sharex=True)
    _answers(answers, result)
    _step(waiting, _under_way(result.rows, result.began), "requests under way", "C0")
    for axes, wanted, there, name in (
        (replicas, REPLICAS_WANTED, REPLICAS_READY, "replicas"),
        (nodes, NODES_WANTED, NODES_UP, "GPU nodes"),
    ):
        _step(axes, _levels(result, wanted), f"{name} wanted", "0.6", "--")
        _step(axes, _levels(result, there), f"{name} there", "C0")
    for axes in (answers, waiting, replicas, nodes):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small", loc="upper right")
        for event in result.timeline.events:
            if event.kind in TROUBLE:
                axes.axvline(event.at - result.began, color="C3", linewidth=0.8, linestyle=":")
    answers.set(ylabel="time to first text, s", ylim=(0, None))
    nodes.set(xlabel="seconds from the first question")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _answers(axes: Any, result: Result) -> None:
    for outcome in OUTCOMES:
        some = [row for row in result.rows if row.outcome == outcome]
        if some:
            at = [row.at - result.began for row in some]
            first = [row.ttft_s if row.ttft_s is not None else row.done_s or 0.0 for row in some]
            axes.plot(at, first, ".", color=_COLOURS[outcome], label=f"{outcome} ({len(some)})")


def _under_way(rows: Iterable[Row], began: float) -> list[tuple[float, int]]:
    changes = sorted(
        change for row in rows for change in ((row.at - began, 1), (row.at - began + (row.done_s or 0.0), -1))
    )
    level, found = 0, [(0.0, 0)]
    for at, change in changes:
        level += change
        found.append((at, level))
    return found


def _levels(result: Result, kind: str) -> list[tuple[float, int]]:
    events = result.timeline.events
    found = [(event.at - result.began, int(event.value)) for event in events if event.kind == kind]
    last = events[-1].at - result.began if events else 0.0
    return [(min(0.0, found[0][0]) if found else 0.0, 0), *found, (last, found[-1][1] if found else 0)]


def _step(axes: Any, points: list[tuple[float, int]], label: str, colour: str, line: str = "-") -> None:
    axes.step([at for at, _ in points], [level for _, level in points], line, where="post", label=label, color=colour)
