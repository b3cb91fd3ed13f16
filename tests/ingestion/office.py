"""Real files of every binary format, made by the libraries that people make them with."""

from __future__ import annotations

import datetime
import io
import zipfile

import docx
import openpyxl
import pptx

WORDS = "Some words that say something about this, and then some more of them. "

_CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="text/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
_PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>The book</dc:title><dc:creator>Ann</dc:creator></metadata><manifest>
<item id="b" href="second.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="the%20first.xhtml" media-type="application/xhtml+xml"/>
<item id="n" href="nav.xhtml" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="a"/><itemref idref="b"/><itemref idref="n" linear="no"/></spine></package>"""


def make_docx() -> bytes:
    """Title, headings, nested lists, a table."""
    document = docx.Document()
    document.core_properties.author = "Ann"
    document.add_heading("The manual", 0)
    document.add_heading("Install", 1)
    document.add_paragraph(WORDS * 3)
    document.add_paragraph("first", style="List Bullet")
    document.add_paragraph("inner", style="List Bullet 2")
    document.add_paragraph("step", style="List Number")
    document.add_heading("Ports", 2)
    table = document.add_table(2, 2)
    for place, text in enumerate(["Name", "Port", "web|tls", "443"]):
        table.cell(place // 2, place % 2).text = text
    return _saved(document)


def make_pptx() -> bytes:
    """Two slides, the second with a list and notes."""
    deck = pptx.Presentation()
    for title, body in (("Hello", WORDS), ("Plan", "one\ntwo")):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = body
    slide.notes_slide.notes_text_frame.text = "Say it slowly"
    return _saved(deck)


def make_xlsx(rows: int = 3) -> bytes:
    """A sheet with a line above its header, one that begins at C5, and a hidden one."""
    book = openpyxl.Workbook()
    people = book.active
    people.title = "People"
    people.append(["Everybody here"])
    people.append([])
    people.append(["Name", "Age", "Joined"])
    for number in range(rows):
        people.append([f"Person {number}", 20 + number, None if number else datetime.date(2024, 3, 1)])
    numbers = book.create_sheet("Numbers")
    numbers["C5"], numbers["D5"], numbers["C6"] = 1, 2.5, True
    hidden = book.create_sheet("Secret")
    hidden["A1"], hidden.sheet_state = "hidden words", "hidden"
    return _saved(book)


def make_epub() -> bytes:
    """Two chapters in the spine's order, and a page of navigation that is not part of it."""
    return make_zip(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": _CONTAINER,
            "text/book.opf": _PACKAGE,
            "text/second.xhtml": "<html><body><h1>Two</h1><ul><li>x</li><li>y</li></ul></body></html>",
            "text/the first.xhtml": f"<html><head><title>One</title></head><body><p>{WORDS}</p></body></html>",
            "text/nav.xhtml": "<html><body><p>navigation</p></body></html>",
        }
    )


def make_zip(parts: dict[str, str | bytes]) -> bytes:
    """An archive of these parts, deflated."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _saved(document: object) -> bytes:
    buffer = io.BytesIO()
    document.save(buffer)  # type: ignore[attr-defined]
    return buffer.getvalue()
