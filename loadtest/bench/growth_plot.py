"""The growth bench's numbers, kept with where they were measured, and the picture of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from loadtest.bench.growth import Line, Point
from loadtest.bench.memory import MIB
from loadtest.machine import header


def keep(points: Sequence[Point], line: Line, machine: dict[str, Any], folder: Path) -> None:
    """Write `growth.json` and `growth.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"machine": machine, "points": [asdict(point) for point in points], "line": asdict(line)}
    (folder / "growth.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    draw(points, line, folder / "growth.svg", " | ".join(header(machine)[:3]))


def draw(points: Sequence[Point], line: Line, path: Path, caption: str) -> None:
    """Time with its line, memory by part, and disk, over the number of chunks."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    time, memory, disk = figure.subplots(1, 3)
    chunks = [point.chunks for point in points]
    label = f"{1000 * line.slope:.2f} ms a chunk + {line.intercept:.1f} s (R2 {line.r2:.4f})"
    time.plot([0, chunks[-1]], [line.intercept, line.intercept + line.slope * chunks[-1]], color="0.7", label=label)
    _dots(time, chunks, [point.seconds for point in points], "measured")
    for name in ("together", "store", "command", "parsers"):
        _dots(memory, chunks, [getattr(point.peaks, name) / MIB for point in points], name, "-")
    _dots(disk, chunks, [point.disk / MIB for point in points], "data directory", "-")
    for axes, title in ((time, "time, s"), (memory, "peak memory, MiB"), (disk, "disk, MiB")):
        axes.set(title=title, xlabel="chunks", xlim=(0, None), ylim=(0, None))
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.3)
    figure.text(0.005, 0.005, caption, fontsize="xx-small", color="0.4")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _dots(axes: Any, across: Sequence[float], up: Sequence[float], label: str, line: str = "") -> None:
    axes.plot(across, up, marker="o", linestyle=line or "none", label=label)
