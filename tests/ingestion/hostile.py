"""Files that nobody should open: real ones, mutated by a seeded die, and classics made by hand."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Iterator
from functools import cache

from tests.ingestion.office import make_docx, make_epub, make_pptx, make_xlsx, make_zip
from tests.ingestion.pdf import make_pdf

#: (name, content)
File = tuple[str, bytes]

_HTML = (
    b"<html><head><title>T</title></head><body><h1>One</h1><p>Some words.</p><table><tr><td>x</td></tr></table></html>"
)
_LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
_BILLION = f'<!DOCTYPE x [<!ENTITY l0 "ha">{_LAUGHS}]><x>&l9;</x>'
_EXTERNAL = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x>&f;</x>'


@cache
def seeds() -> dict[str, bytes]:
    """One sound file of each kind."""
    return {
        "a.docx": make_docx(),
        "a.pptx": make_pptx(),
        "a.xlsx": make_xlsx(20),
        "a.epub": make_epub(),
        "a.pdf": make_pdf(["First page words.", "Second page words.", "Third."], title="Report"),
        "a.html": _HTML * 5,
        "a.md": b"---\ntitle: T\n---\n# One\n\n- a\n  - b\n\n> q\n\n```py\nx = 1\n```\n\n|a|b|\n|-|-|\n|1|2|\n" * 5,
        "a.json": b'{"a": [1, {"b": "c\\u00e9"}], "d": {"e": null, "f": [true, 1e5]}}',
        "a.jsonl": b'{"a": 1}\n{"b": [2]}\n' * 5,
        "a.xml": b'<?xml version="1.0"?><r><a b="c">text</a><d><e>more</e> words</d></r>',
        "a.csv": b'name,age\n"Ada, L",36\nBob,5\n' * 10,
        "a.eml": b'From: a@b.c\nSubject: S\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n'
        b"--b\nContent-Type: text/html; charset=utf-8\n\n<p>Hi</p>\n--b--\n",
        "a.rst": b"Title\n=====\n\nText\n\nSub\n---\n\nMore\n",
        "a.py": b"import x\n\nclass A:\n    def f(self):\n        return '''text'''\n" * 5,
        "a.cpp": b"template <class T> struct A { int f() { return 1; } };\nnamespace n { int *g() { return 0; } }\n"
        * 5,
        "a.txt": "Plain words, naïve café.\n".encode() * 10,
    }


def mutated(count: int, seed: int) -> Iterator[File]:
    """`count` files, each a seed with one to three mutations; some under another one's name."""
    die = random.Random(seed)
    names = list(seeds())
    for number in range(count):
        name = names[number % len(names)]
        data = seeds()[name]
        for _ in range(die.randint(1, 3)):
            data = die.choice(_MUTATIONS)(data, die)
        yield (die.choice(names) if die.random() < 0.15 else name), data


def classics() -> Iterator[tuple[str, Callable[[], bytes], str]]:
    """(name, maker, what its refusal says, or "" if it must be parsed, or "?" where both are right)."""
    yield "empty.pdf", lambda: b"", "empty"
    yield "blank.docx", lambda: b" \n" * 1000, "empty"
    yield "nul.txt", lambda: bytes(100_000), "not text|empty"
    yield "nul.xlsx", lambda: bytes(100_000), "not XLSX"
    yield "line.txt", lambda: b"word " * 20_000_000, "too large"
    yield "line.csv", lambda: b"a,b\n" + b"x" * 100_000_000, "too large|more than|longer"
    yield "line.json", lambda: b'{"a": "' + b"x" * 100_000_000 + b'"}', "too large|more than|longer"
    yield "line.md", lambda: b"*_[" * 200_000, "?"
    yield "half.txt", lambda: "ü".encode("utf-16")[:3] * 5001, "?"
    yield "latin.md", lambda: bytes(range(128, 256)) * 50, "?"
    yield "surrogates.json", lambda: b'{"a\\ud800": "\\udfff text"}', ""
    yield "deep.html", lambda: b"<div>" * 200_000 + b"words", ""
    yield "deep.json", lambda: b'{"a":' * 100_000, "nested|broken"
    yield "deep.md", lambda: b"> " * 100_000 + b"words", "?"
    yield "list.md", lambda: b"\n".join(b" " * i + b"- x" for i in range(2000)), "?"
    yield "deep.xml", lambda: b"<a>" * 200_000 + b"x" + b"</a>" * 200_000, ""
    yield "deep.py", lambda: b"(" * 200_000, ""
    yield "deep.js", lambda: b"class A {" * 20_000, ""
    yield "yaml.md", lambda: b"---\na: &a [x,x,x,x,x,x,x,x,x]\n" + _aliases() + b"---\ntext", ""
    yield "laughs.xml", _BILLION.encode, "entities"
    yield "external.xml", _EXTERNAL.encode, "entities"
    yield "laughs.docx", lambda: with_part(make_docx(), "word/document.xml", _BILLION), "broken|empty"
    yield "laughs.epub", lambda: with_part(make_epub(), "text/book.opf", _BILLION), "broken|empty"
    yield "laughs.xlsx", lambda: with_part(make_xlsx(), "xl/sharedStrings.xml", _BILLION), "?"
    yield "external.docx", lambda: with_part(make_docx(), "word/document.xml", _EXTERNAL), "broken|empty"
    yield "bomb.docx", lambda: _sized(make_docx(), 60_000_000), "too large"
    yield (
        "bomb.epub",
        lambda: with_part(make_epub(), "text/second.xhtml", b"<p>" * 80_000_000),
        "more than|longer|too large",
    )
    yield "bomb.xlsx", lambda: _wide(), "?"
    yield "lying.docx", lambda: _sized(with_part(make_docx(), "word/document.xml", b"<a/>" * 30_000_000), 100), "broken"
    yield "parts.pptx", lambda: make_zip({f"p{i}": "" for i in range(25_000)}), "too large|broken"
    yield "pages.pdf", lambda: make_pdf(["x"]).replace(b"/Count 1", b"/Count 99999999"), "?"
    yield "loop.pdf", lambda: make_pdf(["x", "y"]).replace(b"/Kids [", b"/Kids [2 0 R 2 0 R "), "?"
    yield "many.pdf", lambda: make_pdf(["page"] * 3000), ""


def with_part(data: bytes, name: str, content: str | bytes) -> bytes:
    """The archive with other content in one of its parts."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts: dict[str, str | bytes] = {part: archive.read(part) for part in archive.namelist()}
    return make_zip({**parts, name: content})


def _aliases() -> bytes:
    levels = ((chr(97 + i), chr(98 + i)) for i in range(12))
    return b"".join(f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n".encode() for old, new in levels)


def _wide() -> bytes:
    """One cell at the far corner of the sheet: 16,384 columns by 1,048,576 rows."""
    cell = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>'
    sheet = f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{cell}</sheetData></worksheet>'
    return with_part(make_xlsx(), "xl/worksheets/sheet1.xml", sheet)


def _sized(data: bytes, size: int) -> bytes:
    """The directory says that every part has `size` bytes."""
    result = bytearray(data)
    at = result.find(b"PK\x01\x02")
    while at >= 0:
        result[at + 24 : at + 28] = size.to_bytes(4, "little")
        at = result.find(b"PK\x01\x02", at + 4)
    return bytes(result)


def _cut(data: bytes, die: random.Random) -> bytes:
    return data[: die.randrange(len(data) + 1)]


def _flip(data: bytes, die: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(die.randint(1, 50) if data else 0):
        result[die.randrange(len(result))] ^= 1 << die.randrange(8)
    return bytes(result)


def _drop(data: bytes, die: random.Random) -> bytes:
    start = die.randrange(len(data) + 1)
    return data[:start] + data[start + die.randint(1, 200) :]


def _repeat(data: bytes, die: random.Random) -> bytes:
    start = die.randrange(len(data) + 1)
    return data[:start] + data[start : start + 300] * die.randint(2, 200) + data[start:]


def _noise(data: bytes, die: random.Random) -> bytes:
    start = die.randrange(len(data) + 1)
    return data[:start] + die.choice([bytes(64), die.randbytes(64), b"\xff\xfe\xfd" * 20, b"<" * 999]) + data[start:]


def _inside(data: bytes, die: random.Random) -> bytes:
    """A mutation within a part of an archive, whose checksums stay right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = die.choice(
                [part for part in archive.namelist() if part.endswith((".xml", ".xhtml", ".opf", ".rels"))]
            )
            content = archive.read(name)
        return with_part(data, name, die.choice([_cut, _flip, _drop, _repeat, _noise])(content, die))
    except (zipfile.BadZipFile, IndexError, OSError, ValueError, NotImplementedError, RuntimeError):
        return _flip(data, die)
    except Exception as error:
        if type(error).__name__ != "error":  # zlib's
            raise
        return _flip(data, die)


_MUTATIONS = [_cut, _flip, _drop, _repeat, _noise, _inside, _inside]
