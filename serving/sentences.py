"""Where Markdown blocks and sentences begin and end, as character spans. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

BlockKind: TypeAlias = Literal["text", "item", "heading", "code", "table"]
Span: TypeAlias = tuple[int, int]

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}\s")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_TABLE = re.compile(r"\s*\|")
_TABLE_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?\s*$")
_RULE = re.compile(r"\s*(?:[-*_=]\s*){3,}$")

#: A sentence's end: punctuation, closing quotes or emphasis, citation markers; or an ideographic full stop.
_END = re.compile(r"[.!?…]+[\"'”’)\]*_`]*(?:\s*\[\d{1,3}(?:\s*[,;]\s*\d{1,3})*\])*(?=\s|\Z)|[。！？]+[」』”）]*")
#: Never the end of a sentence, whatever follows.
_INNER = frozenset(
    ["e.g", "i.e", "cf", "vs", "viz", "dr", "mr", "mrs", "ms", "prof", "fig", "sec", "approx", "st", "incl"]
)
#: The end of a sentence only before a capital.
_MAYBE = frozenset(("etc", "inc", "ltd", "co", "corp", "jr", "sr", "no", "a.m", "p.m", "al", "resp", "max", "min"))
_LAST_WORD = re.compile(r"[\w.]+\Z")


@dataclass(frozen=True, slots=True)
class Block:
    """`text[start:end]` of one Markdown block, without the line break after it. `code` includes its fences."""

    kind: BlockKind
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """Paragraphs, list items (each with its lines), headings, fenced code and table rows, in order."""
    found: list[Block] = []
    fence = ""
    open_to_more = False
    at = 0
    lines = text.splitlines(keepends=True)
    rows = _bare_rows(lines)
    for number, line in enumerate(lines):
        start, at = at, at + len(line)
        end = start + len(line.rstrip())
        mark = _FENCE.match(line)
        if fence:
            found[-1] = Block("code", found[-1].start, max(end, found[-1].end))
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif mark:
            fence, open_to_more = mark[1], False
            found.append(Block("code", start, end))
        elif end == start or _RULE.match(line):
            open_to_more = False
        elif (kind := "table" if number in rows else _kind(line)) == "text" and open_to_more:
            found[-1] = Block(found[-1].kind, found[-1].start, end)
        else:
            found.append(Block(kind, start, end))
            open_to_more = kind in ("text", "item")
    return found


def _bare_rows(lines: list[str]) -> set[int]:
    """Rows of tables written without outer pipes: what stands around a line like `---|---`."""
    rows: set[int] = set()
    for number, line in enumerate(lines):
        if number and "|" in line and "|" in lines[number - 1] and _TABLE_RULE.match(line):
            end = number + 1
            while end < len(lines) and "|" in lines[end]:
                end += 1
            rows.update(range(number - 1, end))
    return rows


def sentences(text: str) -> list[Span]:
    """Spans of sentences without the white space around them; a code block, heading or table row counts as one."""
    spans: list[Span] = []
    for block in blocks(text):
        if block.kind in ("text", "item"):
            spans.extend(_within(text, block.start, block.end))
        else:
            spans.append((block.start, block.end))
    return spans


def _within(text: str, start: int, end: int) -> list[Span]:
    item = _ITEM.match(text, start, end)
    first_end = item.end() if item else start
    spans: list[Span] = []
    for mark in _END.finditer(text, first_end, end):
        if not _ends(text, mark, end):
            continue
        spans.append(_trimmed(text, start, mark.end()))
        start = mark.end()
    if text[start:end].strip():
        spans.append(_trimmed(text, start, end))
    return spans


def _ends(text: str, mark: re.Match[str], end: int) -> bool:
    """Whether this punctuation ends a sentence: not after an abbreviation, an initial or in `Yahoo! is`."""
    following = text[mark.end() : end].lstrip()[:1]
    if not following or mark[0][0] not in ".!?…":
        return True
    if mark[0][0] != ".":
        return not following.islower()
    word = _LAST_WORD.search(text, max(0, mark.start() - 24), mark.start())
    before = word[0].lower() if word else ""
    if before in _INNER or (len(before) == 1 and before.isalpha() and word is not None and word[0].isupper()):
        return False
    return not (before in _MAYBE and not following.isupper())


def _trimmed(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _kind(line: str) -> BlockKind:
    if _HEADING.match(line):
        return "heading"
    if _TABLE.match(line):
        return "table"
    return "item" if _ITEM.match(line) else "text"
