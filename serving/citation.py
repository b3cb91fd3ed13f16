"""Markers like `[1]` in a streamed answer become checked citations.

Text is held back only from a `[` until it is or is not a marker. A marker that names no passage, or one that does not
support its sentence, is taken out of the text. Markdown links, array indices and code pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving.answer import AnswerEvent, Citation
from serving.generation import GenerationEvent, Progress, Token
from serving.index.types import Passage
from serving.sentences import sentences
from serving.support import SUPPORTED, Evidence, evidence, support, terms

_NUMBERS = r"[ \t]*(\d{1,3}(?:[ \t]*[,;][ \t]*\d{1,3})*)[ \t]*"
_MARKER = re.compile(rf"\[{_NUMBERS}\]|【{_NUMBERS}】")
_PARTIAL = re.compile(r"[\[【][\d \t,;]{0,32}")
_OPENING = re.compile(r"[\[【]")
#: `spec.containers[1]`, `$items[1]`, `my_list[1]`: the word before makes it an index, not a citation.
_INDEXED = re.compile(r"\W*(?:\$\w+|\w+_\w*|[\w.]+\.\w+|[\w.]+\(\))")
_CODE = re.compile(r"^[ \t]*(`{3,}|~{3,})|(`+)|(\n[ \t]*\n)", re.MULTILINE)
#: How far back a sentence is looked for, characters.
_WINDOW = 2000


class CitationFilter:
    """One per answer. Feed it the engine's batches in order; offsets count characters of the text it lets through.

    `cited` counts the citations given so far.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.cited = 0
        self._passages = passages
        self._evidence: dict[int, Evidence] = {}
        self._parts: list[str] = []
        self._held = ""
        self._code = _CodeScanner()
        self._eat_space = False

    def batch(self, events: Sequence[GenerationEvent]) -> list[AnswerEvent]:
        """The same events with checked text, each citation after the token that ends its marker.

        A token whose text is held back or taken out entirely is left out, so the list may be empty.
        """
        out: list[AnswerEvent] = []
        for event in events:
            if not isinstance(event, Token):
                if not isinstance(event, Progress):
                    out.extend(self.finish())
                out.append(event)
            elif self._held or self._eat_space or "[" in event.text or "【" in event.text:
                out.extend(self._token(event))
            else:
                self._parts.append(event.text)
                out.append(event)
        return out

    def finish(self) -> list[AnswerEvent]:
        """What was still held back when the text ended. Harmless when repeated."""
        return self._token(Token(""), final=True) if self._held else []

    def _token(self, token: Token, *, final: bool = False) -> list[AnswerEvent]:
        text, self._held = self._held + token.text, ""
        before = len(self._sent())
        citations = self._pass(text, final)
        passed = self._sent()[before:]
        if not passed and token.delta is None:
            return []
        return [Token(passed, token.delta), *citations]

    def _pass(self, text: str, final: bool) -> list[AnswerEvent]:
        """Let through what is decided of `text`, hold the rest."""
        citations: list[AnswerEvent] = []
        at = 0
        if self._eat_space and text:
            at, self._eat_space = (1 if text[0] == " " else 0), False
        while (opening := _OPENING.search(text, at)) is not None:
            here = opening.start()
            lead = here - len(text[at:here]) + len(text[at:here].rstrip(" \t"))
            self._parts.append(text[at:lead])
            marker = _MARKER.match(text, here)
            undecided = marker is None and not final and _PARTIAL.fullmatch(text, here)
            if self._code.reaches(self._sent()) or (marker is None and not undecided):
                end = here + 1
                self._parts.append(text[lead:end])
            elif marker is None or (marker.end() == len(text) and not final):
                self._held = text[lead:]
                return citations
            else:
                end = marker.end()
                citations.extend(self._marker(text[lead:here], marker, text[end : end + 1]))
                if self._eat_space and end < len(text):
                    end, self._eat_space = end + (text[end] == " "), False
            at = end
        self._parts.append(text[at:])
        return citations

    def _marker(self, space: str, marker: re.Match[str], following: str) -> list[Citation]:
        sent = self._sent()
        if _is_link(sent + space, following) or _is_index(sent, space, marker):
            self._parts.append(space + marker[0])
            return []
        numbers = [int(number) for number in re.findall(r"\d+", marker[0])]
        start, claims = _claims(sent)
        good = [number for number in dict.fromkeys(numbers) if self._supports(number, claims)]
        if not good:
            if space and following.isalnum():
                self._parts.append(space)
            self._eat_space = not space and (not sent or sent[-1].isspace())
            return []
        kept = marker[0] if good == numbers else f"[{', '.join(map(str, good))}]"
        self._parts.append(space + kept)
        end = len(sent) + len(space) + len(kept)
        self.cited += len(good)
        return [self._citation(number, start, end) for number in good]

    def _supports(self, number: int, claims: Sequence[str]) -> bool:
        if not 1 <= number <= len(self._passages):
            return False
        if number not in self._evidence:
            self._evidence[number] = evidence(self._passages[number - 1])
        return any(support(claim, self._evidence[number]) >= SUPPORTED for claim in claims)

    def _citation(self, number: int, start: int, end: int) -> Citation:
        passage = self._passages[number - 1]
        return Citation(number, start, end, passage.uri, passage.title, passage.chunk_id)

    def _sent(self) -> str:
        if len(self._parts) > 1:
            self._parts[:] = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""


class _CodeScanner:
    """Whether a growing text stands inside a code span or fence at its end; each character is looked at once."""

    def __init__(self) -> None:
        self._at = 0
        self._fence = ""
        self._ticks = 0

    def reaches(self, text: str) -> bool:
        for mark in _CODE.finditer(text, self._at):
            fence, ticks, gap = mark.groups()
            if self._fence:
                if fence and fence.startswith(self._fence):
                    self._fence = ""
            elif fence:
                self._fence, self._ticks = fence, 0
            elif gap:
                self._ticks = 0
            elif not self._ticks:
                self._ticks = len(ticks)
            elif self._ticks == len(ticks):
                self._ticks = 0
        self._at = len(text)
        return bool(self._fence or self._ticks)


def _is_link(before: str, following: str) -> bool:
    """`[1](address)`, or `[1]: address` at the start of a line."""
    return following == "(" or (following == ":" and not before.rpartition("\n")[2].strip())


def _is_index(sent: str, space: str, marker: re.Match[str]) -> bool:
    """An index of a name written without code marks; `[0]` right after a word always is."""
    if space or marker[0][0] != "[" or not sent or not (sent[-1].isalnum() or sent[-1] in "_)]"):
        return False
    if marker[1].strip() == "0":
        return True
    word = re.split(r"\s", sent[-120:])[-1]
    return bool(_INDEXED.fullmatch(_MARKER.sub("", word)))


def _claims(sent: str) -> tuple[int, list[str]]:
    """Where the sentence before a marker starts, and what the marker may stand for.

    That is the whole sentence so far, or its part since the last marker. One without two content words ("Yes.") is
    taken together with the sentence before.
    """
    text = sent.rstrip()
    begin = max(text.rfind("\n\n") + 2 if "\n\n" in text else 0, len(text) - _WINDOW)
    spans = sentences(text[begin:])
    if not spans:
        return len(sent), []
    start = begin + spans[-1][0]
    whole = _MARKER.sub(" ", text[start:])
    part = _MARKER.split(text[start:])[-1] or ""
    if len(terms(whole)) < 2 and len(spans) > 1:
        whole = _MARKER.sub(" ", text[begin + spans[-2][0] :])
    return start, [whole, part] if len(terms(part)) > 1 else [whole]
