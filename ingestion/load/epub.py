"""EPUB: the chapters in the order of the spine, as Markdown."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree
from zipfile import ZipFile

from ingestion.encoding import decode_markup
from ingestion.front_matter import plain
from ingestion.load.archive import opened
from ingestion.load.html import Shown
from ingestion.load.loaded import Loaded
from serving.errors import DocumentError

_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/html"})
_PROPERTIES = {"creator": "author", "language": "language", "date": "date", "publisher": "publisher"}
_MAX_DESCRIPTION_BYTES = 16 * 1024**2


def load_epub(data: bytes) -> Loaded:
    """Raises DocumentError: not an EPUB, too large unpacked, protected, broken, empty."""
    with opened(data, "EPUB") as archive:
        if "META-INF/encryption.xml" in archive.NameToInfo and "META-INF/rights.xml" in archive.NameToInfo:
            raise DocumentError("protected: its text is encrypted (DRM)")
        path = _package_path(archive)
        package = _xml(archive, path)
        metadata = _metadata(package)
        title = metadata.pop("title", "")
        chapters = [chapter for chapter in _chapters(archive, path, package, title) if chapter]
    if not chapters:
        raise DocumentError("empty: the book has no text")
    return Loaded("epub", "\n\n".join(chapters), title, plain(metadata))


def _package_path(archive: ZipFile) -> str:
    container = _xml(archive, "META-INF/container.xml")
    for element in container.iter():
        if element.tag.endswith("rootfile") and element.get("full-path"):
            return element.get("full-path", "")
    raise DocumentError("broken EPUB: its container names no package")


def _xml(archive: ZipFile, name: str) -> ElementTree.Element:
    """Of bounded size; entities that grow are refused by expat itself."""
    if archive.getinfo(name).file_size > _MAX_DESCRIPTION_BYTES:
        raise DocumentError(f"broken EPUB: {name} is too large")
    return ElementTree.fromstring(archive.read(name))


def _metadata(package: ElementTree.Element) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for element in package.iter():
        if isinstance(element.tag, str) and element.tag.startswith(_DUBLIN_CORE) and element.text:
            name = element.tag.removeprefix(_DUBLIN_CORE)
            if name == "title" or name in _PROPERTIES:
                found.setdefault(_PROPERTIES.get(name, name), " ".join(element.text.split()))
    return found


def _chapters(archive: ZipFile, path: str, package: ElementTree.Element, title: str) -> Iterator[str]:
    """The text of each page in the spine; one without a heading gets its own title for one."""
    items = {
        element.get("id"): (element.get("href", ""), element.get("media-type", ""))
        for element in package.iter()
        if _local(element) == "item"
    }
    folder = posixpath.dirname(path)
    for element in package.iter():
        href, kind = items.get(element.get("idref"), ("", "")) if _local(element) == "itemref" else ("", "")
        name = posixpath.normpath(posixpath.join(folder, unquote(href)))
        if kind in _PAGES and element.get("linear") != "no" and name in archive.NameToInfo:
            page = archive.read(name)
            if page.strip():
                yield _chapter(page, title)


def _chapter(page: bytes, title: str) -> str:
    shown = Shown()
    shown.read(decode_markup(page))
    text, own = shown.text(), shown.title()
    if text and own and own != title and not re.match(r"#{1,6} ", text):
        return f"# {own}\n\n{text}"
    return text


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
