"""Files become documents with title, text and metadata; what cannot be read says why."""

from __future__ import annotations

import os

import pytest

from ingestion.chunk import Chunker, Tokenizer
from ingestion.load import load
from serving.errors import DocumentError
from serving.index.types import Document
from tests.ingestion.pdf import make_pdf


def _load(name: str, content: str | bytes) -> Document:
    data = content.encode() if isinstance(content, str) else content
    return load("file:///docs/x", f"/docs/guide/{name}", data)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def test_front_matter_becomes_title_and_metadata() -> None:
    """Scalars and lists are kept, dates as ISO strings; nested values and NaN are not."""
    values = "title: Set *it* up\nweight: 10\ndraft: false\ndate: 2024-03-01\ntags: [a, 2]\nx: .nan\nn: {a: 1}"
    document = _load("a.md", f"---\n{values}\n---\n\nText.")
    assert (document.title, document.text.strip()) == ("Set it up", "Text.")
    own = {"format": "markdown", "path": "/docs/guide/a.md"}
    assert dict(document.metadata) == {"weight": 10, "draft": False, "date": "2024-03-01", "tags": ["a", 2]} | own


@pytest.mark.parametrize(("more", "text"), [("", ""), ("\ndescription: What is in here.", "What is in here.")])
def test_a_page_of_front_matter_alone_is_no_failure(more: str, text: str) -> None:
    """Sites have such pages for their folders; a description is their text."""
    document = _load("_index.md", f"---\ntitle: Folder{more}\n---\n\n<!-- overview -->\n")
    assert (document.title, document.text.strip()) == ("Folder", text)


def test_front_matter_may_be_toml() -> None:
    """Between plus signs, as Hugo writes it."""
    document = _load("a.md", '+++\ntitle = "From TOML"\nweight = 3\n+++\nText.')
    assert (document.title, document.metadata["weight"], document.text) == ("From TOML", 3, "Text.")


def test_broken_front_matter_still_gives_its_simple_lines() -> None:
    """A colon in an unquoted title breaks YAML, not the page."""
    document = _load("a.md", "---\ntitle: Note: this\nweight: 1\n---\nText.")
    assert (document.title, document.text) == ("Note: this", "Text.")


@pytest.mark.parametrize("page", ["---\n\nA line between rules.\n\n---\n\nMore.", "---\nnever closed\n\ntext", "+++\n"])
def test_what_is_no_front_matter_stays_text(page: str) -> None:
    """A rule at the top of a page is a rule."""
    assert _load("a.md", page).text == page


def test_a_page_without_anything_to_clean_is_left_as_it_is() -> None:
    """So that offsets count in the file itself."""
    page = "# Title\n\n\n\nText with `{{< note >}}`-less code.\n\n```html\n<!-- kept -->\n```\n"
    page = page.replace("{{< note >}}", "note")
    assert _load("a.md", page).text == page


@pytest.mark.parametrize(
    ("source", "cleaned"),
    [
        ('A {{< glossary_tooltip text="pod" term_id="x" >}} runs.', "A pod runs."),
        ('A {{< glossary_tooltip\nterm_id="replica-set" >}}.', "A replica set."),
        ("{{< note >}}\nTake care.\n{{< /note >}}", "\nTake care.\n"),
        ("{{%warning%}}Hot{{% /warning %}}", "Hot"),
        ('## {{% heading "prerequisites" %}}', "## Before you begin"),
        ('{{< codenew file="pods/a.yaml" >}}', "`pods/a.yaml`"),
        ('v{{< param "version" >}}', "v<version>"),
        ('{{% tab name="Linux" %}}\nrun\n{{% /tab %}}', "**Linux**\n\nrun\n"),
        ('{{< tab name="b" codelang="sh" >}}\n# x\n{{< /tab >}}', "**b**\n\n```sh\n# x\n```\n"),
        ("a{{< comment >}}secret{{< /comment >}}b", "ab"),
        ("a<!-- one\n\ntwo -->b", "ab"),
        ("a <!-- never closed", "a <!-- never closed"),
        ("`<!-- code -->` <!-- gone -->.", "`<!-- code -->` ."),
        ("## Title here {#anchor}", "## Title here"),
        ("{{</* note */>}}", "{{< note >}}"),
        ("{{ .Values.x }} {{< broken", "{{ .Values.x }} {{< broken"),
        ('```sh\ncurl {{< param "url" >}} # <!-- x -->\n```', "```sh\ncurl <url> # <!-- x -->\n```"),
    ],
)
def test_shortcodes_comments_and_anchors_are_cleaned(source: str, cleaned: str) -> None:
    """Tags go, the words for readers stay, code is left alone."""
    assert _load("a.md", f"First.\n\n{source}\n").text == f"First.\n\n{cleaned}\n".replace("\n\n\n", "\n\n")


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("a.md", "# The *first* [heading](x)\n\n# Second", "The first heading"),
        ("a.md", "```\n# not this\n```\n\nSetext\n======\n", "Setext"),
        ("getting-started.md", "No heading.", "Getting started"),
        ("_index.md", "No heading.", "Guide"),
        ("README.txt", "No heading.", "Guide"),
        ("4983.txt", "What it is about.\nMore.", "What it is about."),
        ("MED-1004.txt", "What it is about.", "What it is about."),
    ],
)
def test_title_is_the_best_there_is(name: str, content: str, title: str) -> None:
    """The first heading, else the file's name made readable, else the first line."""
    assert _load(name, content).title == title


# -- HTML --------------------------------------------------------------------------------------------------------------

_PAGE = """<html><head><title>Backup guide | Acme</title><meta name="description" content="How to back up"></head><body>
<nav><a href="/">Home</a> <a href="/p">Products</a></nav><main><h1>Backup guide</h1>
<p>Use <code>pg_dump</code> to take a backup of the database every night. It is important &mdash; really.</p>
<h2>Restore</h2><p>Run the command below, carefully, as it overwrites everything that you have in there.</p>
<pre><code>pg_restore -d app dump.sql</code></pre></main>
<script>var x = 1</script><footer>Copyright Acme</footer></body></html>"""


def test_html_gives_main_content_as_markdown() -> None:
    """Headings and code stay, menus, scripts and footers go."""
    document = _load("page.html", _PAGE)
    assert document.title.startswith("Backup guide")
    assert "## Restore" in document.text
    assert "It is important — really." in document.text
    assert "pg_restore -d app dump.sql" in document.text
    assert not any(word in document.text for word in ("Products", "Copyright", "var x"))
    assert document.metadata["description"] == "How to back up"


@pytest.mark.parametrize(
    ("html", "text"),
    [("<p>hi there</p>", "hi there"), ("<title>T</title><h2>One</h2>two<script>no</script>", "## One\n\ntwo")],
)
def test_small_html_keeps_its_text(html: str, text: str) -> None:
    """A page too small to have a main content is taken whole."""
    assert _load("page.html", html).text == text


def test_html_nested_without_end_keeps_its_text() -> None:
    """Depth is no reason to fail, let alone to take the run down."""
    document = _load("deep.html", "<div>" * 100_000 + "deep words" + "</div>" * 100_000)
    assert document.text == "deep words"


def test_html_says_its_own_encoding() -> None:
    """By its meta tag."""
    page = '<meta charset="windows-1251"><p>Привет, мир</p>'.encode("windows-1251")
    assert _load("page.html", page).text == "Привет, мир"


# -- PDF ---------------------------------------------------------------------------------------------------------------


def test_pdf_gives_text_pages_and_title(tokenizer: Tokenizer) -> None:
    """Chunks know the pages they begin and end on."""
    document = _load("a.pdf", make_pdf(["First page here.", "", "Third page here."], title="The report"))
    assert (document.title, document.metadata["pages"]) == ("The report", 3)
    chunker = Chunker(tokenizer, chunk_tokens=200, tenant="t", collection="c")
    (whole,) = chunker.chunk(document)
    assert (whole.metadata["page"], whole.metadata["page_end"]) == (1, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (make_pdf([""]), "no text layer"),
        (make_pdf(["Secret"], encrypted=True), "encrypted"),
        (b"%PDF-1.4\nbroken beyond repair", "broken PDF"),
        (b"PK\x03\x04 something else", "not a PDF"),
    ],
    ids=["scanned", "encrypted", "broken", "other"],
)
def test_pdf_that_cannot_be_read_says_why(content: bytes, reason: str) -> None:
    """A scanned, encrypted, broken or false PDF fails alone."""
    with pytest.raises(DocumentError, match=reason):
        _load("a.pdf", content)


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "naïve café".encode("utf-8-sig"),
        "naïve café".encode("utf-16"),
        ("naïve café: « Les élèves où ça gêne », répète la fille aînée, près de la forêt. " * 8).encode("cp1252"),
        ("naïve café " * 20).encode() + b"\xff",
    ],
    ids=["bom", "utf-16", "cp1252", "one broken byte"],
)
def test_text_in_any_encoding(data: bytes) -> None:
    """Marks, guesses, and UTF-8 that has a broken byte."""
    assert _load("a.txt", data).text.startswith("naïve café")


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf\n"])
def test_empty_files_fail(data: bytes) -> None:
    """White space or a mark alone is nothing to ask about."""
    with pytest.raises(DocumentError, match="empty"):
        _load("a.md", data)


@pytest.mark.parametrize("data", [os.urandom(4096), b"\x7fELF\x02\x01\x01" + bytes(2000), b"\x00\x01" * 500])
def test_binary_data_is_not_text(data: bytes) -> None:
    """Whatever its name says."""
    with pytest.raises(DocumentError, match="not text"):
        _load("a.md", data)


# -- title and metadata ------------------------------------------------------------------------------------------------


def test_what_the_source_says_wins_over_the_file() -> None:
    """Title and metadata; but what a document is, its content says."""
    data = b"---\ntitle: Own\nauthor: Ann\nweight: 1\n---\nText."
    given = {"author": "Bob", "tags": ["x", {"nested": 1}], "format": "pdf", "path": "kept/a.md", "huge": "x" * 10_000}
    document = load("u", "a.md", data, title="Given", metadata=given)
    assert document.title == "Given"
    assert document.metadata["huge"] == "x" * 1024
    known = {"author": "Bob", "weight": 1, "tags": ["x"], "format": "markdown", "path": "kept/a.md"}
    assert {key: value for key, value in document.metadata.items() if key != "huge"} == known


def test_a_title_from_the_name_is_not_embedded(tokenizer: Tokenizer) -> None:
    """A renamed file keeps its vectors, while words search finds the new name."""
    chunker = Chunker(tokenizer, chunk_tokens=200, tenant="t", collection="c")
    (old,) = chunker.chunk(load("u", "old-name.txt", b"The text."))
    (new,) = chunker.chunk(load("u", "new-name.txt", b"The text."))
    (own,) = chunker.chunk(load("u", "name.md", b"---\ntitle: Own\n---\nThe text."))
    assert old.embedded_text() == new.embedded_text() == "The text."
    assert (old.context(), new.context()) == ("Old name\nThe text.", "New name\nThe text.")
    assert own.embedded_text() == own.context() == "Own\nThe text."


@pytest.mark.parametrize(
    ("name", "format", "data", "loaded"),
    [
        ("report.txt", None, make_pdf(["Words on a page"]), "pdf"),
        ("page.md", None, b"<!DOCTYPE html><html><body><p>Words</p></body></html>", "html"),
        ("page.md", ".md", b"<html><p>Words</p></html>", "markdown"),
        ("a/page", ".html", b"<p>Words</p>", "html"),
        ("Dockerfile", None, b"FROM scratch", "code"),
        ("docs/LICENSE", None, b"You may.", "text"),
    ],
)
def test_a_name_may_lie_or_say_nothing(name: str, format: str | None, data: bytes, loaded: str) -> None:
    """A clear mark in the content wins; else what the source says; else the name."""
    assert load("u", name, data, format=format).metadata["format"] == loaded


@pytest.mark.parametrize("name", ["a.exe", "noname", "a.md.bak"])
def test_unknown_kinds_are_refused(name: str) -> None:
    """With the kind in the reason."""
    with pytest.raises(DocumentError, match="not supported"):
        load("u", name, b"text")
