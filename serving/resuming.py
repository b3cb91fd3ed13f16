"""An answer that goes on in another engine after the first one was lost, so that its reader sees one answer.

An engine says the ids of the prompt's tokens and of those it wrote. The next engine gets all of them as its prompt and
writes on where the first one stood. It is not asked to continue a last message (vLLM's `continue_final_message`): chat
templates trim white space there, and half an answer, put into tokens again, gives other tokens than those it came from.

What an engine holds back from its text (half a character, what may become a stop sequence) is written again.
Presence and frequency penalties, and a seed's random numbers, begin anew where the answer goes on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving import vllm
from serving.errors import EngineUnavailable
from serving.generation import GenerationRequest
from serving.vllm import DELTA, DONE, IDS, USAGE, Item, Kind

#: How often an answer goes on, and how often it is asked for in all.
_RESUMED, _TRIES = 2, 20
#: How an answer's first token is decoded depends on what stands before it; so much of the prompt is enough.
_LEAD = 16
#: vLLM's own limit for a text completion that names none. A chat always comes with one.
_COMPLETION_TOKENS = 16
#: What vLLM's completions do not know, or must not get a second time.
_OF_CHATS = frozenset(("messages", "reasoning_effort", "parallel_tool_calls"))


class Decoder(Protocol):
    """What is needed of a tokenizer; Hugging Face's have it."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """What the reader has of an answer, and the ids of the tokens of its prompt and of its own so far.

    The tokens may be ahead of the text. `beside`: the reader also has what is not text (the model's reasoning).
    """

    text: str
    prompt_ids: list[int]
    ids: list[int]
    beside: bool


class Answer:
    """One answer over all the engines that worked on it: what its reader has, and what the next engine is asked."""

    def __init__(self, request: GenerationRequest) -> None:
        self._kind, self._body = vllm.body(request)
        self._waits = request.waits
        self._batches: list[Sequence[Item]] = []
        self._lost = self._tries = 0
        self.failure: EngineUnavailable | None = None

    def call(self) -> tuple[Kind, dict[str, Any], Begun | None]:
        """Arguments of the Llm's `generate`. Each time under another id: an engine refuses to see one twice."""
        if not self._tries:
            return self._kind, self._body, None
        return self._kind, {**self._body, "request_id": f"{self._body['request_id']}-{self._tries}"}, self._begun()

    def take(self, batch: Sequence[Item]) -> None:
        """A batch that goes to the reader. Kept as it is: only an answer that has to go on elsewhere needs more."""
        self._batches.append(batch)

    @property
    def nothing(self) -> bool:
        """Whether the reader has nothing yet, so that the whole request can be made again."""
        return not any(isinstance(item, str) or item[0] == DELTA for batch in self._batches for item in batch)

    @property
    def patient(self) -> bool:
        """Whether to wait for an engine to start: for one lost in the middle always, else if the caller waits."""
        return self.failure is not None and (self._waits or not self.nothing)

    def failed(self, error: EngineUnavailable, *, taken: bool) -> None:
        """An attempt failed; `taken`: after a replica had begun with it. Raises what failed last if there is no other.

        Twice an answer goes on: what ends three engines is likely the request itself. One that reached no replica
        did no harm: only for as long as it takes until routers know who is there.
        """
        if taken or self.failure is None:
            self.failure = error
        self._tries += 1
        self._lost += taken
        if self._lost > _RESUMED or self._tries > _TRIES or not (self.nothing or self._begun()):
            raise self.failure

    def _begun(self) -> Begun | None:
        """What another engine needs to go on; None for an answer without text, or one that cannot go on.

        Those are answers whose engine did not say its ids, with tool calls, and of models that still reason.
        """
        texts: list[str] = []
        ids: list[int] = []
        prompt_ids: list[int] = []
        beside: set[str] = set()
        for batch in self._batches:
            for item in batch:
                if isinstance(item, str):
                    texts.append(item)
                elif item[0] == DELTA:
                    texts.append(item[1])
                    beside.update(item[2])
                elif item[0] == IDS:
                    if item[2] is not None:
                        prompt_ids, ids = item[2], []
                    ids.extend(item[1])
        text = "".join(texts)
        if not text or not prompt_ids or "tool_calls" in beside:
            return None
        return Begun(text, prompt_ids, ids, bool(beside))


@dataclass(frozen=True, slots=True)
class Seam:
    """Where the second engine goes on: the tokens that it does not write again."""

    begun: Begun
    ids: list[int]

    @classmethod
    def find(cls, begun: Begun, tokens: Decoder, stop: Sequence[str] = ()) -> Seam:
        """After the last token whose text the reader has; a part of a token that he has is put into tokens anew.

        `stop`: the request's sequences. Raises EngineUnavailable if that cannot be told.
        """
        lead = begun.prompt_ids[-_LEAD:]
        before = len(tokens.decode(lead, skip_special_tokens=True))

        def text_of(count: int) -> str:
            return tokens.decode([*lead, *begun.ids[:count]], skip_special_tokens=True)[before:]

        whole = text_of(len(begun.ids))
        # After the token that ends an answer, which has no text, nothing is held back any more.
        ended = bool(begun.ids) and whole == text_of(len(begun.ids) - 1)
        held = 0 if ended else max((len(each) - 1 for each in stop), default=0)
        start = 0 if whole.startswith(begun.text) else _place(begun.text, whole, len(whole) - held - len(begun.text))
        if start < 0:
            if begun.beside:
                raise EngineUnavailable("The LLM was lost, and where its answer stood cannot be told.")
            return cls(begun, tokens.encode(begun.text, add_special_tokens=False))
        goal = whole[: start + len(begun.text)]
        count = bisect_right(range(len(begun.ids) + 1), len(goal), key=lambda n: len(text_of(n))) - 1
        # Half a character is decoded as another one.
        while not goal.startswith(text_of(count)):
            count -= 1
        # A token without a text may be the one that ended the answer: going on behind it would be nonsense.
        while count and text_of(count - 1) == text_of(count):
            count -= 1
        rest = goal[len(text_of(count)) :]
        return cls(begun, begun.ids[:count] + (tokens.encode(rest, add_special_tokens=False) if rest else []))

    def complete(self, body: dict[str, Any]) -> bool:
        """Whether the answer has all the tokens that the request allows."""
        return self._left(body) <= 0

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as a text completion that goes on from here."""
        kept = {name: value for name, value in body.items() if name not in _OF_CHATS}
        if "min_tokens" in body:
            kept["min_tokens"] = max(0, body["min_tokens"] - len(self.ids))
        return {**kept, "prompt": [*self.begun.prompt_ids, *self.ids], "max_tokens": self._left(body)}

    def opening(self) -> Item:
        """What the answer has so far, as the first engine would have said it."""
        return (IDS, self.ids, self.begun.prompt_ids)

    def joined(self, batch: list[Item]) -> list[Item]:
        """A batch of the second engine as one of the whole answer: its prompt was ours, and a part of the answer."""
        return [item if isinstance(item, str) else self._joined(item) for item in batch]

    def end(self) -> list[Item]:
        """The end of an answer that had all its tokens before it could say so."""
        return [(USAGE, len(self.begun.prompt_ids), len(self.ids), 0), (DONE, "length")]

    def _left(self, body: dict[str, Any]) -> int:
        return int(body.get("max_tokens", _COMPLETION_TOKENS)) - len(self.ids)

    def _joined(self, item: tuple[Any, ...]) -> Item:
        if item[0] == IDS:
            return (IDS, item[1], None)
        if item[0] != USAGE:
            return item
        prompt = len(self.begun.prompt_ids)
        return (USAGE, prompt, item[1] + item[2] - prompt, min(item[3], prompt))


def _place(text: str, whole: str, due: int) -> int:
    """Where in `whole` the text stands that is due there; -1: nowhere. A short one may stand in several places.

    It is due before what vLLM holds back: one less than the longest stop sequence has (`IncrementalDetokenizer`).
    """
    due = max(0, due)
    places = (whole.rfind(text, 0, due + len(text)), whole.find(text, due))
    return min((place for place in places if place >= 0), key=lambda place: abs(place - due), default=-1)
