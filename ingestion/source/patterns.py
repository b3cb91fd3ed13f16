"""Which paths are meant: globs of sources, and include and exclude patterns in the manner of .gitignore.

A pattern with a slash before its end begins at the source's root, any other holds at every depth; one with a slash at
its end means folders; what matches a folder matches all that is in it. `*` and `?` stay within a name, `**` crosses
folders, a backslash takes the next letter as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serving.errors import SourceError

_MAGIC = re.compile(r"[*?\[]")
_TOKEN = re.compile(r"\*+|\?|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)
_ESCAPED = re.compile(r"\\.|" + _TOKEN.pattern, re.DOTALL)


def is_glob(text: str) -> bool:
    """Whether a shell would read it as a pattern."""
    return _MAGIC.search(text) is not None


def fixed_part(path: str) -> str:
    """The folder above the first part of a path that is a pattern."""
    parts = path.split("/")
    fixed = next(i for i, part in enumerate(parts) if is_glob(part))
    return "/".join(parts[:fixed])


def glob(text: str) -> re.Pattern[str]:
    """A whole path's glob as a regular expression: `**` crosses folders, `*` and `?` do not."""
    return re.compile(_expression(text, escapes=False), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Patterns:
    """What of a source is wanted. Paths are relative to its root, with slashes."""

    include: tuple[re.Pattern[str], ...] = ()
    exclude: tuple[re.Pattern[str], ...] = ()

    def wants(self, path: str) -> bool:
        """Whether a file is included, and not excluded."""
        if any(pattern.fullmatch(path) for pattern in self.exclude):
            return False
        return not self.include or any(pattern.fullmatch(path) for pattern in self.include)

    def prunes(self, folder: str) -> bool:
        """Whether nothing in a folder can be wanted, because it is excluded itself."""
        return any(pattern.fullmatch(folder + "/") for pattern in self.exclude)

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


def patterns(include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Patterns:
    """Raises SourceError for a pattern that cannot mean anything."""
    return Patterns(tuple(_compile(text) for text in include), tuple(_compile(text) for text in exclude))


def _compile(text: str) -> re.Pattern[str]:
    if text.startswith("!"):
        raise SourceError(
            f"The pattern {text!r} begins with '!': say what to keep with include, what not with exclude."
        )
    body = text.rstrip("/")
    if not body.strip():
        raise SourceError(f"The pattern {text!r} matches nothing.")
    folders_only = body != text
    start = "" if "/" in body else "(?:.*/)?"
    end = "/.*" if folders_only else "(?:/.*)?"
    try:
        return re.compile(start + _expression(body.removeprefix("/"), escapes=True) + end, re.DOTALL)
    except re.error as error:
        raise SourceError(f"The pattern {text!r} cannot be understood: {error}.") from error


def _expression(text: str, *, escapes: bool) -> str:
    """`**` is any folders where it is a whole name; within one it is like `*`."""
    *above, last = text.split("/")
    tokens = _ESCAPED if escapes else _TOKEN
    translated = "".join("(?:.*/)?" if part == "**" else _name(part, tokens) + "/" for part in above)
    return translated + (".+" if last == "**" else _name(last, tokens))


def _name(part: str, tokens: re.Pattern[str]) -> str:
    return "".join(_translate(token) for token in tokens.findall(part))


def _translate(token: str) -> str:
    if token.startswith("*"):
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if len(token) > 2 and token[0] == "[" and token[-1] == "]":
        negated = token[1] in "!^"
        inside = re.escape(token[1 + negated : -1]).replace(r"\-", "-")
        return f"(?!/)[{'^' if negated else ''}{inside}]"
    return re.escape(token[1:] if len(token) == 2 and token[0] == "\\" else token)
