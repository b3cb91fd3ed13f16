"""A file that comes home through a pod's log: the only way out that needs no more than the right to read logs.

    #anchorage-result 17/412 <base64 of a piece of the compressed file>
    #anchorage-result 412 <SHA-256 of the compressed file>

Lines stay below the 16 KiB at which container runtimes split them. They are numbered, so that one that comes twice is
harmless and one that is missing is known by its number. kubelet turns a log over at 10 MiB (`containerLogMaxSize`), and
whoever asks afterwards gets the newest part alone: so the log is followed while it is written, and a file that would
be more than `EXACT_BYTES` of log is thinned before (`thinned`): 100,000 requests are some 6 MB of log then, 15 MB
otherwise.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import lzma
import re
from collections.abc import Iterator
from typing import Any

from serving.errors import AnchorageError

PROGRESS, _RESULT = "#anchorage-progress ", "#anchorage-result "
_LINE = re.compile(rf"{_RESULT}(\d+)(?:/(\d+))? (\S+)$")
#: Of the file, in one line: 8 KiB as base64.
_PIECE_BYTES = 6 * 1024
#: Of log, whose half is kubelet's limit at which it is turned over.
EXACT_BYTES = 5 * 2**20
#: Fast, and within 15 % of what the slow ones reach on columns of figures.
_PRESET = 1
#: Of a study's times, in a thinned one: an error of 0.005 %, where a histogram has 0.1 %.
_DIGITS = 5
#: Of the moment that a request was meant to start, seconds.
_START_DIGITS = 4
_MISSING_SHOWN = 8


class NoResult(AnchorageError):
    """A run ended without a result, or it did not come home whole: the message says why, and what to do."""


def lines(file: bytes, most: int = EXACT_BYTES) -> Iterator[str]:
    """`file`, a study as JSON, as lines of a log. Above `most` bytes of log it is thinned."""
    packed = lzma.compress(file, preset=_PRESET)
    if len(packed) * 4 / 3 > most:
        packed = lzma.compress(thinned(file), preset=_PRESET)
    pieces = [packed[at : at + _PIECE_BYTES] for at in range(0, len(packed), _PIECE_BYTES)]
    for number, piece in enumerate(pieces, 1):
        yield f"{_RESULT}{number}/{len(pieces)} {base64.b64encode(piece).decode()}"
    yield f"{_RESULT}{len(pieces)} {hashlib.sha256(packed).hexdigest()}"


def thinned(file: bytes) -> bytes:
    """The same study with times to five digits. What is not JSON stays as it is."""
    try:
        study = json.loads(file)
    except ValueError:
        return file
    for run in study.get("runs") or []:
        columns = run.get("records") or {}
        for name, values in columns.items():
            columns[name] = [round(at, _START_DIGITS) for at in values] if name == "at_s" else _rounded(values)
    return json.dumps(study, separators=(",", ":")).encode()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return value


class Gathered:
    """Lines of a log, as they come: in any order, some of them twice, others in between."""

    def __init__(self) -> None:
        self._pieces: dict[int, str] = {}
        self._of = 0
        self._sum = ""

    def take(self, line: str) -> bool:
        """Whether it was one of the file's."""
        if not line.startswith(_RESULT):
            return False
        if found := _LINE.match(line.rstrip()):
            number, of, text = int(found[1]), found[2], found[3]
            if of is None:
                self._of, self._sum = number, text
            else:
                self._of = int(of)
                self._pieces[number] = text
        return True

    @property
    def begun(self) -> bool:
        return self._of > 0

    @property
    def whole(self) -> bool:
        return bool(self._sum) and len(self._pieces) == self._of

    def file(self) -> bytes:
        """Raises NoResult."""
        if not self.whole:
            raise NoResult(self._lack())
        try:
            packed = b"".join(base64.b64decode(self._pieces[number], validate=True) for number in sorted(self._pieces))
        except binascii.Error:
            packed = b""
        if hashlib.sha256(packed).hexdigest() != self._sum:
            raise NoResult("The result did not come home: a part of it was changed on the way (its checksum differs).")
        return lzma.decompress(packed)

    def _lack(self) -> str:
        if not self.begun:
            return "The log has no result: the run ended before it was written."
        missing = [str(number) for number in range(1, self._of + 1) if number not in self._pieces]
        if not missing:
            return "The result did not come home whole: its last line, the checksum, is missing."
        shown = ", ".join(missing[:_MISSING_SHOWN]) + (", …" if len(missing) > _MISSING_SHOWN else "")
        return (
            f"The result did not come home whole: {len(missing)} of {self._of} parts are missing ({shown}). The pod's "
            "log was turned over (kubelet's containerLogMaxSize) or cut off: make the run shorter, or collect its log."
        )
