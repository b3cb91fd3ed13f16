"""Tables of data, a line of text for each row: spreadsheets, CSV and TSV, JSON lines.

The only importer of `python_calamine`.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from ingestion.encoding import decode
from ingestion.load.archive import broken, opened
from ingestion.load.loaded import SECTION, Loaded, Mark
from ingestion.load.rows import headed
from ingestion.load.trees import flat
from serving.errors import DocumentError

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SAMPLE = 16_384
_ANY_SIZE = 2**31 - 1


class _Lines:
    """Text that grows line by line, with a `row` mark wherever the numbers do not simply count on."""

    def __init__(self) -> None:
        self.marks: dict[str, list[Mark]] = {"row": []}
        self._parts: list[str] = []
        self._length = 0
        self._next = -1

    def add(self, rows: Iterable[tuple[int, str]], sheet: str = "") -> None:
        if sheet and self._parts:
            self._append("\n")
        begun = False
        for number, line in rows:
            if sheet and not begun:
                self.marks.setdefault("sheet", []).append((self._length, sheet))
                self.marks.setdefault(SECTION, []).append((self._length, [sheet]))
            if number != self._next or not begun:
                self.marks["row"].append((self._length, number))
            self._append(line + "\n")
            self._next = number + 1
            begun = True

    def loaded(self, format: str) -> Loaded:
        text = "".join(self._parts).rstrip()
        if not text:
            raise DocumentError("empty: the table has no values")
        return Loaded(format, text, marks=self.marks)

    def _append(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def load_workbook(data: bytes) -> Loaded:
    """XLSX, XLS, ODS: all sheets that are not hidden. Raises DocumentError."""
    if data.startswith(_OLE):
        return _workbook(data)
    with opened(data, "XLSX"):
        return _workbook(data)


def _workbook(data: bytes) -> Loaded:
    from python_calamine import CalamineError, PasswordError, SheetTypeEnum, SheetVisibleEnum, load_workbook

    lines = _Lines()
    try:
        with broken("workbook"), load_workbook(io.BytesIO(data)) as workbook:
            for sheet in workbook.sheets_metadata:
                if sheet.typ is SheetTypeEnum.WorkSheet and sheet.visible is SheetVisibleEnum.Visible:
                    found = workbook.get_sheet_by_name(sheet.name)
                    left = [""] * (found.start[1] if found.start else 0)
                    rows = ([*left, *map(_value, row)] for row in found.iter_rows())
                    lines.add(headed(enumerate(rows, start=1)), sheet.name)
    except PasswordError as error:
        raise DocumentError("encrypted: it opens only with a password") from error
    except CalamineError as error:
        raise DocumentError(f"broken workbook: {error}") from error
    return lines.loaded("spreadsheet")


def load_csv(data: bytes) -> Loaded:
    """Separated by commas, semicolons, tabs or bars, whichever the first lines have most regularly."""
    text = decode(data)
    return _separated(text, _separator(text[:_SAMPLE]), "csv")


def load_tsv(data: bytes) -> Loaded:
    """Separated by tabs."""
    return _separated(decode(data), "\t", "tsv")


def load_jsonl(data: bytes) -> Loaded:
    """A JSON value a line; `row` is the line's number. Raises DocumentError that names a line that is no JSON."""
    lines = _Lines()
    lines.add(_json_rows(decode(data)))
    return lines.loaded("jsonl")


def _json_rows(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = flat(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"broken JSON in line {number}: {error}") from error
        row = "; ".join(f"{name}: {value}" if name else value for name, value in values if value)
        if row:
            yield number, " ".join(row.split())


def _separated(text: str, separator: str, format: str) -> Loaded:
    lines = _Lines()
    try:
        lines.add(headed(_records(text, separator)))
    except csv.Error as error:
        raise DocumentError(f"broken {format.upper()}: {error}") from error
    return lines.loaded(format)


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_ANY_SIZE)  # the module's own limit is 128 KiB
    return enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=separator), start=1)


def _separator(sample: str) -> str:
    """The one that splits most of the first lines into the same number of fields, if that is more than one."""
    lines = [line for line in sample.splitlines(keepends=True)[:20] if line.strip()]

    def regularity(separator: str) -> tuple[float, int]:
        counts = [len(row) for row in csv.reader(lines, delimiter=separator)]
        usual = max(set(counts), key=counts.count)
        return (counts.count(usual) / len(counts) if usual > 1 else 0.0, usual)

    return max(",;\t|", key=regularity) if lines else ","


def _value(cell: Any) -> str:
    """A whole number without its ".0", a day without its midnight."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime.datetime):
        return cell.date().isoformat() if cell.time() == datetime.time() else cell.isoformat(sep=" ")
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return str(cell)
