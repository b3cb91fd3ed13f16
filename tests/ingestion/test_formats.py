"""Office files, tables, books, mail, trees and code: readable text, with the place in the file for each chunk."""

from __future__ import annotations

from typing import Any

import pytest

from ingestion.chunk import Chunker, Tokenizer
from ingestion.load import SUFFIXES, load
from ingestion.load.formats import loader_for
from serving.errors import DocumentError
from serving.index.types import Chunk, Document
from tests.ingestion.office import WORDS, make_docx, make_epub, make_pptx, make_xlsx, make_zip


def _load(name: str, data: bytes | str) -> Document:
    return load("file:///d", f"/docs/{name}", data.encode() if isinstance(data, str) else data)


def _chunks(tokenizer: Tokenizer, document: Document, tokens: int = 16) -> list[Chunk]:
    return Chunker(tokenizer, chunk_tokens=tokens, tenant="t", collection="c").chunk(document)


def _places(chunks: list[Chunk], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(chunk.metadata.get(name) for name in names) for chunk in chunks]


# -- office ------------------------------------------------------------------------------------------------------------


def test_docx_keeps_headings_lists_and_tables() -> None:
    """As Markdown; the title is what is set as one."""
    document = _load("x.docx", make_docx())
    assert (document.title, document.metadata["author"]) == ("The manual", "Ann")
    assert document.text == (
        f"# The manual\n\n# Install\n\n{(WORDS * 3).strip()}\n\n- first\n    - inner\n1. step\n\n## Ports\n\n"
        "| Name | Port |\n| --- | --- |\n| web\\|tls | 443 |"
    )


def test_pptx_knows_its_slides(tokenizer: Tokenizer) -> None:
    """Titles are headings, notes belong to their slide."""
    document = _load("deck.pptx", make_pptx())
    assert document.text == f"## Hello\n\n{WORDS.strip()}\n\n## Plan\n\n- one\n- two\n\nNotes: Say it slowly"
    chunks = _chunks(tokenizer, document, tokens=30)
    assert [(chunk.heading, chunk.metadata["slide"]) for chunk in chunks] == [(("Hello",), 1), (("Plan",), 2)]


def test_every_row_of_a_workbook_has_its_headers(tokenizer: Tokenizer) -> None:
    """Sheets stay apart; row numbers and letters are those that the spreadsheet shows; what is hidden stays hidden."""
    document = _load("x.xlsx", make_xlsx())
    assert document.text.split("\n") == [
        "Everybody here",
        "Name: Person 0; Age: 20; Joined: 2024-03-01",
        "Name: Person 1; Age: 21",
        "Name: Person 2; Age: 22",
        "",
        "C: 1; D: 2.5",
        "C: yes",
    ]
    chunks = _chunks(tokenizer, document, tokens=200)
    assert _places(chunks, "sheet", "row", "row_end") == [("People", 1, 6), ("Numbers", 5, 6)]
    assert [chunk.heading for chunk in chunks] == [("People",), ("Numbers",)]


def test_long_tables_are_cut_between_rows(tokenizer: Tokenizer) -> None:
    """And every chunk says which rows it holds."""
    chunks = _chunks(tokenizer, _load("x.xlsx", make_xlsx(200)), tokens=64)
    rows = [chunk for chunk in chunks if chunk.metadata["sheet"] == "People"]
    assert len(rows) > 10
    assert all(line.startswith("Name: Person ") for chunk in rows[1:] for line in chunk.text.split("\n"))
    for chunk in rows[1:]:
        first = int(chunk.text.split("Person ")[1].split(";")[0])
        assert chunk.metadata["row"] == first + 4  # one line, one empty row, the header, and rows count from 1


def test_epub_follows_its_spine() -> None:
    """A page without a heading gets its title for one."""
    document = _load("book.epub", make_epub())
    assert (document.title, document.metadata["author"]) == ("The book", "Ann")
    assert document.text == f"# One\n\n{WORDS.strip()}\n\n# Two\n\n- x\n- y"


@pytest.mark.parametrize("name", ["x.docx", "x.pptx", "x.xlsx", "x.epub"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04 broken", "broken"),
        (b"plain words", "not (DOCX|PPTX|XLSX|EPUB): "),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted|broken"),
        (make_zip({"a/b.txt": "words"}), "broken"),
    ],
    ids=["broken", "text", "ole", "zip"],
)
def test_office_files_that_cannot_be_read_say_why(name: str, data: bytes, reason: str) -> None:
    """Broken, of another kind, protected, or an archive of something else."""
    with pytest.raises(DocumentError, match=reason):
        _load(name, data)


# -- tables and trees --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv", 'name,age\nAda,36\n"Bob, jr",5\n', "name: Ada; age: 36\nname: Bob, jr; age: 5"),
        ("a.csv", "name;age\nAda;36,5\nBob;5,1\n", "name: Ada; age: 36,5\nname: Bob; age: 5,1"),
        ("a.csv", "1,2\n3,4\n", "A: 1; B: 2\nA: 3; B: 4"),
        ("a.csv", 'text,x\n"two\nlines"\nshort,1,extra\n', "text: two lines\ntext: short; x: 1; C: extra"),
        ("a.tsv", "k\tv\na\t1\n\nb\t2\n", "k: a; v: 1\nk: b; v: 2"),
        ("a.jsonl", '{"a": {"b": 1}, "c": "x\\ny"}\n\n{"a": null, "c": [1, 2]}\n', "a.b: 1; c: x y\nc: 1, 2"),
        (
            "a.json",
            '{"title": "T", "server": {"port": 80, "on": true, "x": [{"y": 1}, {"y": null}]}, "n": null}',
            "title: T\n\nserver.port: 80\nserver.on: true\nserver.x[0].y: 1",
        ),
        ("a.json", '[{"a": 1}, 2, "three"]', "[0].a: 1\n\n[1]: 2\n\n[2]: three"),
        (
            "a.xml",
            '<r xmlns="u"><title>T</title><i id="3"><n>x</n><p>some <b>bold</b> text</p></i></r>',
            "title: T\n\nn: x\np: some bold text\ni (id: 3)",
        ),
        ("a.xml", b'<?xml version="1.0" encoding="windows-1251"?><r>\xcf\xf0\xe8\xe2\xe5\xf2</r>', "r: Привет"),
    ],
)
def test_data_reads_as_names_with_values(name: str, data: str | bytes, text: str) -> None:
    """Whatever it was separated, nested or encoded by."""
    assert _load(name, data).text == text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.json", '{"a": ', "broken JSON"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("a.json", "{}", "no values"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2"),
        ("a.csv", " , \n , \n", "no values"),
        ("a.xml", "<a><b></a>", "broken XML"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "entities"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "entities"),
    ],
)
def test_data_that_cannot_be_read_says_why(name: str, data: str, reason: str) -> None:
    """With the line where there is one; an entity is never expanded, let alone fetched."""
    with pytest.raises(DocumentError, match=reason):
        _load(name, data)


def test_rows_of_tables_are_counted_as_their_editor_counts(tokenizer: Tokenizer) -> None:
    """The header is row 1 of a CSV; empty lines count."""
    rows = "".join(f"number {i},{i}\n" for i in range(50))
    chunks = _chunks(tokenizer, _load("a.csv", "name,value\n\n" + rows), tokens=32)
    assert chunks[0].metadata["row"] == 3
    assert chunks[-1].metadata["row_end"] == 52


# -- outlines, mail, code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.rst", "Guide\n=====\n\n{words}\n\nUse\n---\n\n{words}\n"),
        ("a.adoc", "= Guide\n\n{words}\n\n== Use\n\n{words}\n"),
        ("a.org", "* Guide\n\n{words}\n\n** TODO Use  :tag:\n\n{words}\n"),
    ],
)
def test_outlines_give_heading_paths(tokenizer: Tokenizer, name: str, text: str) -> None:
    """The text stays as it is."""
    source = text.replace("{words}", WORDS * 3)
    document = _load(name, source)
    assert (document.title, document.text) == ("Guide", source)
    assert [chunk.heading for chunk in _chunks(tokenizer, document, 64)] == [("Guide",), ("Guide", "Use")]


def test_mail_has_its_subject_for_a_title() -> None:
    """Plain text is preferred, an attachment is named."""
    document = _load(
        "m.eml",
        "From: Ann <a@b.c>\nTo: d@e.f\nSubject: =?utf-8?q?Caf=C3=A9?=\nDate: Mon, 1 Jan 2024 10:00:00 +0100\n"
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/html\n\n'
        "<p>Hello <b>there</b></p>\n--b\nContent-Disposition: attachment; filename=a.pdf\n\nxx\n--b--\n",
    )
    assert document.title == "Café"
    assert document.text.endswith("\n\nHello there")
    assert document.metadata["author"] == "Ann <a@b.c>"
    assert document.metadata["date"] == "2024-01-01T10:00:00+01:00"
    assert document.metadata["attachments"] == ["a.pdf"]


_CODE = [
    ("a.py", "import x\n\n\n@once\nclass A:\n    def f(self):\n        return {v}\n", "A", "f"),
    ("a.ts", "import x from 'y'\n\nexport class A {\n  f(n: number) {\n    return {v}\n  }\n}\n", "A", "f"),
    ("a.jsx", "import x from 'y'\n\nclass A {\n  f() {\n    return <b>{v}</b>\n  }\n}\n", "A", "f"),
    ("a.java", "package p;\n\n@X\npublic class A {\n  // Doc\n  int f() {\n    return {v};\n  }\n}\n", "A", "f"),
    ("a.cs", "using System;\n\nclass A {\n  int F() {\n    return {v};\n  }\n}\n", "A", "F"),
    ("a.cpp", "#include <a>\n\nnamespace n {\n/* Doc */\nint *f(int a) {\n  return {v};\n}\n}\n", "n", "f"),
    ("a.rs", "use x;\n\nimpl A {\n    /// Doc\n    pub fn f() -> i32 {\n        {v}\n    }\n}\n", "A", "f"),
    ("a.rb", "require 'x'\n\nclass A\n  def f\n    {v}\n  end\nend\n", "A", "f"),
    ("a.php", "<?php\n\nclass A {\n  function f() {\n    return {v};\n  }\n}\n", "A", "f"),
    ("a.go", "package p\n\n// Doc\nfunc f(a int) int {\n\treturn {v}\n}\n", "f"),
    ("a.c", "#include <a.h>\n\nstatic int *f(int a)\n{\n  return {v};\n}\n", "f"),
    ("a.js", "import x from 'y'\n\nconst f = async (a) => {\n  return {v}\n}\n", "f"),
    ("a.sh", 'set -e\ncd "$HOME/somewhere/else"\n\n# Doc\nf() {\n  echo {v}\n}\n', "f"),
]


@pytest.mark.parametrize(("name", "code", "path"), [(name, code, path) for name, code, *path in _CODE])
def test_code_is_cut_along_its_definitions(tokenizer: Tokenizer, name: str, code: str, path: list[str]) -> None:
    """Each chunk has the names above it, its language and its lines."""
    source = "é = 1\n" * (name == "a.py") + code.replace("{v}", " + ".join(f"value{i}" for i in range(6)))
    document = _load(name, source)
    assert (document.text, document.title) == (source, name)
    chunks = _chunks(tokenizer, document, tokens=32)
    inner = next(chunk for chunk in chunks if "value0" in chunk.text)
    assert inner.heading == tuple(path)
    assert inner.metadata["line"] == source[: inner.start].count("\n") + 1
    assert inner.metadata["language"]
    assert chunks[0].heading == ()


def test_what_a_folder_is_searched_for() -> None:
    """Suffixes, and names of files that have none; whatever is searched for is read."""
    assert {".md", ".pdf", ".docx", ".pptx", ".xlsx", ".csv", ".epub", ".json", ".jsonl", ".py", ".eml"} <= SUFFIXES
    assert {"dockerfile", "makefile", "readme"} <= SUFFIXES
    for suffix in SUFFIXES:
        assert loader_for(f"a{suffix}" if suffix.startswith(".") else suffix.capitalize(), None, b"words")
