"""How good an answer is, by what is known of its question. Pure; never raises, whatever a server sent."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from loadtest.workload import Ask

#: `[1]`, `[1, 2]`: whom an answer cites is not what it says.
_MARKER = re.compile(r"[\[【]\s*\d{1,3}(?:\s*[,;]\s*\d{1,3})*\s*[\]】]")
#: Soft hyphens, joiners, marks of byte order: nothing to see.
_UNSEEN = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")
#: 16,384 with any of the marks that people put there; a plain space could as well stand between two numbers.
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:[,'’\u00a0\u2009\u202f]\d{3})+(?![\d])")
#: A number with its sign and fraction, or a word without digits: `64MiB` is two.
_WORD = re.compile(r"(?:(?<!\w)-)?\d+(?:\.\d+)*|[^\W\d_]+")
#: Thai, Lao, Khmer, Chinese, Japanese: no spaces between words.
_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Quality:
    """As the fields of `loadtest.record.Record` of the same names. None: not known."""

    source_recall: float | None = None
    answer_match: bool | None = None
    citations: int | None = None
    citations_valid: float | None = None


def judge(ask: Ask, text: str, annotations: Sequence[Any], passages: Sequence[Any] | None) -> Quality:
    """`annotations`, `passages`: as in the message and its `rag` object; a search's results are passages as well.

    `passages` is None for a server that does not say what it retrieved; then neither sources nor citations are judged.
    """
    if ask.task == "upload":
        return Quality()
    found = None if passages is None else [passage for passage in passages if isinstance(passage, Mapping)]
    recall = None if found is None or not ask.sources else _recall(ask, found)
    if ask.task == "search":
        return Quality(recall)
    match = contains(text, ask.answers) if ask.answers else None
    cited = [cite for one in annotations if (cite := _citation(one)) is not None]
    if found is None:
        return Quality(recall, match)
    good = sum(_is_valid(cite, text, found) for cite in cited)
    return Quality(recall, match, len(cited), good / len(cited) if cited else None)


def contains(text: str, answers: Sequence[str]) -> bool:
    """One of the answers is in the text, word for word but for case, punctuation, spaces and how numbers are written.

    Whole words and numbers only: "8" is not in "80", nor in the citation `[8]`.
    """
    whole = f" {normal(text)} "
    return any(_is_in(whole, known) for known in map(_known, answers) if known)


def normal(text: str) -> str:
    """Words and numbers, lower case, one space between.

    "**64MiB**" and "64 MiB" are the same, and so are "16,384" and "16384"; "0.2" and "2" are not.
    """
    plain = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), _MARKER.sub(" ", _UNSEEN.sub("", text)))
    folded = unicodedata.normalize("NFKC", plain).casefold().replace("%", " percent ").replace("−", "-")
    return " ".join(_WORD.findall(folded))


def _is_in(whole: str, known: str) -> bool:
    if _SPACELESS.search(known):
        return known.replace(" ", "") in whole.replace(" ", "")
    return f" {known} " in whole


def is_source(source: str, passage: Mapping[str, Any]) -> bool:
    """Whether the passage's uri, or its title, is the source or ends with it, in whole parts of a path."""
    ending = _parts(source)
    return any(
        isinstance(name, str) and ending and _parts(name)[-len(ending) :] == ending
        for name in (passage.get("uri"), passage.get("title"))
    )


def _recall(ask: Ask, passages: Sequence[Mapping[str, Any]]) -> float:
    """Of the sources that are enough, how large a share is there. Several passages of one source count once."""
    here = sum(any(is_source(source, passage) for passage in passages) for source in ask.sources)
    return min(1.0, here / max(1, ask.enough))


def _citation(annotation: Any) -> Mapping[str, Any] | None:
    """None for an annotation of another kind. One without its parts is a citation all the same: an invalid one."""
    if not isinstance(annotation, Mapping) or annotation.get("type") != "url_citation":
        return None
    cite = annotation.get("url_citation")
    return cite if isinstance(cite, Mapping) else {}


def _is_valid(cite: Mapping[str, Any], text: str, passages: Sequence[Mapping[str, Any]]) -> bool:
    """It marks some of the text, and names a passage; our own server's `number` must be that of the same passage."""
    start, end, number = cite.get("start_index"), cite.get("end_index"), cite.get("number")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return False
    if not text[start:end].strip():
        return False
    if number is not None:
        if type(number) is not int or not 1 <= number <= len(passages):
            return False
        passages = passages[number - 1 : number]
    return any(cite.get("url") == passage.get("uri") for passage in passages)


@lru_cache(maxsize=4096)
def _known(answer: str) -> str:
    return normal(answer)


@lru_cache(maxsize=65536)
def _parts(name: str) -> tuple[str, ...]:
    """Of a path or an address, without what follows `?` or `#`, and without a difference of case."""
    bare = re.split(r"[?#]", unquote(name).replace("\\", "/"), maxsplit=1)[0]
    return tuple(part for part in unicodedata.normalize("NFKC", bare).casefold().split("/") if part not in ("", "."))
