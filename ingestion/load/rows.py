"""Rows of cells as text: a Markdown table, or one line a row in which every value has its header."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d[\d.,]*\s*%?")


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """The first row is the header. "" for a table without text."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    if not cells:
        return ""
    width = max(len(row) for row in cells)
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def headed(rows: Iterable[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, str]]:
    """(number, cells) to (number, line) for every row that has text: `Name: Ada; Born: 1815`.

    The header is the first row, or below a line or two of introduction, whose cells are all words and all different;
    without one, columns have letters. Lines above the header come as they are.
    """
    numbered = ((number, [" ".join(cell.split()) for cell in row]) for number, row in rows)
    filled = ((number, row) for number, row in numbered if any(row))
    first = list(itertools.islice(filled, 5))
    place = next((i for i, (_, row) in enumerate(first) if sum(map(bool, row)) > 1), 0)
    names: list[str] = []
    if first and _is_header(first[place][1], first[place + 1 :]):
        names = first[place][1]
        yield from ((number, "; ".join(filter(None, row))) for number, row in first[:place])
        first = first[place + 1 :]
    for number, row in itertools.chain(first, filled):
        yield number, "; ".join(f"{_name(names, i)}: {cell}" for i, cell in enumerate(row) if cell)


def _is_header(row: Sequence[str], below: Sequence[tuple[int, Sequence[str]]]) -> bool:
    words = [cell for cell in row if cell]
    return bool(below) and len(set(words)) == len(words) and not any(_NUMBER.fullmatch(word) for word in words)


def _name(names: Sequence[str], column: int) -> str:
    return (names[column] if column < len(names) else "") or _letters(column)


def _letters(column: int) -> str:
    """A, B, ... Z, AA, AB, ..., as spreadsheets count."""
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
