"""Chunks are exact pieces of their document, within the model's limit, along its structure."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestion.chunk import Chunker, Tokenizer
from serving.index.types import Chunk, Document

LIMIT = 32
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_markup = st.sampled_from(
    [
        "# ",
        "## ",
        "### ",
        "\n",
        "\n\n",
        "```\n",
        "~~~",
        "- ",
        "1. ",
        "> ",
        "|a|b|\n|-|-|\n",
        "    ",
        "\t",
        "\r\n",
        "\r",
        "$",
    ]
)
_words = st.text(st.characters(codec="utf-8"), max_size=12)
_sentences = st.sampled_from(
    ["The quick brown fox. ", "kubectl get pods -n kube-system\n", "字" * 20, "x" * 300, "é😀 "]
)
_texts = st.lists(st.one_of(_markup, _words, _sentences), max_size=80).map("".join)
_titles = st.one_of(st.just("A title"), _words, st.just("long words " * 60), st.just("字" * 200))


def _chunker(tokenizer: Tokenizer, tokens: int = LIMIT) -> Chunker:
    return Chunker(tokenizer, chunk_tokens=tokens, tenant="default", collection="c")


def _chunks(
    tokenizer: Tokenizer, text: str, *, format: str = "markdown", title: str = "T", tokens: int = 200
) -> list[Chunk]:
    return _chunker(tokenizer, tokens).chunk(Document("file:///d.md", title, text, {"format": format}))


_formats = st.sampled_from(["markdown", "text", "code", "csv", "pdf"])


@st.composite
def _documents(draw: st.DrawFn) -> Document:
    """Any text, as any format might have loaded it: with sections, counted lines, pages, a title from a name."""
    text = draw(_texts)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    paths = st.lists(
        st.one_of(st.just("Part"), _words, st.just("a long heading " * 20)),
        max_size=4,
    )
    marks = {
        "section": [[place, draw(paths)] for place in places],
        "line": [[0, 1]],
        "page": [[place, number] for number, place in enumerate(places, start=1)],
    }
    metadata = {
        "format": draw(_formats),
        "_marks": {key: marks[key] for key in draw(st.sets(st.sampled_from([*marks])))},
    }
    if draw(st.booleans()):
        metadata["title_from"] = "name"
    return Document("file:///d", draw(_titles), text, metadata)


@SLOW
@given(document=_documents())
def test_chunks_are_exact_pieces_and_lose_nothing_but_white_space(tokenizer: Tokenizer, document: Document) -> None:
    """Offsets are exact, chunks are in order, and what lies between them is white space."""
    position, text = 0, document.text
    for ordinal, chunk in enumerate(_chunker(tokenizer).chunk(document)):
        assert chunk.ordinal == ordinal
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert not text[position : chunk.start].strip()
        position = chunk.end
        if "line" in chunk.metadata:
            assert chunk.metadata["line"] == 1 + text.count("\n", 0, chunk.start)
    assert not text[position:].strip()


@SLOW
@given(document=_documents())
def test_every_limit_is_kept(tokenizer: Tokenizer, document: Document) -> None:
    """A chunk's text keeps the chunk limit; with title and headings, embedded or searched, the model's."""
    chunks = _chunker(tokenizer).chunk(document)
    assert all(count <= LIMIT for count in tokenizer.count([chunk.text for chunk in chunks]))
    assert all(count <= tokenizer.max_tokens for count in tokenizer.count([chunk.context() for chunk in chunks]))
    assert all(count <= tokenizer.max_tokens for count in tokenizer.count([chunk.embedded_text() for chunk in chunks]))
    assert all(len(chunk.text.encode()) <= 65_535 for chunk in chunks)


@SLOW
@given(text=_texts)
def test_ids_are_distinct_and_the_same_every_time(tokenizer: Tokenizer, text: str) -> None:
    """Equal texts within a document get different ids; the same document gets the same ones."""
    ids = [chunk.id for chunk in _chunks(tokenizer, text, tokens=LIMIT)]
    assert len(set(ids)) == len(ids)
    assert ids == [chunk.id for chunk in _chunks(tokenizer, text, tokens=LIMIT)]


def test_headings_above_a_chunk_are_its_path(tokenizer: Tokenizer) -> None:
    """The path is outermost first, without markup, and ends with the chunk's own heading."""
    body = "Some words that say something about this section, and then some more of them. " * 8
    text = f"# Guide\n\n{body}\n\n## Set *up* `now`\n\n{body}\n\n### [Linux](http://x)\n\n{body}\n\n## Use\n\n{body}"
    paths = [chunk.heading for chunk in _chunks(tokenizer, text)]
    assert paths == [("Guide",), ("Guide", "Set up now"), ("Guide", "Set up now", "Linux"), ("Guide", "Use")]


def test_a_hash_in_a_code_block_or_in_plain_text_is_no_heading(tokenizer: Tokenizer) -> None:
    """Only Markdown has headings, and only outside of code."""
    assert [c.heading for c in _chunks(tokenizer, "## A\n\n```sh\n# comment\nls\n```\n")] == [("A",)]
    assert [c.heading for c in _chunks(tokenizer, "# not a heading\nls\n", format="text")] == [()]


@pytest.mark.parametrize(
    "block",
    [
        "```python\n" + "value = compute(1)\n\n" * 15 + "```",
        "| name | meaning |\n|---|---|\n" + "| port | where it listens |\n" * 15,
    ],
    ids=["code", "table"],
)
def test_code_blocks_and_tables_that_fit_are_not_cut(tokenizer: Tokenizer, block: str) -> None:
    """However the text around them is divided."""
    words = "A sentence that fills the page with words of no importance. " * 12
    chunks = _chunks(tokenizer, f"{words}\n\n{block}\n\n{words}\n\n{block}\n\n{words}")
    assert sum(block.strip() in chunk.text for chunk in chunks) == 2


def test_a_list_that_is_too_long_is_cut_between_its_items(tokenizer: Tokenizer) -> None:
    """No item is torn apart while items alone fit."""
    items = [f"- Item {i} says something about subject number {i}, in one sentence.\n" for i in range(60)]
    chunks = _chunks(tokenizer, "".join(items))
    assert len(chunks) > 3
    assert all(chunk.text.startswith("- Item") and chunk.text.endswith("sentence.") for chunk in chunks)


def test_sections_of_a_few_words_share_a_chunk(tokenizer: Tokenizer) -> None:
    """Ten tokens are too little to answer from."""
    text = "# Words\n\n" + "".join(f"## Word {i}\n\nIts meaning is {i}.\n\n" for i in range(40))
    counts = tokenizer.count([chunk.text for chunk in _chunks(tokenizer, text)])
    assert min(counts) >= 50


def test_parts_of_a_long_section_are_about_equal(tokenizer: Tokenizer) -> None:
    """A section slightly over the limit is halved, not cut into a whole chunk and a rest."""
    text = "\n\n".join("A paragraph of about a dozen words that says next to nothing." for _ in range(18))
    counts = tokenizer.count([chunk.text for chunk in _chunks(tokenizer, text)])
    assert len(counts) == 2
    assert max(counts) < 1.5 * min(counts)


def test_long_headings_give_way_to_the_text(tokenizer: Tokenizer) -> None:
    """The innermost heading is kept longest, and the text is never shortened."""
    outer, inner = "Outer words that go on " * 8, "The inner heading"
    body = "The text that matters most of all is right here in this paragraph. " * 10
    (chunk,) = _chunks(tokenizer, f"# {outer}\n\n## {inner}\n\n{body}", title="A title of many words " * 20)
    assert chunk.heading == (inner,)
    assert chunk.text.endswith("paragraph.")


def test_headings_that_only_the_embedded_text_has_are_counted(tokenizer: Tokenizer) -> None:
    """A heading equal to the title stands once in what is searched, but each time in what is embedded."""
    title = "A title that goes on and on " * 5
    marks = {"section": [[0, [title.strip()] * 8]]}
    metadata = {"format": "text", "title_from": "name", "_marks": marks}
    (chunk,) = _chunker(tokenizer).chunk(Document("file:///d", title.strip(), "The text.", metadata))
    assert max(tokenizer.count([chunk.context(), chunk.embedded_text()])) <= tokenizer.max_tokens


def test_pages_of_a_pdf_are_told_per_chunk(tokenizer: Tokenizer) -> None:
    """The page is where the chunk begins; the map itself is not stored with every chunk."""
    pages = ["First page words. " * 60, "Second page words. " * 60]
    starts = [0, len(pages[0]) + 2]
    metadata = {"format": "pdf", "_marks": {"page": [[starts[0], 1], [starts[1], 2]]}, "pages": 2}
    chunks = _chunker(tokenizer, 200).chunk(Document("file:///d.pdf", "T", "\n\n".join(pages), metadata))
    assert [chunk.metadata["page"] for chunk in chunks] == [1 if c.start < starts[1] else 2 for c in chunks]
    assert {chunk.metadata["page"] for chunk in chunks} == {1, 2}
    spanning = [c for c in chunks if c.start < starts[1] < c.end]
    assert [c.metadata.get("page_end") for c in chunks] == [2 if c in spanning else None for c in chunks]
    assert "_marks" not in chunks[0].metadata


@pytest.mark.parametrize("text", ["word " * 100_000, "x" * 1_000_000, "." * 60_000], ids=["words", "letters", "dots"])
def test_one_huge_line_is_cut_to_size(tokenizer: Tokenizer, text: str) -> None:
    """Work grows with the length and not faster; an endless word has a limit in characters."""
    chunks = _chunks(tokenizer, text)
    assert max(len(chunk.text) for chunk in chunks) <= 3_200
    assert sum(len(chunk.text.replace(" ", "")) for chunk in chunks) == len(text.replace(" ", ""))
