"""How good an answer is, judged by what our server really sends, and by what other servers may send instead."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.quality import Quality, contains, is_source, judge
from loadtest.question_check import wrong
from loadtest.question_file import HANDBOOK, read_questions
from loadtest.workload import Ask
from serving.answer import Citation
from serving.api.replies import annotation_of, passage_of
from serving.index.types import Passage

ROOT = Path(__file__).parents[2]
README = HANDBOOK.parent / "README.md"
TEXT = "A chunk has 200 tokens [1]. The queue holds 256 requests [2]."


def passage(uri: str, title: str = "") -> dict[str, Any]:
    return passage_of(Passage("c", uri, title, text="…", start=0, end=1, heading=(), ordinal=0, score=0.5))


PASSAGES = [
    passage("file:///docs/guide/chunks.md", "Chunks"),
    passage("file:///docs/guide/limits.md", "Limits"),
    passage("file:///docs/guide/limits.md", "Limits"),
]


def cite(number: int = 1, start: int = 0, end: int = 27, uri: str = "file:///docs/guide/chunks.md") -> dict[str, Any]:
    return annotation_of(Citation(number, start, end, uri, "", "c"))


def ask(**known: Any) -> Ask:
    return Ask(0, "stream", "?", **{"enough": len(known.get("sources", ())), **known})


def test_an_answer_of_our_server_is_judged_whole() -> None:
    """Sources among the passages, the answer in the text, citations that hold."""
    known = ask(sources=("chunks.md", "guide/limits.md"), answers=("200 tokens",))
    citations = [cite(), cite(2, 28, 60, "file:///docs/guide/limits.md")]
    assert judge(known, TEXT, citations, PASSAGES) == Quality(1.0, True, 2, 1.0)


@pytest.mark.parametrize(
    ("sources", "enough", "recall"),
    [
        (("chunks.md",), 1, 1.0),
        (("chunks.md", "absent.md"), 2, 0.5),
        (("chunks.md", "absent.md"), 1, 1.0),
        (("absent.md", "missing.md"), 1, 0.0),
        (("chunks.md", "limits.md", "absent.md", "missing.md"), 3, 2 / 3),
        (("limits.md", "absent.md"), 2, 0.5),  # two passages of one document count once
        ((), 0, None),
    ],
)
def test_recall_is_the_share_of_the_sources_that_are_enough(
    sources: tuple[str, ...], enough: int, recall: float | None
) -> None:
    """Of what is known; without known sources it is not judged."""
    assert judge(ask(sources=sources, enough=enough), "", [], PASSAGES).source_recall == recall


@pytest.mark.parametrize(
    ("source", "uri", "matches"),
    [
        ("pod.md", "file:///k8s/concepts/pod.md", True),
        ("concepts/pod.md", "file:///k8s/concepts/pod.md", True),
        ("tasks/pod.md", "file:///k8s/concepts/pod.md", False),
        ("pod.md", "file:///k8s/concepts/my-pod.md", False),
        ("Pod.MD", "file:///k8s/concepts/pod.md", True),
        ("docs/pod", "https://site.example/docs/pod/?lang=en#start", True),
        ("a page.md", "https://site.example/a%20page.md", True),
        ("concepts\\pod.md", "concepts/pod.md", True),
        ("note:1", "note:1", True),
        ("Title of the page", "Title of the page", True),
        ("", "anything.md", False),
        ("/", "anything.md", False),
    ],
)
def test_a_source_is_the_end_of_a_uri_or_a_title(source: str, uri: str, matches: bool) -> None:
    """In whole parts of the path."""
    assert is_source(source, {"uri": uri, "title": ""}) == matches
    assert is_source(source, {"uri": "other", "title": uri}) == matches


@pytest.mark.parametrize(
    ("text", "answer", "matches"),
    [
        ("It may have **64MiB**.", "64 MiB", True),
        ("It may have 64 mib!", "64 MiB", True),
        ("up to 16,384 tokens", "16384", True),
        ("up to 16\u00a0384 tokens", "16384", True),
        ("in 2024 300 people", "2024300", False),
        ("a score of 0.2", "0.2", True),
        ("a score of 0.2", "2", False),
        ("a score of 0.25", "0.2", False),
        ("eighty: 80", "8", False),
        ("as it says [8]", "8", False),
        ("as it says [1, 8].", "8", False),
        ("exit code -1", "1", False),
        ("exit code \u22121", "-1", True),
        ("from 32-256", "256", True),
        ("95%", "95 percent", True),
        ("95", "95 %", False),
        ("set `ANCHORAGE_API__KEYS_FILE`", "ANCHORAGE_API__KEYS_FILE", True),
        ("It isn’t   logged", "it isn't logged", True),
        ("take\nturns", "take turns", True),
        ("ｆｕｌｌ ﬁle", "full file", True),
        ("co\u00adoperate", "cooperate", True),
        ("Cafe\u0301", "caf\u00e9", True),
        ("restarted", "restart", False),
        ("終了は30秒です", "30秒", True),
        ("", "anything", False),
        ("anything", "?!", False),
    ],
)
def test_answers_match_whatever_their_spelling(text: str, answer: str, matches: bool) -> None:
    """But only whole words and numbers."""
    assert contains(text, [answer]) == matches
    assert judge(ask(answers=("no such thing", answer)), text, [], []).answer_match == matches


@pytest.mark.parametrize(
    ("citation", "valid"),
    [
        (cite(), 1.0),
        (cite(end=len(TEXT)), 1.0),
        (cite(end=len(TEXT) + 1), 0.0),
        (cite(start=5, end=5), 0.0),
        (cite(start=9, end=5), 0.0),
        (cite(start=-3), 0.0),
        (cite(start=7, end=8), 0.0),  # a blank
        (cite(number=2), 0.0),  # the number of another passage than the uri's
        (cite(number=4), 0.0),
        (cite(number=0), 0.0),
        (cite(uri="file:///docs/guide/other.md"), 0.0),
        ({"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 5, "url": PASSAGES[1]["uri"]}}, 1.0),
        (
            {"type": "url_citation", "url_citation": {"start_index": "0", "end_index": 5, "url": PASSAGES[1]["uri"]}},
            0.0,
        ),
        ({"type": "url_citation"}, 0.0),
        ({"type": "url_citation", "url_citation": None}, 0.0),
    ],
)
def test_a_citation_must_mark_some_text_and_name_its_passage(citation: dict[str, Any], valid: float) -> None:
    """One that does not counts, as an invalid one."""
    assert judge(ask(), TEXT, [citation], PASSAGES) == Quality(None, None, 1, valid)
    assert judge(ask(), TEXT, [cite(), citation], PASSAGES).citations_valid == (1 + valid) / 2


def test_what_is_no_citation_does_not_count() -> None:
    """Other annotations, and whatever else a server may put there."""
    assert judge(ask(), TEXT, [{"type": "file_path"}, None, 3, "x"], PASSAGES) == Quality(None, None, 0, None)


def test_no_passages_are_a_recall_of_nothing() -> None:
    """The server looked, and found nothing."""
    assert judge(ask(sources=("chunks.md",), answers=("200",)), "None.", [], []) == Quality(0.0, False, 0, None)


def test_a_server_that_does_not_say_what_it_retrieved_is_judged_by_its_text_alone() -> None:
    """Whatever it cites cannot be checked."""
    known = ask(sources=("chunks.md",), answers=("200 tokens",))
    assert judge(known, TEXT, [cite()], None) == Quality(None, True, None, None)


def test_searches_are_judged_by_their_sources_and_uploads_not_at_all() -> None:
    """They have no answer."""
    known: dict[str, Any] = {"sources": ("chunks.md",), "enough": 1, "answers": ("200",)}
    assert judge(Ask(0, "search", "?", **known), "", [], PASSAGES) == Quality(1.0)
    assert judge(Ask(0, "upload", "text"), "", [], []) == Quality()


@pytest.mark.parametrize("passages", [[None, 3, {}], [{"uri": 3, "title": None}], [{"uri": None}]])
def test_passages_of_any_shape_do_no_harm(passages: list[Any]) -> None:
    """A load tester outlives a broken server."""
    assert judge(ask(sources=("a.md",)), TEXT, [cite()], passages) == Quality(0.0, None, 1, 0.0)


def test_every_shipped_question_is_answered_by_its_sources() -> None:
    """Each source is a page of the handbook, and one of the known answers stands in it."""
    questions = read_questions(HANDBOOK)
    assert list(wrong(questions, ROOT / "serving" / "handbook")) == []
    everything = [one for question in questions for one in (question, *question.turns)]
    assert all(one.sources and one.answers for one in everything)
    pages = {page.name for page in (ROOT / "serving" / "handbook").glob("*.md")}
    assert len({source for one in everything for source in one.sources} & pages) >= 20


def test_a_misspelt_source_and_a_wrong_answer_are_found(tmp_path: Path) -> None:
    """Also of follow-ups; files that are no text are taken to hold the answer."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("The ferry leaves at noon.", "utf-8")
    (tmp_path / "docs" / "b.pdf").write_bytes(b"%PDF\xff\xfe")
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"question": "When?", "sources": ["a.md"], "answers": ["at NOON"], "turns": '
        '[{"question": "And back?", "sources": ["a.md"], "answers": ["at six"]}]}\n'
        '{"question": "Where?", "sources": ["aa.md"], "answers": ["here"]}\n'
        '{"question": "Who?", "sources": ["b.pdf"], "answers": ["me"]}\n'
    )
    assert list(wrong(read_questions(file), tmp_path / "docs")) == [
        "And back?: none of its answers stands in a.md",
        "Where?: there is no aa.md",
    ]


def console(text: str) -> list[str]:
    """The commands of a page, with the lines that go on."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        command.replace("\n> ", "\n") for block in blocks for command in re.findall(r"^\$ (.*(?:\n> .*)*)", block, re.M)
    ]


def test_the_page_on_questions_tells_commands_that_work(tmp_path: Path) -> None:
    """From logs to a file that is checked; those that need a server are run elsewhere."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "docs").mkdir()
    (tmp_path / "asked.txt").write_text('Wann fährt die "Fähre"?\n\nwhen\n', "utf-8")
    (tmp_path / "requests.jsonl").write_text('{"messages": [{"role": "user", "content": "When?"}]}\n' * 2, "utf-8")
    asked: list[list[str]] = []
    commands = [command for command in console(README.read_text("utf-8")) if "localhost" not in command]
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        asked.append([question.text for question in read_questions(tmp_path / "my-questions.jsonl")])
    assert asked == [['Wann fährt die "Fähre"?', "when"], ["When?", "When?"], ["When?"], ["When?"]]


def test_the_format_on_the_page_is_what_is_read(tmp_path: Path) -> None:
    """Its example has every field."""
    (example,) = re.findall(r"^```json\n(.*?)\n```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.jsonl").write_text(example, "utf-8")
    (question,) = read_questions(tmp_path / "example.jsonl")
    assert (question.enough, len(question.sources), len(question.turns)) == (1, 2, 1)
    assert list(wrong([question], ROOT / "serving" / "handbook")) == []
