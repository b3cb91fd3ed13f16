"""Markers in a streamed answer become checked citations, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.answer import AnswerEvent, Citation
from serving.citation import CitationFilter
from serving.generation import Done, Token, Usage
from serving.index.types import Passage


def passage(number: int, text: str) -> Passage:
    return Passage(f"c{number}", f"doc{number}.md", f"Title {number}", text, 0, len(text), (), 0, 0.7)


PASSAGES = (
    passage(1, "kubectl drain evicts all pods from the node. It waits 30 seconds by default."),
    passage(2, "A Deployment keeps a set of replica pods running. Rolling updates replace them one by one."),
    passage(3, "Sourdough bread needs flour, water, salt and a starter."),
)
DRAIN = "kubectl drain evicts pods from the node"


def run(pieces: list[str]) -> tuple[str, list[Citation]]:
    """The text that came through and its citations, for an answer that arrived in these pieces."""
    citations = CitationFilter(PASSAGES)
    events: list[AnswerEvent] = []
    for piece in pieces:
        events.extend(citations.batch([Token(piece)]))
    events.extend(citations.batch([Usage(1, len(pieces)), Done("stop")]))
    assert isinstance(events[-2], Usage)
    assert isinstance(events[-1], Done)
    found = [event for event in events if isinstance(event, Citation)]
    assert citations.cited == len(found)
    return "".join(event.text for event in events if isinstance(event, Token)), found


CASES = [
    # answer, text let through, [(number, cited span)]
    (f"{DRAIN} [1].", f"{DRAIN} [1].", [(1, f"{DRAIN} [1]")]),
    (f"{DRAIN}. [1]", f"{DRAIN}. [1]", [(1, f"{DRAIN}. [1]")]),
    (f"{DRAIN}[1].", f"{DRAIN}[1].", [(1, f"{DRAIN}[1]")]),
    (f"{DRAIN}【1】.", f"{DRAIN}【1】.", [(1, f"{DRAIN}【1】")]),
    (f"{DRAIN} [1][3].", f"{DRAIN} [1].", [(1, f"{DRAIN} [1]")]),
    (f"{DRAIN} [1, 2, 9].", f"{DRAIN} [1].", [(1, f"{DRAIN} [1]")]),
    (f"{DRAIN} [9].", f"{DRAIN}.", []),
    (f"{DRAIN} [0] now.", f"{DRAIN} now.", []),
    (f"{DRAIN} [3].", f"{DRAIN}.", []),
    ("It waits 45 seconds [1].", "It waits 45 seconds.", []),
    ("It waits 30 seconds [1].", "It waits 30 seconds [1].", [(1, "It waits 30 seconds [1]")]),
    ("[1] is first.", "is first.", []),
    (
        f"Hello there. {DRAIN} [1], and rolling updates replace replica pods [2].",
        f"Hello there. {DRAIN} [1], and rolling updates replace replica pods [2].",
        [(1, f"{DRAIN} [1]"), (2, f"{DRAIN} [1], and rolling updates replace replica pods [2]")],
    ),
    (f"- {DRAIN} [1]\n- {DRAIN} [2]\n", f"- {DRAIN} [1]\n- {DRAIN}\n", [(1, f"- {DRAIN} [1]")]),
    (f"{DRAIN}, see [1](https://a.b/c).", f"{DRAIN}, see [1](https://a.b/c).", []),
    ("[1]: https://a.b/c", "[1]: https://a.b/c", []),
    ("Take items[0], x.y[1] and my_list[1].", "Take items[0], x.y[1] and my_list[1].", []),
    (f"{DRAIN} with `pods[1]`.", f"{DRAIN} with `pods[1]`.", []),
    (f"{DRAIN}:\n```sh\nkubectl drain node [1]\n```\n", f"{DRAIN}:\n```sh\nkubectl drain node [1]\n```\n", []),
    ("- [x] done, [ ] open, [a][b], [12 pods]", "- [x] done, [ ] open, [a][b], [12 pods]", []),
    (f"{DRAIN} [1", f"{DRAIN} [1", []),
]


@pytest.mark.parametrize(("answer", "text", "cited"), CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_markers_are_checked_however_the_stream_is_cut(
    answer: str, text: str, cited: list[tuple[int, str]], size: int
) -> None:
    """Text and spans are the same for any cut of the stream; a blank sent early may stay before a dropped marker."""
    got, found = run([answer[at : at + size] for at in range(0, len(answer), size)])
    assert got.replace(" .", ".").replace(" \n", "\n") == text
    assert [(c.number, got[c.start_index : c.end_index]) for c in found] == cited


def test_a_citation_names_its_passage() -> None:
    """What a client needs to link to the source is in the event."""
    _, (citation,) = run([DRAIN, " [1]", "."])
    assert (citation.uri, citation.title, citation.chunk_id) == ("doc1.md", "Title 1", "c1")


def test_a_long_bracket_is_not_held_back() -> None:
    """Only what may still become a marker waits."""
    citations = CitationFilter(PASSAGES)
    assert citations.batch([Token("see [the")]) == [Token("see [the")]
    assert citations.batch([Token(" docs](x)")]) == [Token(" docs](x)")]
    assert citations.batch([Token(" then [")]) == [Token(" then")]
    assert citations.batch([Token("1")]) == []
    assert citations.batch([Token("st]")]) == [Token(" [1st]")]


def test_a_delta_is_never_lost() -> None:
    """Tool calls and logprobs travel on tokens whose text is held back."""
    citations = CitationFilter(PASSAGES)
    (event,) = citations.batch([Token("[", {"logprobs": 1})])
    assert event == Token("", {"logprobs": 1})


def test_a_batch_stays_one_batch_in_order() -> None:
    """One batch in, one batch out: tokens without brackets are the very same objects."""
    tokens = [Token("a"), Token(" b"), Token(" c")]
    out = CitationFilter(PASSAGES).batch(tokens)
    assert all(one is other for one, other in zip(out, tokens, strict=True))


@given(st.lists(st.text(alphabet="ab .[]()1,`\n【】", max_size=6), max_size=30))
def test_only_markers_are_ever_taken_out(pieces: list[str]) -> None:
    """Whatever comes, what goes out is what came in without some markers and blanks."""
    got, _ = run(pieces)
    rest = iter("".join(pieces))
    assert all(any(character == other for other in rest) for character in got)
    assert sum(c in "ab(`\n" for c in got) == sum(c in "ab(`\n" for c in "".join(pieces))


def test_an_answer_full_of_brackets_passes_whole() -> None:
    """Each bracket is decided as soon as the next character is there."""
    assert run(["["] * 5_000)[0] == "[" * 5_000
