"""The smallest pieces that a document's own structure has, each under its path of headings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

from ingestion.load.loaded import MARKDOWN, MARKS, SECTION
from ingestion.markdown import Block, blocks, parts
from serving.index.types import Document

Path: TypeAlias = tuple[str, ...]

#: Texts of more characters are cut into windows before they are looked at more closely.
WINDOW = 50_000


def leaves(document: Document) -> Iterator[tuple[Block, Path]]:
    """Blocks that cover all of the text, in order: of Markdown its own, of other formats their sections in windows."""
    if document.metadata.get("format") in MARKDOWN:
        return _markdown(blocks(document.text))
    return _sectioned(document.text, document.metadata.get(MARKS, {}).get(SECTION, []))


def _markdown(found: Iterator[Block]) -> Iterator[tuple[Block, Path]]:
    """Blocks under their heading path. A heading goes with the block below it."""
    stack: list[tuple[int, str]] = []
    waiting: Block | None = None
    for block in found:
        if block.level:
            stack = [(level, name) for level, name in stack if level < block.level]
            stack.append((block.level, block.heading))
            waiting = Block(waiting.start if waiting else block.start, block.end)
            continue
        path = tuple(name for _, name in stack if name)
        yield (replace(block, start=waiting.start) if waiting else block), path
        waiting = None
    if waiting:
        yield waiting, tuple(name for _, name in stack if name)


def _sectioned(text: str, sections: Sequence[tuple[int, Sequence[str]]]) -> Iterator[tuple[Block, Path]]:
    """Windows of a text that is not Markdown, each under the path of its section."""
    edges = [(0, ()), *((offset, tuple(path)) for offset, path in sections), (len(text), ())]
    for (start, path), (end, _) in pairwise(edges):
        for low, high in parts(text[start:end], WINDOW):
            yield Block(start + low, start + high), path
