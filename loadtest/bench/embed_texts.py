"""Passages of mixed length: runs of words of the handbook, so many that each has a drawn number of tokens."""

from __future__ import annotations

import random
from importlib import resources

from serving.index.tokenizer import load_tokenizer

SHORTEST, LONGEST = 20, 256
#: Median and spread of the log-normal law: half of the passages have 60 to 135 tokens.
_MEDIAN_TOKENS, _SIGMA = 90, 0.6
#: Special tokens that the model adds to each text.
_SPECIAL = 2


def passages(model: str, count: int, seed: int = 7) -> tuple[list[str], list[int]]:
    """Texts and about how many tokens each has, special ones included: words are counted one by one."""
    draw = random.Random(seed)
    words = handbook_words()
    sizes = load_tokenizer(model).count(words)
    texts, lengths = [], []
    for _ in range(count):
        wanted = min(LONGEST, max(SHORTEST, round(_MEDIAN_TOKENS * draw.lognormvariate(0, _SIGMA))))
        place, text, tokens = draw.randrange(len(words)), list[str](), _SPECIAL
        while tokens < wanted:
            text.append(words[place])
            tokens += sizes[place]
            place = (place + 1) % len(words)
        texts.append(" ".join(text))
        lengths.append(min(LONGEST, tokens))
    return texts, lengths


def questions(count: int, seed: int = 8) -> list[str]:
    """As long as questions are."""
    draw = random.Random(seed)
    words = handbook_words()
    starts = [draw.randrange(len(words) - 12) for _ in range(count)]
    return [" ".join(words[start : start + draw.randint(5, 11)]) + "?" for start in starts]


def handbook_words() -> list[str]:
    pages = sorted((resources.files("serving") / "handbook").iterdir(), key=lambda page: page.name)
    return [word for page in pages for word in page.read_text(encoding="utf-8").split()]
