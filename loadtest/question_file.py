"""Questions with what is known of their answers, from a file: JSON lines, one question each (see questions/README.md).

The only place that knows the format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import ConfigurationError

#: About the handbook that is shipped, which `anchorage demo` ingests.
HANDBOOK = Path(__file__).parent / "questions" / "handbook.jsonl"
_FIELDS = ("question", "sources", "enough", "answers", "turns")


@dataclass(frozen=True, slots=True)
class Question:
    """`sources`: ends of the uris of documents that answer it; `enough`: how many of them are. `answers`: spellings of
    the right answer, one of which a good answer contains. `turns`: what people ask next in the same conversation.
    """

    text: str
    sources: tuple[str, ...] = ()
    enough: int = 0
    answers: tuple[str, ...] = ()
    turns: tuple[Question, ...] = ()


def read_questions(path: Path) -> tuple[Question, ...]:
    """At least one. Raises ConfigurationError that names the file and the line."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # not splitlines: a text may hold other separators
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"questions {path} cannot be read: {error}") from error
    questions = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                questions.append(_question(json.loads(line)))
            except json.JSONDecodeError as error:
                raise ConfigurationError(f"questions {path}, line {number} is no JSON: {error}") from error
            except (ValueError, RecursionError) as error:
                raise ConfigurationError(f"questions {path}, line {number}: {error}") from error
    if not questions:
        raise ConfigurationError(f'questions {path}: there are none; each line is {{"question": "…"}}')
    return tuple(questions)


def _question(item: Any, *, first: bool = True) -> Question:
    """Raises ValueError."""
    if not isinstance(item, dict) or not _is_text(item.get("question")):
        raise ValueError('it should be an object with a text: {"question": "…"}')
    known = _FIELDS if first else _FIELDS[:-1]
    if strange := [name for name in item if name not in known]:
        raise ValueError(f"{', '.join(map(repr, strange))} not known here; there are {', '.join(known)}")
    sources = _texts(item, "sources")
    enough = item.get("enough", len(sources))
    if type(enough) is not int or not (1 <= enough <= len(sources) or enough == len(sources) == 0):
        raise ValueError(f"enough is {enough!r}: how many of the {len(sources)} sources are enough, from 1")
    turns = item.get("turns", [])
    if not isinstance(turns, list):
        raise ValueError("turns should be a list of what is asked next: texts, or objects like questions")
    follow_ups = (_question({"question": turn} if isinstance(turn, str) else turn, first=False) for turn in turns)
    return Question(item["question"].strip(), sources, enough, _texts(item, "answers"), tuple(follow_ups))


def _texts(item: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = item.get(name, [])
    if not isinstance(found, list) or not all(map(_is_text, found)):
        raise ValueError(f"{name} should be a list of texts")
    return tuple(found)


def _is_text(value: Any) -> bool:
    """Raises ValueError for half of a character, such as JSON's "\\ud800" alone, which nothing can send."""
    return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
