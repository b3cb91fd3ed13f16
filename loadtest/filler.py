"""Text that lengthens a prompt or fills a document: varied, seeded, and about nothing that anybody asks. Pure.

Made of frequent English words, which are one token each in the vocabularies of today's models; so words and marks are
counted here, and no tokenizer is needed.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate
from typing import Final

_WHO: Final = (
    "the harbour office", "our neighbour", "the night crew", "a young teacher", "the second driver", "the village shop",
    "my older sister", "the music school", "the ferry captain", "one of the farmers", "the town library", "a visitor",
    "the morning train", "the baker", "an old friend", "the garden club", "the repair shop", "the local paper",
)  # fmt: skip
_DID: Final = (
    "moved", "painted", "bought", "found", "counted", "carried", "forgot", "promised", "returned", "cleaned", "sold",
    "borrowed", "described", "measured", "opened", "brought", "kept", "lost",
)  # fmt: skip
_WHAT: Final = (
    "the blue boat", "two heavy boxes", "a map of the river", "the wooden table", "several letters", "the winter coats",
    "a small stone bridge", "the old piano", "fresh bread", "the broken window", "a list of names", "the summer plan",
    "eleven chairs", "a box of apples", "the front door", "a long story", "the picture of the valley", "warm blankets",
)  # fmt: skip
_WHERE: Final = (
    "near the market", "behind the station", "on the north side of the lake", "at the end of the street",
    "in the kitchen", "under the bridge", "across the field", "by the sea", "next to the church", "in the old mill",
    "along the river", "on the hill", "in front of the theatre", "at the corner",
)  # fmt: skip
_WHEN: Final = (
    "last Monday", "early in the morning", "before the rain came", "after dinner", "in the first week of June",
    "on a quiet Sunday", "three days later", "at noon", "when the snow was gone", "during the holiday",
    "late at night", "in the spring",
)  # fmt: skip
_WHY: Final = (
    "because the road was closed", "so nobody had to wait", "although it was too late", "and everyone was happy",
    "while the children were playing", "as the weather was fine", "but the price had changed",
    "until the lights went out", "which took longer than expected", "and then went home",
)  # fmt: skip
_SHAPES: Final = (
    "{who} {did} {what} {where} {when}, {why}.",
    "{when}, {who} {did} {what} {where}.",
    "{who} {did} {what}, {why}.",
    "{when} {who} {did} {what} {where}, {why}.",
    "{where}, {who} {did} {what} {when}.",
)
_SENTENCES: Final = 2048


@lru_cache(maxsize=1)
def filler(seed: int) -> Filler:
    """Made once: a process has a workload for each task."""
    return Filler(seed)


class Filler:
    """A long text, any stretch of which can be had at once. The same for the same seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(f"{seed}:filler")
        sentences = [_sentence(draw) for _ in range(_SENTENCES)]
        words = " ".join(sentences).split(" ")
        #: Characters up to the end of each word and the space after it; tokens up to the end of each word.
        self._ends = [0, *accumulate(len(word) + 1 for word in words)]
        self._tokens = [0, *accumulate(1 + (word[-1] in ",.") for word in words)]
        self._starts = [0, *accumulate(len(sentence.split(" ")) for sentence in sentences[:-1])]
        self._text = " ".join(sentences) + " "

    def cut(self, tokens: int, at: float) -> str:
        """About so many tokens from the sentence at this place, from 0 to 1 without the 1. Empty for none.

        Stretches from different sentences have no beginning in common that a prefix cache could use.
        """
        if tokens <= 0:
            return ""
        start = self._starts[int(at * len(self._starts))]
        wanted, parts = self._tokens[start] + tokens, []
        while wanted > self._tokens[-1]:
            parts.append(self._text[self._ends[start] :])
            wanted, start = wanted - self._tokens[-1], 0
        stop = bisect_left(self._tokens, wanted)
        parts.append(self._text[self._ends[start] : self._ends[stop]])
        return "".join(parts).rstrip(" ,")


def _sentence(draw: random.Random) -> str:
    text = draw.choice(_SHAPES).format(
        who=draw.choice(_WHO),
        did=draw.choice(_DID),
        what=draw.choice(_WHAT),
        where=draw.choice(_WHERE),
        when=draw.choice(_WHEN),
        why=draw.choice(_WHY),
    )
    return text[0].upper() + text[1:]
