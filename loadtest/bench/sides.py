"""A side of a comparison of streams: where to ask, and whether it said what it should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loadtest.bench.client import BenchError, body_of, pieces_of
from loadtest.bench.fidelity_script import QUESTION

#: The chat that every side gets, besides its model and max_tokens.
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": QUESTION}],
    "stream": True,
    "temperature": 0,
}


@dataclass(frozen=True, slots=True)
class Side:
    """A server that streams chats."""

    name: str
    port: int
    model: str
    path: str = "/v1/chat/completions"


def same_pieces(side: str, response: bytes, tokens: int) -> None:
    """Every token of the scripted engine, each in its own event. Raises BenchError."""
    pieces = pieces_of(body_of(response))
    if pieces != [f" w{number}" for number in range(tokens)]:
        raise BenchError(f"{side} sent {len(pieces)} pieces instead of {tokens}, the last ones {pieces[-3:]}")
