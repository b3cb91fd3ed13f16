"""The sampling limits (stop, max_tokens) for engines that write whole texts, counted in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving.generation import FinishReason, Sampling

_PIECE = re.compile(r"\s*\S+|\s+\Z")


def pieces_of(text: str) -> list[str]:
    """Words with the white space before them; joined they are the text again."""
    return _PIECE.findall(text)


def limited(pieces: Sequence[str], sampling: Sampling) -> tuple[list[str], FinishReason]:
    """The pieces up to a stop sequence (left out) or `max_tokens`, and why they end."""
    text = "".join(pieces)
    cuts = [at for stop in sampling.stop if stop and (at := text.find(stop)) >= 0]
    kept = _cut(pieces, min(cuts)) if cuts else list(pieces)
    if sampling.max_tokens is not None and len(kept) > sampling.max_tokens:
        return kept[: sampling.max_tokens], "length"
    return kept, "stop"


def _cut(pieces: Sequence[str], length: int) -> list[str]:
    kept: list[str] = []
    for piece in pieces:
        if length <= 0:
            break
        kept.append(piece[:length])
        length -= len(piece)
    return kept
