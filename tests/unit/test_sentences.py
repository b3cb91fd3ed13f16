"""Sentence and block boundaries in Markdown."""

from __future__ import annotations

import pytest

from serving.sentences import blocks, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "Use e.g. Ray 2.60.0, i.e. a new one. It costs 3.5 GB.",
            ["Use e.g. Ray 2.60.0, i.e. a new one.", "It costs 3.5 GB."],
        ),
        (
            "See J. Smith et al. for more, etc. in v1.2. Next one.",
            ["See J. Smith et al. for more, etc. in v1.2.", "Next one."],
        ),
        ("Run kubectl. kubectl is a tool.", ["Run kubectl.", "kubectl is a tool."]),
        (
            'Yahoo! is old. "Quoted." (Done.) **Bold.** Go',
            ["Yahoo! is old.", '"Quoted."', "(Done.)", "**Bold.**", "Go"],
        ),
        ("It works. [1] So does this [2]. End", ["It works. [1]", "So does this [2].", "End"]),
        ("It is\nwrapped. Over\nlines.", ["It is\nwrapped.", "Over\nlines."]),
        ("# Head\ntext. More\n\n- a b. c\n- d\n1. e", ["# Head", "text.", "More", "- a b.", "c", "- d", "1. e"]),
        ("Run:\n```sh\na. b\n\nc\n```\nAfter.", ["Run:", "```sh\na. b\n\nc\n```", "After."]),
        ("| a | b |\n|---|---|\n| c. D | e |", ["| a | b |", "|---|---|", "| c. D | e |"]),
        ("A | B\n--|:-:\nc. D | e\n\nf | g", ["A | B", "--|:-:", "c. D | e", "f | g"]),
        ("これは文です。次の文。", ["これは文です。", "次の文。"]),
        ("", []),
        ("  \n\n ", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    """Abbreviations, versions, decimals, lists, code, tables and markers."""
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_an_unclosed_fence_is_code_to_the_end() -> None:
    """A passage may have been cut inside a code block."""
    text = "Do:\n~~~\nx\n```\ny"
    assert [(b.kind, text[b.start : b.end]) for b in blocks(text)] == [("text", "Do:"), ("code", "~~~\nx\n```\ny")]


def test_list_items_keep_their_wrapped_lines() -> None:
    """A line below an item belongs to it."""
    assert [b.kind for b in blocks("- a\n  b\n- c\n\npara")] == ["item", "item", "text"]
