"""Where in its file a chunk is: page, slide, sheet, row, line."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from ingestion.load.loaded import PER_LINE, SECTION, Mark


class Places:
    """Reads a document's marks (see `loaded.Loaded`) for chunks in the order of the text."""

    def __init__(self, marks: Mapping[str, Sequence[Mark]], text: str) -> None:
        self._marks = {
            name: _Counting(places, text) if name in PER_LINE else _Places(places)
            for name, places in marks.items()
            if name != SECTION and places
        }

    def of(self, start: int, end: int) -> dict[str, Any]:
        """`{name: value}` where the span begins, and `{name_end: value}` if it ends under a higher number."""
        found: dict[str, Any] = {}
        for name, places in self._marks.items():
            found[name] = first = places.at(start)
            last = places.at(end - 1)
            if isinstance(last, int) and last > first:
                found[f"{name}_end"] = last
        return found


class _Places:
    def __init__(self, places: Sequence[Mark]) -> None:
        self._places = places

    def at(self, position: int) -> Any:
        return self._last(position)[1]

    def _last(self, position: int) -> Mark:
        return self._places[max(0, bisect_right(self._places, position, key=itemgetter(0)) - 1)]


class _Counting(_Places):
    """Line ends are counted once, because the positions asked for never go back."""

    def __init__(self, places: Sequence[Mark], text: str) -> None:
        super().__init__(places)
        self._text = text
        self._from = -1
        self._position = 0
        self._lines = 0

    def at(self, position: int) -> Any:
        offset, value = self._last(position)
        if offset != self._from:
            self._from, self._position, self._lines = offset, offset, 0
        self._lines += self._text.count("\n", self._position, position)
        self._position = max(self._position, position)
        return value + self._lines
