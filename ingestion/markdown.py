"""The structure of Markdown: blocks with their places in the text. The only importer of `markdown_it`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_LINE_END = re.compile(r"\r\n|\r|\n")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)")
_MARKS = re.compile(r"(?<!\w)(\*{1,2}|_{1,2}|`)(?=\S)(.+?)(?<=\S)\1(?!\w)")
_CONTAINERS = frozenset({"bullet_list_open", "ordered_list_open", "list_item_open", "blockquote_open"})
#: Longer texts are parsed in parts, which bounds the memory that the parser's tokens take.
_PART_CHARACTERS = 1_000_000
_HEADING_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Block:
    """Characters [start, end) of the text. Blocks of one list follow each other without a gap.

    `level` is 1 to 6 for a heading and 0 otherwise. `children` are the blocks a list or a quotation consists of.
    """

    start: int
    end: int
    level: int = 0
    heading: str = ""
    children: tuple[Block, ...] = ()


def blocks(text: str) -> Iterator[Block]:
    """The top-level blocks of a text, covering all of it."""
    for start, end in parts(text, _PART_CHARACTERS):
        for block in _blocks(text[start:end]):
            yield _moved(block, start)


def first_heading(text: str) -> str | None:
    """The first heading of level 1, as text."""
    return next((block.heading for block in blocks(text) if block.level == 1 and block.heading), None)


def plain_heading(source: str) -> str:
    """A heading without links, emphasis and code marks, on one line."""
    text = _MARKS.sub(r"\2", _MARKS.sub(r"\2", _LINK.sub(r"\1", source)))
    return " ".join(text.split())[:_HEADING_CHARACTERS]


def parts(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Spans of at most `size` characters that cover the text, cut at the best boundary in their last half."""
    start = 0
    while len(text) - start > size:
        cut = _best_cut(text, start + size // 2, start + size)
        yield start, cut
        start = cut
    if start < len(text):
        yield start, len(text)


def _best_cut(text: str, low: int, high: int) -> int:
    for boundary in ("\n# ", "\n## ", "\n\n", "\n", ". ", " "):
        found = text.rfind(boundary, low, high)
        if found >= 0:
            return found + 1
    return high


@cache
def _markdown() -> MarkdownIt:
    """Building one takes as long as parsing a short page."""
    from markdown_it import MarkdownIt

    # Only block structure is needed: inline rules take most of the time.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _blocks(text: str) -> list[Block]:
    starts = [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]
    tokens = [token for token in _markdown().parse(text) if token.map]
    return _partition(tokens, 0, starts, 0, len(text))


def _partition(tokens: Sequence[Token], level: int, starts: Sequence[int], start: int, end: int) -> list[Block]:
    """The tokens of one level as blocks that share [start, end) among them without a gap."""
    heads = [i for i, token in enumerate(tokens) if token.level == level and token.nesting >= 0]
    if not heads:
        return [Block(start, end)] if start < end else []
    lines = [starts[min(_line(tokens[i]), len(starts) - 1)] for i in heads]
    edges = [start, *(min(max(line, start), end) for line in lines[1:]), end]
    blocks = []
    for (low, high), (first, after) in zip(pairwise(edges), pairwise([*heads, len(tokens)]), strict=True):
        if low < high:
            blocks.append(_block(tokens[first:after], level, starts, low, high))
    return blocks


def _block(tokens: Sequence[Token], level: int, starts: Sequence[int], start: int, end: int) -> Block:
    head = tokens[0]
    if head.type == "heading_open":
        source = next((token.content for token in tokens[1:] if token.type == "inline"), "")
        return Block(start, end, int(head.tag[1]), plain_heading(source))
    if head.type in _CONTAINERS:
        return Block(start, end, children=tuple(_partition(tokens[1:], level + 1, starts, start, end)))
    return Block(start, end)


def _line(token: Token) -> int:
    assert token.map is not None  # tokens without a place were left out
    return token.map[0]


def _moved(block: Block, by: int) -> Block:
    if by == 0:
        return block
    children = tuple(_moved(child, by) for child in block.children)
    return Block(block.start + by, block.end + by, block.level, block.heading, children)
