"""Whether a passage supports a sentence: by shared words and numbers, in microseconds, without a model. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.index.lexical import lexical
from serving.index.types import Passage

#: Share of a claim's stems that the passage must hold. Sentences that rephrase a passage keep its terms and change its
#: verbs, which leaves a half or more; a sentence about a neighbouring subject shares the subject's name and little
#: else. `tests/unit/test_support.py` holds labelled pairs of both kinds, hard ones from neighbouring passages included.
SUPPORTED = 0.5

_NUMBER = re.compile(r"(?<![\w.])v?(\d+(?:[.,:]\d+)*)")
_ANY_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_ORDINAL = re.compile(r"^\s*(?:[-*+•]\s+|\d{1,3}[.)]\s+|#{1,6}\s+|>\s+)*")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Stems and numbers of a passage, title and headings included."""

    terms: frozenset[str]
    numbers: frozenset[str]


def terms(text: str) -> frozenset[str]:
    """Stems of the words that carry content, as BM25 sees them."""
    return frozenset(lexical(text).split())


def evidence(passage: Passage) -> Evidence:
    whole = "\n".join((passage.title, *passage.heading, passage.text))
    found = _ANY_NUMBER.findall(whole)
    numbers = {_plain(number) for number in found}
    numbers.update(part for number in found for part in re.split(r"[.,:]", number))
    return Evidence(terms(whole), frozenset(numbers))


def support(claim: str, of: Evidence) -> float:
    """Share of the claim's stems in the evidence, 0 to 1; 0 when it has none, or has a number that is not there.

    Shared words cannot tell a statement from its denial: this catches citations of the wrong passage and invented
    figures, not every error.
    """
    claim = _ORDINAL.sub("", claim)
    if any(_plain(number) not in of.numbers for number in _NUMBER.findall(claim)):
        return 0.0
    words = terms(claim)
    return len(words & of.terms) / len(words) if words else 0.0


def _plain(number: str) -> str:
    return number.replace(",", "")
