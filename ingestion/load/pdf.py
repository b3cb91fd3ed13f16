"""PDF: the text layer in reading order. The only importer of `pypdfium2`.

PDFium is not safe to call from two threads at a time: a worker parses one document after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ingestion.front_matter import plain
from ingestion.load.loaded import Loaded
from serving.errors import DocumentError

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

#: PDFium's code for "password required" (FPDF_ERR_PASSWORD in fpdfview.h).
_PASSWORD_ERROR = 4
#: PDFium writes a hyphen at a line's end as U+FFFE or U+0002: the word goes on in the next line.
_HYPHENATED = re.compile(r"(?<=\w)[\ufffe\x02]\s*\n?\s*(?=\w)")
_UNPRINTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_SPACE_AT_END = re.compile(r"[ \t]+\n")
#: So many pages in a row that cannot be opened, and the file has none.
_MAX_BROKEN_PAGES = 100
_DATE = re.compile(r"D:(\d{4})(\d{2})(\d{2})")


def load_pdf(data: bytes) -> Loaded:
    """Raises DocumentError: broken, encrypted, or without a text layer."""
    if b"%PDF-" not in data[:1024]:
        raise DocumentError("not a PDF: its first bytes are of another kind of file")
    with _document(data) as document:
        texts = list(_pages(document))
        information = document.get_metadata_dict(skip_empty=True)
    if not any(texts):
        raise DocumentError(f"no text layer: its {len(texts)} pages are images (OCR is not done)")
    pages, position = [], 0
    for number, text in enumerate(texts, start=1):
        pages.append((position, number))
        position += len(text) + 2
    metadata = {**_information(information), "pages": len(texts)}
    return Loaded("pdf", "\n\n".join(texts), information.get("Title", ""), metadata, {"page": pages})


@contextmanager
def _document(data: bytes) -> Iterator[PdfDocument]:
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        document = PdfDocument(data)
        try:
            yield document
        finally:
            document.close()
    except PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD_ERROR:
            raise DocumentError("encrypted: it opens only with a password") from error
        raise DocumentError(f"broken PDF: {error}") from error


def _pages(document: PdfDocument) -> Iterator[str]:
    """A page that cannot be opened is an empty one, as long as there are others."""
    from pypdfium2 import PdfiumError

    broken = 0
    for number in range(len(document)):
        try:
            page = document[number]
            layer = page.get_textpage()
        except PdfiumError:
            broken += 1
            if broken == _MAX_BROKEN_PAGES or broken == len(document):
                raise
            yield ""
            continue
        broken = 0
        yield _clean(layer.get_text_bounded())
        layer.close()
        page.close()


def _clean(text: str) -> str:
    joined = _HYPHENATED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _SPACE_AT_END.sub("\n", _UNPRINTED.sub("", joined)).strip()


def _information(values: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name.lower(): values[name] for name in ("Author", "Subject", "Keywords") if values.get(name)
    }
    date = _DATE.match(values.get("CreationDate", ""))
    if date:
        found["date"] = "-".join(date.groups())
    return plain(found)
