"""Cleans what a site generator would have replaced: Hugo shortcodes, HTML comments, heading anchors.

The text between a pair of shortcodes stays, the tags go; what a shortcode would have shown is put in its place where
the page itself says it. One pass from left to right, linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_OPEN = re.compile(r"^[ \t>]*(?P<fence>`{3,}|~{3,})|(?P<comment><!--)|(?P<tag>\{\{(?P<kind>[<%]))|(?P<code>`+)", re.M)
_WORD = re.compile(r"""/?[\w./-]+""")
_ARGUMENT = re.compile(
    r"""(?:(?P<key>[\w-]+)\s*=\s*)?(?:"(?P<double>(?:[^"\\]|\\.)*)"|`(?P<raw>[^`]*)`|(?P<bare>[^\s"`]+))"""
)
_ANCHOR = re.compile(r"^(#{1,6}[ \t].*?)[ \t]*\{#[^}\n]*\}[ \t]*$", re.M)
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")
#: A tag longer than this is no tag; it bounds the search for its end.
_MAX_TAG = 2000
#: Code in a line of text ends within this many characters, or the backquote was only a backquote.
_MAX_CODE = 1000

_HEADINGS = {"prerequisites": "Before you begin", "whatsnext": "What's next", "cleanup": "Clean up"}

Arguments = Mapping[str, str]


def clean(text: str) -> str:
    """Markdown without shortcodes, comments and anchors. Text that has none of them comes back as it was."""
    cleaned = _ANCHOR.sub(r"\1", _replace(text)) if "{" in text or "<!--" in text else text
    return _BLANK_LINES.sub("\n\n", cleaned) if cleaned != text else text


def _replace(text: str) -> str:
    parts: list[str] = []
    position = 0
    comments_end = text.rfind("-->")
    while match := _OPEN.search(text, position):
        start = match.start("tag") if match["tag"] else match.start("comment") if match["comment"] else match.start()
        parts.append(text[position:start])
        if match["tag"]:
            shown, position = _tag(text, match)
        elif match["comment"]:
            shown, position = ("", text.index("-->", start) + 3) if start + 4 <= comments_end else ("<!--", start + 4)
        elif match["fence"]:
            shown, position = _fence(text, match)
        else:
            shown, position = _code(text, match)
        parts.append(shown)
    parts.append(text[position:])
    return "".join(parts)


def _fence(text: str, match: re.Match[str]) -> tuple[str, int]:
    """A fenced block keeps its comments; shortcodes inside it are replaced, as the site generator does."""
    mark = match["fence"]
    closing = re.compile(rf"^[ \t>]*{re.escape(mark)}{re.escape(mark[0])}*[ \t]*$", re.M).search(text, match.end())
    end = closing.end() if closing else len(text)
    return _tags_only(text[match.start() : end]), end


def _code(text: str, match: re.Match[str]) -> tuple[str, int]:
    end = text.find(match["code"], match.end(), match.end() + _MAX_CODE)
    if end < 0:
        return match["code"], match.end()
    return _tags_only(text[match.start() : end + len(match["code"])]), end + len(match["code"])


def _tags_only(text: str) -> str:
    parts: list[str] = []
    position = 0
    while match := _OPEN.search(text, position):
        if not match["tag"]:
            parts.append(text[position : match.end()])
            position = match.end()
            continue
        parts.append(text[position : match.start("tag")])
        shown, position = _tag(text, match)
        parts.append(shown)
    parts.append(text[position:])
    return "".join(parts)


def _tag(text: str, match: re.Match[str]) -> tuple[str, int]:
    """What a shortcode shows, and where the text goes on behind it."""
    start = match.end()
    closing = ">}}" if match["kind"] == "<" else "%}}"
    end = text.find(closing, start, start + _MAX_TAG)
    if end < 0:
        return match["tag"], start
    inner = text[start:end]
    if inner.startswith("/*"):  # an escaped shortcode is text about shortcodes
        return match["tag"] + inner[2:].removesuffix("*/") + closing, end + 3
    name_match = _WORD.match(inner.strip().replace("/ ", "/", 1))
    if name_match is None:
        return "", end + 3
    name = name_match[0]
    arguments = _arguments(inner.strip()[len(name) :])
    if name == "comment" or (name == "tab" and "codelang" in arguments):
        return _pair(text, end + 3, name, arguments)
    return _SHOWN.get(name, _text)(arguments), end + 3


def _pair(text: str, position: int, name: str, arguments: Arguments) -> tuple[str, int]:
    """Shortcodes that change what is between them: a comment goes, the code of a tab is fenced."""
    closing = re.compile(rf"\{{\{{[<%]\s*/\s*{name}\s*[>%]\}}\}}").search(text, position)
    if closing is None:
        return "", position
    if name == "comment":
        return "", closing.end()
    code = _tags_only(text[position : closing.start()]).strip("\n")
    return f"{_tab(arguments)}```{arguments['codelang']}\n{code}\n```\n", closing.end()


def _arguments(text: str) -> Arguments:
    """Named arguments by name, the others by their number from "0"."""
    values: dict[str, str] = {}
    for match in _ARGUMENT.finditer(text):
        value = next((v for v in (match["double"], match["raw"], match["bare"]) if v is not None), "")
        values[match["key"] or str(len(values))] = value.replace('\\"', '"')
    return values


def _text(arguments: Arguments) -> str:
    """An unknown shortcode: the words it carries for readers, if any."""
    return arguments.get("text") or arguments.get("caption") or arguments.get("title") or arguments.get("alt") or ""


def _tooltip(arguments: Arguments) -> str:
    return arguments.get("text") or arguments.get("term_id", "").replace("-", " ")


def _heading(arguments: Arguments) -> str:
    name = arguments.get("0", "")
    return _HEADINGS.get(name, name.replace("-", " ").capitalize())


def _tab(arguments: Arguments) -> str:
    return f"**{arguments['name']}**\n\n" if arguments.get("name") else ""


def _file(arguments: Arguments) -> str:
    name = arguments.get("file") or arguments.get("0", "")
    return f"`{name}`" if name else ""


def _state(arguments: Arguments) -> str:
    words = [arguments.get("for_k8s_version", ""), arguments.get("state", "")]
    return "Feature state: " + " ".join(word for word in words if word)


def _variable(arguments: Arguments) -> str:
    """A value the site's configuration holds: its name is all that the page itself says."""
    return f"<{arguments['0']}>" if "0" in arguments else ""


def _nothing(arguments: Arguments) -> str:
    return ""


_SHOWN: Mapping[str, Callable[[Arguments], str]] = {
    "glossary_tooltip": _tooltip,
    "heading": _heading,
    "tab": _tab,
    "codenew": _file,
    "code": _file,
    "include": _nothing,
    "feature-state": _state,
    "param": _variable,
    "skew": _variable,
    "mermaid": lambda arguments: "```mermaid\n",
    "/mermaid": lambda arguments: "```\n",
    "highlight": lambda arguments: f"```{arguments.get('0', '')}\n",
    "/highlight": lambda arguments: "```\n",
}
