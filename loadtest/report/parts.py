"""What a page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadtest.report.plot import Plot

#: How something stands: within the SLO, outside of it, the client was the limit, nothing can be said.
Sign = Literal["good", "bad", "void", "unknown", ""]
#: Colour is never the only sign.
MARKS = {"good": "✓", "bad": "✗", "void": "!", "unknown": "?", "": ""}


@dataclass(frozen=True)
class Headline:
    """`word`: the verdict in one or two words; `sentence`: what a stranger reads first."""

    sign: Sign
    word: str
    sentence: str
    more: Sequence[str] = ()


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    less: str = ""
    sign: Sign = ""


@dataclass(frozen=True)
class Cell:
    text: str
    sign: Sign = ""
    prose: bool = False


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def prose(self, column: int) -> bool:
        return any(row[column].prose for row in self.rows)


@dataclass(frozen=True)
class Folded:
    """What is opened by those who want it."""

    summary: str
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """`tall`: plots below each other, as wide as the page."""

    title: str
    said: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    folded: Sequence[Folded] = ()
    tall: bool = False


def cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]
