"""A level while it is held: what users feel now, on stderr. A view that moves on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.result_table import spoken

_EVERY_S = 10.0
_UNKNOWN = "–"
#: As `loadtest.progress` has them, and what people call them.
_TIMES = (
    ("ttft_p50_s", "TTFT p50"),
    ("ttft_p95_s", "TTFT p95"),
    ("gap_p99_s", "gap p99"),
    ("total_p50_s", "total p50"),
)


class LiveView:
    """Of one command. Of what is told, percentiles are of the last ten seconds (`loadtest.progress`)."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._title, self._duration_s = "", 0.0
        self._said_s = 0.0

    def say(self, text: str) -> None:
        """A line, in rich's markup."""
        self.console.print(text)

    @contextmanager
    def level(self, title: str, duration_s: float) -> Iterator[None]:
        """Until the block is left, `update` shows how the level goes."""
        self._title, self._duration_s, self._said_s = title, duration_s, 0.0
        if not self.console.is_terminal:
            self.say(f"{escape(title)} for {duration_s:g} s")
            yield
            return
        with Live(console=self.console, transient=True, auto_refresh=False) as self._live:
            self._live.update(Text(f"{title}: starting …"), refresh=True)
            yield
        self._live = None

    def update(self, progress: Mapping[str, Any]) -> None:
        if self._live is not None:
            self._live.update(self._shown(progress), refresh=True)
        elif progress["t_s"] >= self._said_s + _EVERY_S or progress["phase"] == "over":
            self._said_s = progress["t_s"]
            self.say(f"  {progress['t_s']:5.0f} s  {', '.join(self._words(progress))}")

    def _shown(self, progress: Mapping[str, Any]) -> RenderableType:
        done_s = min(self._duration_s, progress["t_s"])
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._title, style="bold"),
            progress["phase"],
            ProgressBar(total=self._duration_s, completed=done_s, width=24),
            f"{self._duration_s - done_s:.0f} s left",
        )
        table = Table.grid(padding=(0, 3))
        for _ in range(4):
            table.add_column(min_width=16)
        table.add_row(*(f"{name} [bold]{spoken(progress[key])}[/]" for key, name in _TIMES))
        failed = progress["failed"]
        table.add_row(
            f"answers/s [bold]{_number(progress['rate'])}[/]",
            f"in flight [bold]{progress['in_flight']}[/]",
            f"answered [bold]{progress['done']}[/]",
            f"[{'red' if failed else 'default'}]failed [bold]{failed}[/][/]",
        )
        return Group(head, table)

    def _words(self, progress: Mapping[str, Any]) -> list[str]:
        times = [f"{name} {spoken(progress[key])}" for key, name in _TIMES]
        counts = [
            f"{_number(progress['rate'])} answers/s",
            *(f"{progress[name]} {name.replace('_', ' ')}" for name in ("in_flight", "done", "failed")),
        ]
        return [escape(str(progress["phase"])), *counts, *times]


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.3g}"
