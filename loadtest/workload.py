"""What is asked: everything about request number n follows from the seed and n, whoever asks it and when. Pure."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from struct import unpack
from typing import NamedTuple, Self

from loadtest.filler import filler
from loadtest.lengths import lengths
from loadtest.question_file import HANDBOOK, Question, read_questions
from loadtest.record import TASKS, Task
from serving.errors import ConfigurationError

#: Where uploads go. Nobody else's documents are in it, so that it can be emptied or dropped afterwards.
UPLOADS = "loadtest-uploads"
#: Longest answers, in tokens, where neither the options nor a trace say.
ANSWER_TOKENS = "256"
#: A document that is uploaded has so many tokens.
_DOCUMENT_TOKENS = "uniform:60-180"
#: What the words that make a prompt unique cost, about.
_SALT_TOKENS = 10
_MOST_TURNS, _MOST_ZIPF = 50, 10.0
#: What a question's own text costs: about 4 characters a token in English, by OpenAI's rule of thumb.
_CHARACTERS = 4


@dataclass(frozen=True)
class Options:
    """As the command line gives them; `Workload.read` checks them.

    `salt`: different for each run against one server, else texts that should be unique (`unique`, uploads) are those of
    the run before. The same for all workers of a run.
    """

    questions: Path = HANDBOOK
    seed: int = 1
    #: Weights of tasks: `stream=8,ask=1`; a task alone weighs 1.
    mix: str = "stream"
    #: Exponent of the questions' popularity; 0: all alike.
    zipf: float = 0.0
    #: Length of what is asked, without passages; nothing: the question as it is, or as long as the trace says.
    prompt_tokens: str = ""
    #: `max_tokens`; nothing: as the trace says, or `ANSWER_TOKENS`.
    answer_tokens: str = ""
    #: User messages of a conversation.
    turns: int = 3
    #: Asked by turns; nothing: what the server takes for its default.
    collections: tuple[str, ...] = ()
    cold_collections: tuple[str, ...] = ()
    #: Share of the requests that go to the cold ones.
    cold_share: float = 0.0
    unique: bool = False
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to ask for. `text` is the question, the query of a search, or the text of a document to upload.

    `preface` goes before everything else (see `messages`); `turns` are asked next in the same conversation. `sources`,
    `enough`, `answers`: what is known of the answer, see `Question`. `uri`, `title`: of an upload alone.
    """

    number: int
    task: Task
    text: str
    #: Its place in the file, from 0; None for an upload.
    question: int | None = None
    max_tokens: int | None = None
    collection: str | None = None
    cold_collection: bool = False
    preface: str = ""
    sources: tuple[str, ...] = ()
    enough: int = 0
    answers: tuple[str, ...] = ()
    turns: tuple[Ask, ...] = ()
    uri: str = ""
    title: str = ""

    def messages(self, *, plain: bool = False) -> list[dict[str, str]]:
        """The beginning of the conversation, in OpenAI's shape.

        The preface is a system message. Our server puts those first in the prompt, and does not search by them: so what
        is retrieved is that of the question alone. `plain`: for a server that retrieves nothing, and a model whose chat
        template may know no system message; there it is the beginning of the user's message.
        """
        if not self.preface:
            return [{"role": "user", "content": self.text}]
        if plain:
            return [{"role": "user", "content": f"{self.preface}\n\n{self.text}"}]
        return [{"role": "system", "content": self.preface}, {"role": "user", "content": self.text}]


class Workload:
    """`ask(number)` is a pure function of the options and the number; it costs microseconds."""

    def __init__(self, options: Options, questions: Sequence[Question], trace: Sequence[tuple[int, int]] = ()) -> None:
        """Raises ConfigurationError that names the option. `trace`: see `read`."""
        self._options = options
        self._questions = questions
        self._trace = trace
        _check(options)
        weights = mix(options.mix)
        self._tasks, self._task_bounds = list(weights), _shares(list(weights.values()))
        self._popular = _Popularity(len(questions), options.zipf, options.seed)
        talks = [place for place, question in enumerate(questions) if question.turns] or range(len(questions))
        self._talks, self._popular_talks = talks, _Popularity(len(talks), options.zipf, options.seed)
        self._prompt = lengths(options.prompt_tokens, "--prompt-tokens") if options.prompt_tokens else None
        self._answer = lengths(options.answer_tokens or ANSWER_TOKENS, "--answer-tokens")
        self._document = lengths(_DOCUMENT_TOKENS, "uploads")
        self._filler = filler(options.seed)

    @classmethod
    def read(cls, options: Options, trace: Sequence[tuple[int, int]] = ()) -> Self:
        """Raises ConfigurationError. `trace`: `Arrivals.lengths`, used for what the options give no length of."""
        return cls(options, read_questions(options.questions), trace)

    def salted(self, salt: str) -> Self:
        """The same with another salt, at once: a `Workload` of many questions takes a while to make."""
        other = copy(self)
        other._options = replace(self._options, salt=salt)
        return other

    @property
    def questions(self) -> Sequence[Question]:
        """As in the file: `Ask.question` is a place in it."""
        return self._questions

    def ask(self, number: int) -> Ask:
        """What request `number` asks, from 0. The same whenever and wherever it is called."""
        draw = self._draw(number)
        task = self._tasks[bisect(self._task_bounds, draw.task)]
        if task == "upload":
            return self._upload(number, draw)
        if task == "turn":
            return self._conversation(number, draw)
        return self._asking(number, task, self._popular.at(draw.question), draw)

    def _asking(self, number: int, task: Task, place: int, draw: _Draw, turns: tuple[Ask, ...] = ()) -> Ask:
        question = self._questions[place]
        cold = draw.cold < self._options.cold_share
        collections = self._options.cold_collections if cold else self._options.collections
        searched = task == "search"
        return Ask(
            number=number,
            task=task,
            text=f"{question.text} {self._salt(number)}" if searched and self._options.unique else question.text,
            question=place,
            max_tokens=None if searched else self._max_tokens(number, draw),
            collection=collections[int(draw.collection * len(collections))] if collections else None,
            cold_collection=cold,
            preface="" if searched else self._preface(number, place, draw),
            sources=question.sources,
            enough=question.enough,
            answers=question.answers,
            turns=turns,
        )

    def _conversation(self, number: int, draw: _Draw) -> Ask:
        """The question's own follow-ups, then other questions: each conversation has as many turns."""
        place = self._talks[self._popular_talks.at(draw.question)]
        own = self._questions[place].turns[: self._options.turns - 1]
        following = [self._follow_up(number, place, question, draw) for question in own]
        for turn in range(len(own) + 1, self._options.turns):
            other = self._popular.at(self._draw(number, turn).question)
            following.append(self._follow_up(number, other, self._questions[other], draw))
        return self._asking(number, "turn", place, draw, tuple(following))

    def _follow_up(self, number: int, place: int, question: Question, draw: _Draw) -> Ask:
        return Ask(
            number=number,
            task="turn",
            text=question.text,
            question=place,
            max_tokens=self._max_tokens(number, draw),
            sources=question.sources,
            enough=question.enough,
            answers=question.answers,
        )

    def _upload(self, number: int, draw: _Draw) -> Ask:
        name = f"{self._options.salt or self._options.seed}-{number}"
        text = f"{self._salt(number)} {self._filler.cut(self._document.at(draw.prompt), draw.place)}"
        return Ask(
            number=number, task="upload", text=text, collection=UPLOADS, uri=f"loadtest:{name}", title=f"Note {name}"
        )

    def _max_tokens(self, number: int, draw: _Draw) -> int:
        if self._trace and not self._options.answer_tokens:
            return self._trace[number % len(self._trace)][1]
        return self._answer.at(draw.answer)

    def _preface(self, number: int, place: int, draw: _Draw) -> str:
        """Makes up the length that is wanted; with `unique`, the salt is the very first of it.

        Prefix caches match from the start of the prompt: after the first difference nothing is served, before it all
        is. So the salt stands before everything that is alike, also before our server's own instructions, which come
        after the caller's system messages. Without `unique` a question has the same preface each time, so that a
        repeated question finds its prefix in the cache, as in real use. The question itself stays as it is: with the
        salt at its end, two of 40 questions about Kubernetes found their source no more.
        """
        unique = self._options.unique
        lead = f"{self._salt(number)} " if unique else ""
        steady = draw if unique else self._draw("question", self._questions[place].text)
        if self._prompt is not None:
            tokens = self._prompt.at(steady.prompt)
        elif self._trace:
            tokens = self._trace[number % len(self._trace)][0]
        else:
            return lead.rstrip()
        tokens -= len(self._questions[place].text) // _CHARACTERS + (_SALT_TOKENS if unique else 0)
        return (lead + self._filler.cut(tokens, steady.place)).rstrip()

    def _salt(self, number: int) -> str:
        key = f"{self._options.salt}:{self._options.seed}:{number}"
        return f"Reference {blake2b(key.encode(), digest_size=6).hexdigest()}."

    def _draw(self, *key: object) -> _Draw:
        """Independent numbers for whatever the key names: no state, so no order."""
        text = ":".join(map(str, (self._options.seed, *key)))
        numbers = unpack("7Q", blake2b(text.encode(), digest_size=56).digest())
        return _Draw._make([(number >> 11) * 2.0**-53 for number in numbers])


class _Draw(NamedTuple):
    """Numbers from 0 to 1, without the 1, one for each thing to be chosen."""

    task: float
    question: float
    cold: float
    collection: float
    prompt: float
    answer: float
    place: float


class _Popularity:
    """Zipf's law over so many things: the k-th most popular is chosen in proportion to 1 / k^exponent.

    Which ones are popular is a seeded shuffle: the order of a file means something else.
    """

    def __init__(self, size: int, exponent: float, seed: int) -> None:
        self._order = list(range(size))
        random.Random(f"{seed}:popularity").shuffle(self._order)
        self._shares = _shares([rank**-exponent for rank in range(1, size + 1)])

    def at(self, u: float) -> int:
        return self._order[bisect(self._shares, u)]


def _shares(weights: Sequence[float]) -> list[float]:
    """Bounds between things chosen by weight, for `bisect`: one less than there are things."""
    whole = sum(weights)
    return [bound / whole for bound in accumulate(weights[:-1])]


def mix(spec: str) -> Mapping[Task, float]:
    """Weights of tasks, of `stream=8,ask=1`. Raises ConfigurationError that names the option."""
    weights: dict[Task, float] = {}
    for part in spec.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        task = next((task for task in TASKS if task == name), None)
        if task is None:
            raise ConfigurationError(f"--mix {spec!r}: {name!r} is none of {', '.join(TASKS)}")
        if task in weights:
            raise ConfigurationError(f"--mix {spec!r}: {name} is given twice")
        try:
            weights[task] = float(weight) if equals else 1.0
        except ValueError as error:
            raise ConfigurationError(f"--mix {spec!r}: {weight!r} is no number; it should be stream=8,ask=1") from error
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigurationError(f"--mix {spec!r}: weights must be above 0, and finite")
    return weights


def _check(options: Options) -> None:
    if not 0 <= options.zipf <= _MOST_ZIPF:
        raise ConfigurationError(f"--zipf {options.zipf:g} should be from 0 (all alike) to {_MOST_ZIPF}")
    if not 1 <= options.turns <= _MOST_TURNS:
        raise ConfigurationError(f"--turns {options.turns} should be from 1 to {_MOST_TURNS}")
    if not 0 <= options.cold_share <= 1:
        raise ConfigurationError(f"--cold-share {options.cold_share:g} should be from 0 to 1")
    if bool(options.cold_share) != bool(options.cold_collections):
        raise ConfigurationError("--cold-share and --cold-collections belong together: one alone does nothing")
