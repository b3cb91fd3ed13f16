"""The engine without an LLM: it answers with the best-supported sentences of the passages, each cited.

A sentence is scored by its embedding's similarity to the question, the share of the question's words it holds, and the
score of its passage. Usage counts words, because no tokenizer of an LLM is involved.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from serving.generation import Batch, Done, GenerationEvent, GenerationRequest, Readiness, Token, Usage
from serving.index.types import Embedder, Passage
from serving.limits import limited, pieces_of
from serving.statements import Statement, plain, statements
from serving.support import terms

#: Statements that are embedded, and their characters together: what a laptop embeds in a tenth of a second.
_CANDIDATES = 16
_CANDIDATE_CHARACTERS = 2400
#: Of a longer one, only the beginning is embedded: a batch costs as much as its longest text.
_READ = 320
#: An answer's statements and how far below the best one they may score.
_MOST = 4
_SPREAD = 0.13
#: Weights: similarity of the embeddings, words shared (those in a heading count less), the passage's own score.
_EMBEDDED, _LEXICAL, _ABOVE, _PASSAGE = 0.55, 0.25, 0.7, 0.4
#: What each place further down the list of passages costs.
_RANK = 0.01
#: Below this the best statement does not answer the question.
_ENOUGH = 0.38
#: Statements that share more of their words than this say the same.
_SAME = 0.6

_WHAT_IS = re.compile(
    r"\s*(?:what|who)(?:'s| is| are| does)\s+(?:an?\s+|the\s+)?(.+?)(?:\s+(?:mean|do|for))?\s*\?*\s*\Z", re.IGNORECASE
)
_HOW_TO = re.compile(
    r"\bhow (?:do|can|could|should|to|would)\b|\b(?:commands?|steps?|examples?|configure|create|install)\b",
    re.IGNORECASE,
)
_WHICH = re.compile(r"\s*(?:which|list|name|what (?:are|\w+ (?:\w+ )?(?:do|does|are|can)))\b", re.IGNORECASE)
#: What a guide says after the step that is asked for.
_AFTERWARDS = re.compile(
    r".{0,60}\b(?:is|are|has been|have been) now\b|(?:check|verify|watch|confirm|validate)\b", re.IGNORECASE
)
_VERB = re.compile(r"\s+(?:is|are|means|lets|allows|provides|represents|describes|defines|ensures|runs)\b")
_DANGLING = re.compile(
    r"(?:its?|this|these|those|they|their|that|he|she|such|"
    r"(?:beyond|besides|before|after|until) (?:that|this)|however|therefore|otherwise|instead|also|then|so|thus|but|"
    r"and|or|"
    r"additionally|for example|for instance|in (?:this|that|such a) case|as a result|similarly|likewise|here|there|"
    r"both|to illustrate)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Scored:
    statement: Statement
    score: float
    words: frozenset[str]


class ExtractiveGenerator:
    """Implements `generation.Generator`; always ready."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def readiness(self) -> Readiness:
        return Readiness(ready=True)

    async def wake(self) -> None:
        return None

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Batch]:
        """One batch: the answer is known as a whole. Raises EmbedderUnavailable."""
        chosen = choose(await self._scored(request.question, request.passages))
        answer = compose(chosen) if chosen else _nothing(request.passages)
        pieces, reason = limited(pieces_of(answer), request.sampling)
        read = sum(len(text.split()) for text in (request.question, *(passage.text for passage in request.passages)))
        events: list[GenerationEvent] = [Token(piece) for piece in pieces]
        yield [*events, Usage(prompt_tokens=read, completion_tokens=len(pieces)), Done(reason)]

    async def _scored(self, question: str, passages: Sequence[Passage]) -> list[_Scored]:
        found = [s for number, passage in enumerate(passages, 1) for s in statements(number, passage)]
        rater = _Rater(question, passages)
        likely = _within(sorted(((rater.rate(s), s) for s in found), key=lambda pair: -pair[0]))
        if not likely:
            return []
        vectors = await self._embedder.embed([question, *(_embedded(s, passages) for _, s in likely)])
        similar = vectors[1:] @ vectors[0]
        return [
            _Scored(s, _EMBEDDED * float(similarity) + rest, terms(s.text))
            for (rest, s), similarity in zip(likely, similar, strict=True)
        ]


class _Rater:
    """Everything of a statement's score but its embedding."""

    def __init__(self, question: str, passages: Sequence[Passage]) -> None:
        self._question = question
        self._passages = passages
        self._above = [terms(" ".join((p.title, *p.heading))) for p in passages]
        words = [terms(p.text) | above for p, above in zip(passages, self._above, strict=True)]
        # A word of the question that few of these passages hold says more than one that all of them do.
        self._weight = {
            word: math.log(1 + (len(passages) + 1) / (sum(word in w for w in words) + 1)) for word in terms(question)
        }
        self._how_to = bool(_HOW_TO.search(question))
        self._which = bool(_WHICH.match(question))

    def rate(self, statement: Statement) -> float:
        words = terms(f"{statement.text} {statement.attached[:400]}")
        above = self._above[statement.passage - 1]
        held = sum(w * (1.0 if word in words else _ABOVE * (word in above)) for word, w in self._weight.items())
        score = _LEXICAL * held / max(1.0, sum(self._weight.values()))
        score += _PASSAGE * self._passages[statement.passage - 1].score - _RANK * statement.passage
        if _defines(self._question, statement.text):
            score += 0.12
        if statement.headed:
            score -= 0.1
        elif self._which and statement.covers:
            score += 0.16
        elif statement.attached and self._how_to:
            score += 0.1
        if self._how_to and _AFTERWARDS.match(statement.text):
            score -= 0.1
        return score if len(statement.text) < 400 else score - 0.05


def choose(scored: Sequence[_Scored]) -> list[Statement]:
    """The best statement and what adds to it, in the order to be read: passages by their best, each in its order."""
    if not scored or (best := max(s.score for s in scored)) < _ENOUGH:
        return []
    chosen: list[_Scored] = []
    left = list(scored)
    while left and len(chosen) < _MOST:
        pick = max(left, key=lambda s: s.score + _fits(s.statement, chosen))
        left.remove(pick)
        if pick.score + _fits(pick.statement, chosen) < best - _SPREAD:
            break
        if not any(_repeats(pick, other) for other in chosen):
            chosen.append(pick)
    rank = {number: -max(s.score for s in chosen if s.statement.passage == number) for number in _numbers(chosen)}
    return sorted((s.statement for s in chosen), key=lambda s: (rank[s.passage], s.order))


def compose(chosen: Sequence[Statement]) -> str:
    """Markdown: a paragraph for each passage, items as a list, code and lists below what introduces them."""
    parts: list[str] = []
    for at, statement in enumerate(chosen):
        before = chosen[at - 1] if at else None
        after = chosen[at + 1] if at + 1 < len(chosen) else None
        listed = _listed(before, statement), _listed(statement, after)
        if before is not None:
            apart = before.passage != statement.passage or before.attached or any(listed) or before.item
            parts.append("\n" if listed[0] else "\n\n" if apart else " ")
        parts.append(("- " if any(listed) else "") + _cited(statement))
        if statement.attached:
            parts.append(f"\n\n{statement.attached}")
    return "".join(parts)


def _listed(one: Statement | None, two: Statement | None) -> bool:
    """Two items of one list, one below the other."""
    if one is None or two is None or one.attached:
        return False
    return one.item and two.item and one.passage == two.passage


def _cited(statement: Statement) -> str:
    """The marker goes before the full stop."""
    text, mark = statement.text, f" [{statement.passage}]"
    if text[-1:] in ".!:;" and not text.endswith("..."):
        stop = ":" if statement.attached else "." if text[-1] in ":;" else text[-1]
        return f"{text[:-1]}{mark}{stop}"
    return f"{text}{mark}{':' if statement.attached else '.'}"


def _defines(question: str, text: str) -> bool:
    asked = _WHAT_IS.match(question)
    verb = _VERB.search(text)
    if not asked or not verb:
        return False
    return terms(re.sub(r"\(.*?\)", "", text[: verb.start()])) == terms(asked[1])


def _within(rated: Sequence[tuple[float, Statement]]) -> list[tuple[float, Statement]]:
    kept: list[tuple[float, Statement]] = []
    characters = 0
    for pair in rated[:_CANDIDATES]:
        characters += min(_READ, len(pair[1].text) + len(pair[1].attached))
        if kept and characters > _CANDIDATE_CHARACTERS:
            break
        kept.append(pair)
    return kept


def _embedded(statement: Statement, passages: Sequence[Passage]) -> str:
    """Below its heading, because a sentence leaves out what the heading says."""
    passage = passages[statement.passage - 1]
    above = plain(passage.heading[-1] if passage.heading else passage.title)
    return f"{above}: {statement.text} {statement.attached[:100]}".strip()[:_READ]


def _fits(statement: Statement, chosen: Sequence[_Scored]) -> float:
    """Right after a chosen sentence it reads on; alone, one that starts with "It" or "However" hangs in the air."""
    follows = any(s.statement.passage == statement.passage and s.statement.order == statement.order - 1 for s in chosen)
    if follows:
        return 0.05
    hangs = _DANGLING.match(statement.text) or (statement.item and statement.text[0].islower())
    return -0.1 if hangs else 0.0


def _repeats(one: _Scored, other: _Scored) -> bool:
    a, b = one.statement, other.statement
    if a.passage == b.passage and (a.order in b.covers or b.order in a.covers):
        return True
    return len(one.words & other.words) > _SAME * max(1, min(len(one.words), len(other.words)))


def _numbers(chosen: Sequence[_Scored]) -> set[int]:
    return {s.statement.passage for s in chosen}


def _nothing(passages: Sequence[Passage]) -> str:
    if not passages:
        return "There are no passages to answer from."
    closest = passages[0]
    about = plain(closest.heading[-1] if closest.heading else closest.title) or closest.uri
    return f"The passages found do not answer this question; the closest one is about “{about}”."
