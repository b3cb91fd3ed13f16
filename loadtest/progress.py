"""A run while it goes on, as JSON lines for whoever follows it. Pure."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from loadtest.percentiles import ranked
from loadtest.record import Record
from serving.errors import ConfigurationError

#: `waiting`: for the server and the workers; `over`: the last line.
Phase: TypeAlias = Literal["waiting", "warm-up", "measuring", "draining", "over"]
#: What is current: requests that ended in these last seconds, at most so many values of a kind.
RECENT_S = 10.0
_MOST = 2000


class Progress:
    """Counts from the start of the run; percentiles and rate are of what ended in the last `RECENT_S`."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigurationError where the file cannot be written."""
        self._path = path
        self.done = 0
        self.failed = 0
        self._counts: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=int(RECENT_S) + 1)
        self._ends: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._firsts: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._gaps: deque[tuple[float, float]] = deque(maxlen=_MOST)
        if path is not None:
            try:
                path.write_text("")
            except OSError as error:
                raise ConfigurationError(f"--progress {path} cannot be written: {error}") from error

    def add(self, record: Record) -> None:
        """Before the record's gaps are counted and dropped."""
        ended = record.ended_s
        if not record.ok:
            self.failed += 1
            return
        self.done += 1
        self._ends.append((ended, record.total_s))
        if record.ttft_s is not None:
            self._firsts.append((ended, record.ttft_s))
        self._gaps.extend((ended, gap) for gap in record.gaps_s)

    def write(self, t_s: float, in_flight: int, phase: Phase) -> None:
        if self._path is None:
            return
        ends = _recent(self._ends, t_s)
        firsts = _recent(self._firsts, t_s)
        line = {
            "t_s": round(t_s, 3),
            "sent": self.done + self.failed + in_flight,
            "done": self.done,
            "failed": self.failed,
            "in_flight": in_flight,
            "rate": self._rate(t_s),
            "ttft_p50_s": _percentile(firsts, 50),
            "ttft_p95_s": _percentile(firsts, 95),
            "gap_p99_s": _percentile(_recent(self._gaps, t_s), 99),
            "total_p50_s": _percentile(ends, 50),
            "phase": phase,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _rate(self, t_s: float) -> float | None:
        """Good answers a second, over the lines of the last `RECENT_S`."""
        then, done = self._counts[0]
        if t_s <= then:
            return None
        self._counts.append((t_s, self.done))
        return round((self.done - done) / (t_s - then), 3)


def _recent(values: deque[tuple[float, float]], t_s: float) -> list[float]:
    return [value for ended, value in values if ended > t_s - RECENT_S]


def _percentile(values: Sequence[float], percent: float) -> float | None:
    found = ranked(values, percent)
    return None if found is None else round(found, 6)
