"""Document to chunks: along headings and blocks, within the embedding model's limit, with exact offsets.

Every chunk satisfies `chunk.text == document.text[chunk.start:chunk.end]`; between two chunks only white space is lost.
A section that fits is one chunk; a longer one is divided into parts of about equal size between its blocks; a block
that alone is too long (a fenced block or a table, too) is cut by semchunk. Sections of a few words join a neighbour.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from ingestion.leaves import WINDOW, Path, leaves
from ingestion.load.loaded import MARKS
from ingestion.markdown import Block, parts
from ingestion.places import Places
from ingestion.split import split
from serving.index.types import Chunk, Document, chunk_id

#: Part of what makes a document "unchanged": raise it when the same text gives other chunks.
VERSION = 2

#: No chunk has more characters per allowed token: some tokenizers call a word of any length one token.
CHARACTERS_PER_TOKEN = 16
#: Milvus stores at most 65,535 bytes of text in a row, and a character has up to 4.
MAX_CHARACTERS = 16_000
#: A chunk below this share of the limit is too little to answer from, and joins a neighbour.
_SMALL = 0.25
#: A part of this weight, relative to another, does not change what the whole is about.
_MINOR = 0.25
#: Tokens that appear or vanish where two texts are joined, at most.
_JOINT = 4
#: A title takes at most this share of what the model reads.
_TITLE_SHARE = 0.2


class Tokenizer(Protocol):
    """The embedding model's own tokenizer. `max_tokens` is what the model reads of a text, special tokens apart."""

    @property
    def max_tokens(self) -> int: ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        ...


@dataclass(frozen=True, slots=True)
class _Piece:
    """Characters [start, end) under the headings `path`. `weight` is in tokens."""

    start: int
    end: int
    path: Path
    weight: int


class Chunker:
    """Splits documents of one collection. `chunk_tokens` limits a chunk's text, by the given tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, chunk_tokens: int, tenant: str, collection: str) -> None:
        self._tokenizer = tokenizer
        self._chunk_tokens = chunk_tokens
        self._tenant = tenant
        self._collection = collection

    @cached_property
    def _limit(self) -> int:
        return min(self._chunk_tokens, self._tokenizer.max_tokens)

    @cached_property
    def _characters(self) -> int:
        return min(self._limit * CHARACTERS_PER_TOKEN, MAX_CHARACTERS)

    def chunk(self, document: Document) -> list[Chunk]:
        """The chunks of a document, in order; none for a document of white space."""
        pieces = self._checked(document.text, self._packed(document))
        title = self._shortened(document.title, int(self._tokenizer.max_tokens * _TITLE_SHARE))
        places = Places(document.metadata.get(MARKS, {}), document.text)
        metadata = {key: value for key, value in document.metadata.items() if key != MARKS}
        seen: Counter[str] = Counter()
        chunks = []
        for ordinal, piece in enumerate(pieces):
            text = document.text[piece.start : piece.end]
            chunks.append(
                Chunk(
                    id=chunk_id(self._tenant, self._collection, document.uri, text, seen[text]),
                    uri=document.uri,
                    title=title,
                    text=text,
                    start=piece.start,
                    end=piece.end,
                    heading=piece.path,
                    ordinal=ordinal,
                    metadata={**metadata, **places.of(piece.start, piece.end)},
                )
            )
            seen[text] += 1
        return self._fitted(chunks, [piece.weight for piece in pieces])

    # -- dividing ------------------------------------------------------------------------------------------------------

    def _packed(self, document: Document) -> list[_Piece]:
        packed: list[_Piece] = []
        section: list[_Piece] = []
        for piece in self._pieces(document):
            if section and section[0].path != piece.path:
                packed.extend(self._pack(section))
                section = []
            section.append(piece)
        packed.extend(self._pack(section))
        return self._merged(packed, apart="sheet" in document.metadata.get(MARKS, {}))

    def _pieces(self, document: Document) -> Iterator[_Piece]:
        """Blocks, none heavier than the limit."""
        text = document.text
        batch: list[tuple[Block, Path]] = []
        for leaf in leaves(document):
            batch.append(leaf)
            if len(batch) == 256:
                yield from self._weighed(text, batch)
                batch = []
        yield from self._weighed(text, batch)

    def _weighed(self, text: str, found: Sequence[tuple[Block, Path]]) -> Iterator[_Piece]:
        spans = [_trimmed(text, block.start, block.end) for block, _ in found]
        weights = self._weights([text[start:end] for start, end in spans])
        for (block, path), (start, end), weight in zip(found, spans, weights, strict=True):
            if start == end:
                continue
            if weight <= self._limit:
                yield _Piece(start, end, path, weight)
            elif len(block.children) > 1 or (block.children and block.children[0].children):
                yield from self._weighed(text, [(child, path) for child in _covering(block)])
            else:
                yield from self._cut(text, _Piece(start, end, path, weight))

    def _cut(self, text: str, piece: _Piece) -> Iterator[_Piece]:
        """One block that is too long, in parts of about equal size."""
        for low, high in parts(text[piece.start : piece.end], WINDOW):
            window = text[piece.start + low : piece.start + high]
            weight = self._weights_exact(window)
            size = self._balanced(weight)
            spans = split(window, size, self._weigh)
            weights = self._weights([window[start:end] for start, end in spans])
            for (start, end), part in zip(spans, weights, strict=True):
                offset = piece.start + low
                start, end = _trimmed(text, offset + start, offset + end)
                yield _Piece(start, end, piece.path, part)

    def _balanced(self, weight: int) -> int:
        """A limit that divides `weight` evenly, with room for boundaries that are not where one would like them."""
        return min(self._limit, math.ceil(1.15 * weight / math.ceil(weight / self._limit)))

    # -- joining -------------------------------------------------------------------------------------------------------

    def _pack(self, section: Sequence[_Piece]) -> Iterator[_Piece]:
        """Neighbouring blocks of one section, joined into as few chunks as the limit allows, of about equal weight."""
        if not section:
            return
        total = sum(piece.weight for piece in section)
        target = 0.9 * total / math.ceil(total / self._limit)
        current = section[0]
        for piece in section[1:]:
            if current.weight >= target or not self._fits(current, piece):
                yield current
                current = piece
            else:
                current = _joined(current, piece)
        yield current

    def _merged(self, pieces: Sequence[_Piece], *, apart: bool) -> list[_Piece]:
        """Small pieces joined to the next one under the same parent, or else to the one before.

        `apart`: sections have nothing to do with each other, as the sheets of a workbook.
        """
        if apart:
            return list(pieces)
        small = self._limit * _SMALL
        merged: list[_Piece] = []
        for piece in pieces:
            last = merged[-1] if merged else None
            if last and last.weight < small and _related(last.path, piece.path) and self._fits(last, piece):
                merged[-1] = _joined(last, piece)
            else:
                merged.append(piece)
        settled: list[_Piece] = []
        for piece in merged:
            if settled and piece.weight < small and self._fits(settled[-1], piece):
                settled[-1] = _joined(settled[-1], piece)
            else:
                settled.append(piece)
        return settled

    def _fits(self, first: _Piece, second: _Piece) -> bool:
        return first.weight + second.weight <= self._limit and second.end - first.start <= self._characters

    # -- checking ------------------------------------------------------------------------------------------------------

    def _checked(self, text: str, pieces: Sequence[_Piece]) -> list[_Piece]:
        """Token counts are not additive in every tokenizer: what came out too long is cut."""
        checked: list[_Piece] = []
        weights = self._weights([text[piece.start : piece.end] for piece in pieces])
        for piece, weight in zip(pieces, weights, strict=True):
            checked.extend([replace(piece, weight=weight)] if weight <= self._limit else self._cut(text, piece))
        return checked

    def _fitted(self, chunks: Sequence[Chunk], weights: Sequence[int]) -> list[Chunk]:
        """Headings shortened, outermost first, until the model reads all of title, headings and text."""
        fitted = list(chunks)
        open_ones = self._perhaps_too_long(chunks, weights)
        while open_ones:
            counts = self._longest([fitted[i] for i in open_ones])
            too_long = [i for i, count in zip(open_ones, counts, strict=True) if count > self._tokenizer.max_tokens]
            open_ones = [i for i in too_long if fitted[i].heading]
            for i in open_ones:
                fitted[i] = replace(fitted[i], heading=self._less(fitted[i].heading))
        return fitted

    def _longest(self, chunks: Sequence[Chunk]) -> list[int]:
        """Tokens of a chunk as it is embedded or searched, whichever are more."""
        searched = self._tokenizer.count([chunk.context() for chunk in chunks])
        embedded = self._tokenizer.count([chunk.embedded_text() for chunk in chunks])
        return [max(pair) for pair in zip(searched, embedded, strict=True)]

    def _perhaps_too_long(self, chunks: Sequence[Chunk], weights: Sequence[int]) -> list[int]:
        """Those whose parts, counted apart, come near what the model reads: most need not be tokenised once more."""
        above = sorted({(chunk.title, *chunk.heading) for chunk in chunks})
        counts = self._tokenizer.count([" > ".join(path) for path in above])
        tokens = dict(zip(above, counts, strict=True))
        room = self._tokenizer.max_tokens - _JOINT
        return [
            i
            for i, (chunk, weight) in enumerate(zip(chunks, weights, strict=True))
            if tokens[(chunk.title, *chunk.heading)] + weight > room
        ]

    def _less(self, heading: Path) -> Path:
        if len(heading) > 1:
            return heading[1:]
        shorter = self._shortened(heading[0], self._tokenizer.count([heading[0]])[0] // 2)
        return (shorter,) if shorter else ()

    def _shortened(self, text: str, tokens: int) -> str:
        """The longest beginning, in whole words where there are any, of at most `tokens` tokens."""
        text = text[: tokens * CHARACTERS_PER_TOKEN]
        if self._tokenizer.count([text])[0] <= tokens:
            return text
        spans = split(text, tokens - 1, self._weigh) if tokens > 1 else []
        return text[: spans[0][1]].rstrip() + "…" if spans else ""

    def _weigh(self, text: str) -> int:
        return self._weights([text])[0]

    def _weights(self, texts: Sequence[str]) -> list[int]:
        """Tokens, or what the number of characters counts for; a text over the limit by that alone is not tokenised."""
        by_length = [math.ceil(len(text) * self._limit / self._characters) for text in texts]
        short = [i for i, weight in enumerate(by_length) if weight <= self._limit]
        for i, count in zip(short, self._tokenizer.count([texts[i] for i in short]), strict=True):
            by_length[i] = max(by_length[i], count)
        return by_length

    def _weights_exact(self, text: str) -> int:
        return max(self._tokenizer.count([text])[0], math.ceil(len(text) * self._limit / self._characters))


def _covering(block: Block) -> Iterator[Block]:
    """The children of a block, the first from where the block (with its heading) begins."""
    first, *others = block.children
    yield replace(first, start=block.start)
    yield from others


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; empty where there is nothing else."""
    part = text[start:end]
    low = start + len(part) - len(part.lstrip())
    high = end - (len(part) - len(part.rstrip()))
    return (low, high) if low < high else (start, start)


def _joined(first: _Piece, second: _Piece) -> _Piece:
    return _Piece(first.start, second.end, _common(first, second), first.weight + second.weight)


def _common(first: _Piece, second: _Piece) -> Path:
    """The path of two joined pieces: of the one that matters, or what both have in common."""
    if first.path == second.path or second.weight <= _MINOR * first.weight:
        return first.path
    if first.weight <= _MINOR * second.weight:
        return second.path
    common = 0
    while common < min(len(first.path), len(second.path)) and first.path[common] == second.path[common]:
        common += 1
    return first.path[:common]


def _related(first: Path, second: Path) -> bool:
    """Whether two sections are siblings, or one is the parent of the other."""
    depth = max(len(first), len(second)) - 1
    return first[:depth] == second[:depth]
