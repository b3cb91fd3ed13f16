"""Plain text, and the plain-text markups whose headings are cheap to find: reStructuredText, AsciiDoc, Org."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ingestion.encoding import decode
from ingestion.load.loaded import SECTION, Loaded, Mark

#: (offset of the heading, its level, its text)
Heading = tuple[int, int, str]

_RST = re.compile(
    r"^(?:(?P<over>([^\w\s])\2{2,})[ \t]*\n)?(?P<title>[^\s].*)\n(?P<under>([^\w\s])\5{2,})[ \t]*$", re.MULTILINE
)
_ASCIIDOC = re.compile(r"^(?P<mark>={1,6}|#{1,6})[ \t]+(?P<title>\S.*)$", re.MULTILINE)
_ORG = re.compile(r"^(?P<mark>\*{1,8})[ \t]+(?P<title>\S.*)$", re.MULTILINE)
_ORG_TITLE = re.compile(r"^#\+title:[ \t]*(\S.*)$", re.MULTILINE | re.IGNORECASE)
_ORG_DECORATION = re.compile(r"^(?:TODO|DONE)[ \t]+|[ \t]+:[\w@:]+:[ \t]*$")
_HEADING_CHARACTERS = 300


def load_text(data: bytes) -> Loaded:
    """Plain text, as it is."""
    return Loaded("text", decode(data))


def load_rst(data: bytes) -> Loaded:
    """Headings are underlined; which line is of which level, the file's own order says."""
    text = decode(data)
    return _outlined("rst", text, _rst_headings(text))


def load_asciidoc(data: bytes) -> Loaded:
    text = decode(data)
    return _outlined("asciidoc", text, _marked_headings(text, _ASCIIDOC))


def load_org(data: bytes) -> Loaded:
    text = decode(data)
    title = _ORG_TITLE.search(text)
    headings = ((at, level, _ORG_DECORATION.sub("", name)) for at, level, name in _marked_headings(text, _ORG))
    return _outlined("org", text, headings, title[1].strip() if title else "")


def _rst_headings(text: str) -> Iterator[Heading]:
    styles: list[str] = []
    for match in _RST.finditer(text):
        title, over, under = match["title"].rstrip(), match["over"], match["under"]
        if len(under) < len(title) or (over and over[0] != under[0]):
            continue
        style = under[0] + ("=" if over else "")
        if style not in styles:
            styles.append(style)
        yield match.start(), styles.index(style) + 1, title


def _marked_headings(text: str, pattern: re.Pattern[str]) -> Iterator[Heading]:
    for match in pattern.finditer(text):
        yield match.start(), len(match["mark"]), match["title"].rstrip()


def _outlined(format: str, text: str, headings: Iterator[Heading], title: str = "") -> Loaded:
    """The title is the first heading, where it stands alone at the top of the outline."""
    sections: list[Mark] = []
    stack: list[tuple[int, str]] = []
    found = list(headings)
    for offset, level, name in found:
        stack = [(above, heading) for above, heading in stack if above < level]
        stack.append((level, name[:_HEADING_CHARACTERS]))
        sections.append((offset, [heading for _, heading in stack]))
    if not title and found and found[0][1] == min(level for _, level, _ in found):
        title = found[0][2]
    return Loaded(format, text, title, marks={SECTION: sections} if sections else {})
