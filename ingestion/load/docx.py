"""DOCX: headings, lists and tables as Markdown. The only importer of `docx` (python-docx)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ingestion.front_matter import plain
from ingestion.load.archive import opened
from ingestion.load.loaded import Loaded
from ingestion.load.rows import markdown_table
from serving.errors import DocumentError

if TYPE_CHECKING:
    from docx.document import Document as DocxDocument
    from docx.table import Table
    from docx.text.paragraph import Paragraph

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_LIST = re.compile(r"list (bullet|number)?.*?(\d?)$", re.IGNORECASE)
_PROPERTIES = ("author", "keywords", "subject", "category", "language")


def load_docx(data: bytes) -> Loaded:
    """Raises DocumentError: not a DOCX, too large unpacked, encrypted, broken, empty."""
    with opened(data, "DOCX"):
        from docx import Document

        document = Document(io.BytesIO(data))
        text = "\n\n".join(block for block in _blocks(document) if block)
        text = re.sub(r"(?m)^([ ]*(?:-|1\.) .*)\n\n(?=[ ]*(?:-|1\.) )", r"\1\n", text)
        properties = document.core_properties
        metadata = {name: getattr(properties, name) for name in _PROPERTIES}
        metadata["date"] = properties.modified or properties.created
        title = properties.title or _first_title(document)
    if not text:
        raise DocumentError("empty: the document has no text")
    return Loaded("docx", text, title, plain({key: value for key, value in metadata.items() if value}))


def _blocks(document: DocxDocument) -> Iterator[str]:
    from docx.table import Table

    styles: dict[str | None, str] = {}
    for block in document.iter_inner_content():
        yield _table(block) if isinstance(block, Table) else _paragraph(block, styles)


def _paragraph(paragraph: Paragraph, styles: dict[str | None, str]) -> str:
    text: str = paragraph.text.strip()
    if not text:
        return ""
    style = _style(paragraph, styles)
    heading = _HEADING.match(style)
    if heading or style.lower() == "title":
        level = min(6, max(1, int(heading[1]))) if heading else 1
        return f"{'#' * level} {' '.join(text.split())}"
    listed = _LIST.match(style)
    if listed or _numbered(paragraph):
        depth = int(listed[2]) - 1 if listed and listed[2] else _depth(paragraph)
        mark = "1." if listed and (listed[1] or "").lower() == "number" else "-"
        return f"{'    ' * depth}{mark} {' '.join(text.split())}"
    return text


def _style(paragraph: Paragraph, styles: dict[str | None, str]) -> str:
    """The name of a paragraph's style; looking it up takes longer than all the rest, so once for each style."""
    key = paragraph._p.style
    if key not in styles:
        style = paragraph.style
        styles[key] = str(style.name or "") if style is not None else ""
    return styles[key]


def _numbered(paragraph: Paragraph) -> bool:
    properties = paragraph._p.pPr
    return properties is not None and properties.numPr is not None


def _depth(paragraph: Paragraph) -> int:
    numbering: Any = paragraph._p.pPr.numPr if paragraph._p.pPr is not None else None
    level = numbering.ilvl if numbering is not None else None
    return min(6, max(0, int(level.val))) if level is not None else 0


def _table(table: Table) -> str:
    return markdown_table([cell.text for cell in row.cells] for row in table.rows)


def _first_title(document: DocxDocument) -> str:
    """Where the file's properties name none: what is set in the style "Title", or else the first heading."""
    headings = [
        (paragraph.style.name or "", paragraph.text.strip())
        for paragraph in document.paragraphs[:50]
        if paragraph.style is not None and paragraph.text.strip()
    ]
    titles = [text for style, text in headings if style.lower() == "title"]
    return next(iter(titles + [text for style, text in headings if style.lower() == "heading 1"]), "")
