"""HTML: the main content as Markdown, without menus and footers. The only importer of `trafilatura` and `lxml`."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from ingestion.encoding import decode_markup
from ingestion.front_matter import plain
from ingestion.load.loaded import Loaded
from serving.errors import DocumentError

#: Extraction takes some seconds for a page of this size; a larger one is an export, not a page.
MAX_HTML_CHARACTERS = 16_000_000
#: The metadata that trafilatura writes above a text that it was asked for with metadata.
_HEADER = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
#: Two items of a list.
_LIST = re.compile(r"(?m)^(- .*)\n\n(?=- )")
_SILENT = frozenset({"script", "style", "noscript", "template", "head", "svg"})
_BREAKS = frozenset({"p", "div", "br", "li", "tr", "table", "section", "article", "pre", "blockquote", "ul", "ol"})
_METADATA = ("author", "description", "date", "sitename", "language")


def load_html(data: bytes) -> Loaded:
    """Raises DocumentError: not text, too large, no text in it."""
    html = decode_markup(data)
    if len(html) > MAX_HTML_CHARACTERS:
        raise DocumentError(f"too large for HTML: {len(html):,} characters, the limit is {MAX_HTML_CHARACTERS:,}")
    shown = Shown()
    shown.read(html)
    text, metadata = _main_content(html)
    text = text or shown.text()
    if not text:
        raise DocumentError("empty: the page has no text")
    title = metadata.pop("title", None) or shown.title()
    return Loaded("html", text, title, plain(metadata))


def _main_content(html: str) -> tuple[str, dict[str, Any]]:
    """Main content and metadata; ("", {}) for a page that trafilatura makes nothing of."""
    from lxml.etree import LxmlError  # type: ignore[import-untyped, unused-ignore]
    from trafilatura import extract_with_metadata

    try:
        found = extract_with_metadata(
            html, output_format="markdown", favor_recall=True, include_comments=False, include_tables=True
        )
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError, LxmlError):
        # Pages nested or broken beyond what the extractor was written for: their plain text is still worth having.
        return "", {}
    if found is None:
        return "", {}
    text = _HEADER.sub("", found.text or "").strip()
    return text, {name: value for name in ("title", *_METADATA) if (value := getattr(found, name))}


class Shown(HTMLParser):
    """All text a browser would show. Works through nesting of any depth, because it keeps no tree."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._title: list[str] = []
        self._silent = 0
        self._in_title = False

    def read(self, html: str) -> None:
        self.feed(html)
        self.close()

    def text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).splitlines())
        return _LIST.sub(r"\1\n", "\n\n".join(line for line in lines if line.strip("-")))

    def title(self) -> str:
        return " ".join("".join(self._title).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag in _SILENT:
            self._silent += 1
        if tag == "body":
            self._silent = 0
        if tag in _BREAKS or _is_heading(tag):
            self._parts.append("\n" + ("#" * int(tag[1]) + " " if _is_heading(tag) else "- " if tag == "li" else ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        if tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        if tag in _BREAKS or _is_heading(tag):
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title.append(data)
        elif not self._silent:
            self._parts.append(data)


def _is_heading(tag: str) -> bool:
    return len(tag) == 2 and tag[0] == "h" and tag[1] in "123456"
