"""A passage's Markdown as statements that can be quoted alone: sentences, list items, table rows, steps. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serving.index.types import Passage
from serving.sentences import Block, blocks, sentences

#: A lead-in takes at most this much with it, characters; a longer list gives its items one by one.
_ATTACHED = 1200

#: Before code spans are set aside, because a link's text may be one.
_LINKS = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"\{\{[<%].*?[%>]\}\}|\{#[\w-]+\}"), ""),
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\[\]]+)\]\([^()\s]*(?:\s\"[^\"]*\")?\)"), r"\1"),
    (re.compile(r"\[([^\[\]]+)\]\[[^\]]*\]"), r"\1"),
)
_INLINE = (
    (re.compile(r"</?[a-zA-Z][^<>]*/?>"), ""),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?!\w)"), r"\1"),
    (re.compile(r"(?<![\w_])_(?=\S)([^_\n]+)(?<=\S)_(?![\w_])"), r"\1"),
    (re.compile(r"\s*\[\d{1,3}\]"), ""),
    (re.compile(r"\s+"), " "),
)
_CODE_SPAN = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_MARK = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_PAIR = re.compile(r"\w`?(?::| --?| [–—])\s")
_QUOTE = re.compile(r"^\s*>+\s?", re.MULTILINE)
_SEPARATOR = re.compile(r"[\s|:-]+")
#: Sentences about the page instead of its subject, and pointers elsewhere.
_BOILERPLATE = re.compile(
    r"(?:in )?(?:this|the following|the rest of this|the next) "
    r"(?:page|section|document|topic|guide|tutorial|task|article|exercise|chapter|table|sections)\b|"
    r"(?:please )?(?:see|read|refer to|learn|visit|check out|take a look|follow)\b.{0,80}"
    r"\b(?:more|about|for|documentation|guide|details|how to)\b|"
    r"for (?:more|further|detailed|additional)\b.{0,40}\b(?:information|details|reading)|for details|to learn more|"
    r"(?:you need|if you do not already|before you begin)\b|(?:here is|here's|here are|below is)\b.{0,24}\bexample|"
    r"(?:the|your) output\b|you should see\b|as you (?:can see|have seen)\b|"
    r"(?:in|from) the (?:preceding|above|output|example|configuration file)\b|note:?$|"
    r"more (?:details|information|examples)\b",
    re.IGNORECASE,
)
_EXAMPLE = re.compile(r"(?:for example|for instance|example|like this|like so|as follows)\W*", re.IGNORECASE)
_ELSEWHERE = re.compile(
    r"what'?s ?next|see also|further reading|references?|related|contents|prerequisites?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Statement:
    """`text` is one cleaned sentence (or item, or row); `attached` is Markdown that belongs right below it.

    `passage` counts from 1, as in citations; `order` is its place in the passage; `covers` are the places of
    statements that it already holds. `headed`: the passage has no sentence for this code, so its heading introduces it.
    """

    passage: int
    order: int
    text: str
    item: bool = False
    attached: str = ""
    covers: frozenset[int] = frozenset()
    headed: bool = False


def statements(number: int, passage: Passage) -> list[Statement]:
    """In reading order, without boilerplate, questions and fragments."""
    if passage.heading and _ELSEWHERE.fullmatch(passage.heading[-1].strip()):
        return []
    read = [s for s in _Reader(number, passage).read() if _worth_saying(s)]
    return list({statement.text: statement for statement in reversed(read)}.values())[::-1]


def plain(markdown: str) -> str:
    """One line without link syntax, emphasis, HTML and citation-like marks; code spans stay as they are."""
    for pattern, replacement in _LINKS:
        markdown = pattern.sub(replacement, markdown)
    kept: list[str] = []
    at = 0
    for span in _CODE_SPAN.finditer(markdown):
        kept.extend((_without_marks(markdown[at : span.start()]), re.sub(r"\s+", " ", span[0])))
        at = span.end()
    kept.append(_without_marks(markdown[at:]))
    return re.sub(r"\s+([.,;:])", r"\1", re.sub(r"\s+", " ", "".join(kept))).strip()


def _without_marks(text: str) -> str:
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return html.unescape(text)


def _worth_saying(statement: Statement) -> bool:
    text = statement.text
    words = len(text.split())
    if text.endswith("?") or _BOILERPLATE.match(text):
        return False
    if statement.attached:
        return not _EXAMPLE.fullmatch(text)
    if statement.item and words < 5 and not _PAIR.search(text):
        return False
    return words >= (2 if statement.item else 4) and not text.endswith(":") and any(c.isalpha() for c in text)


class _Reader:
    """Walks the blocks of one passage and ties code and lists to what introduces them."""

    def __init__(self, number: int, passage: Passage) -> None:
        self._number = number
        self._passage = passage
        self._blocks = blocks(passage.text)
        self._order = 0

    def read(self) -> Iterator[Statement]:
        at = 0
        while at < len(self._blocks):
            block = self._blocks[at]
            after = at + 1
            if block.kind == "table":
                after = _run(self._blocks, after, "table")
                yield from self._table(self._blocks[at:after])
            elif block.kind == "code":
                above = self._passage.heading[-1] if self._passage.heading else self._passage.title
                yield self._next(f"{plain(above)}:", attached=self._attached([block]), headed=True)
            elif block.kind in ("text", "item"):
                after = _run(self._blocks, after, "code")
                yield from self._prose(block, at + 1, after)
            at = after

    def _prose(self, block: Block, start: int, after_code: int) -> Iterator[Statement]:
        """The last sentence takes what it introduces: the code below it, or a list or table after its colon."""
        texts = self._texts(block)
        if len(texts) > 1 and _EXAMPLE.fullmatch(texts[-1]):
            texts.pop()
        if not texts:
            return
        code = self._attached(self._blocks[start:after_code])
        if block.kind == "item":
            yield self._next(" ".join(texts[:2]), item=True, attached=code)
            return
        for text in texts[:-1]:
            yield self._next(text)
        below = self._blocks[start : _run(self._blocks, start, "item", "code")]
        below = below or self._blocks[start : _run(self._blocks, start, "table")]
        listed = self._attached(below)
        if texts[-1].endswith(":") and listed and below[0].kind != "code":
            rows = sum(part.kind in ("item", "table") for part in below)
            covered = frozenset(range(self._order + 1, self._order + 1 + rows))
            yield self._next(texts[-1], attached=listed, covers=covered)
        else:
            yield self._next(texts[-1], attached=code)

    def _table(self, rows: Sequence[Block]) -> Iterator[Statement]:
        header, *body = [_cells(self._source(row)) for row in rows]
        for cells in body:
            if cells:
                yield self._next(_row(header, cells), item=True)

    def _texts(self, block: Block) -> list[str]:
        source = _MARK.sub("", self._source(block), count=1) if block.kind == "item" else self._source(block)
        return [text for start, end in sentences(source) if (text := plain(_QUOTE.sub("", source[start:end])))]

    def _next(
        self,
        text: str,
        *,
        item: bool = False,
        attached: str = "",
        covers: frozenset[int] = frozenset(),
        headed: bool = False,
    ) -> Statement:
        statement = Statement(self._number, self._order, text, item, attached, covers, headed)
        self._order += 1
        return statement

    def _source(self, block: Block) -> str:
        return self._passage.text[block.start : block.end]

    def _attached(self, below: Sequence[Block]) -> str:
        whole = "\n".join(self._dedented(block) for block in below)
        return whole if len(whole) <= _ATTACHED else ""

    def _dedented(self, block: Block) -> str:
        source = self._source(block)
        if block.kind == "item":
            return "- " + plain(_MARK.sub("", source, count=1))
        if block.kind == "table":
            return source.strip()
        margin = len(source) - len(source.lstrip())
        return "\n".join(line[margin:] if not line[:margin].strip() else line for line in source.splitlines())


def _run(found: Sequence[Block], start: int, *kinds: str) -> int:
    """The end of the run of blocks of these kinds that begins at `start`."""
    while start < len(found) and found[start].kind in kinds:
        start += 1
    return start


def _cells(row: str) -> list[str]:
    if _SEPARATOR.fullmatch(row):
        return []
    return [plain(cell) for cell in row.strip().strip("|").split("|")]


def _row(header: Sequence[str], cells: Sequence[str]) -> str:
    if len(cells) == 2:
        return f"{cells[0]}: {cells[1]}"
    named = zip(header, cells, strict=False)
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in named if cell)
