"""Source code: sections along functions and classes, by tree-sitter. The only importer of `tree_sitter`.

A language without a grammar here is text with line numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

from ingestion.encoding import decode
from ingestion.load.languages import ASSIGNMENTS, BETWEEN, FUNCTIONS, GRAMMARS, INNER, OUTER, WRAPPERS
from ingestion.load.loaded import SECTION, Loaded, Mark

if TYPE_CHECKING:
    from tree_sitter import Node

#: What stands right above a definition and belongs to it.
_ABOVE = frozenset({"attribute_item", "attribute_list", "comment", "line_comment", "block_comment", "decorator"})
#: Definitions inside of definitions, at most: deeper ones stay part of theirs.
_MAX_DEPTH = 12
_NAME_BYTES = 200
_CLOSING = b" \t\r\n;,)]}"


def load_code(data: bytes, *, language: str) -> Loaded:
    """The text as it is, with `line` and, for the languages with a grammar, the path of names above each place."""
    text = decode(data)
    marks: dict[str, list[Mark]] = {"line": [(0, 1)]}
    if language in GRAMMARS and (sections := _sections(text, language)):
        marks[SECTION] = sections
    return Loaded("code", text, metadata={"language": language}, marks=marks)


def _sections(text: str, language: str) -> list[Mark]:
    from tree_sitter import Language, Parser

    package, function = GRAMMARS[language]
    grammar = getattr(import_module(package), function)
    source = text.encode("utf-8", "replace")
    tree = Parser(Language(grammar())).parse(source)
    found = list(_definitions(tree.root_node, source, []))
    return _in_characters(found, source)


def _definitions(node: Node, source: bytes, path: list[str], depth: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(offset in bytes, path) wherever the path changes, in order."""
    start = None
    for child in node.named_children:
        if child.type in _ABOVE:
            start = child.start_byte if start is None else start
            continue
        name = ""
        if child.type in OUTER or child.type in INNER:
            name = _name(child, source)
        elif child.type in ASSIGNMENTS:
            name = _assigned(child, source)
        if name:
            yield _line_start(source, child.start_byte if start is None else start), [*path, name]
            if child.type in OUTER and depth < _MAX_DEPTH:
                yield from _definitions(child, source, [*path, name], depth + 1)
            yield _line_end(source, child.end_byte), path
        elif (child.type in BETWEEN or child.type in OUTER) and depth < _MAX_DEPTH:
            if start is None and child.type in WRAPPERS:
                start = child.start_byte
            for at, inner in _definitions(child, source, path, depth + 1):
                yield (at if start is None else _line_start(source, start)), inner
                start = None
        start = None


def _name(node: Node, source: bytes) -> str:
    """What a definition is called; "" for what is not one, or has no name."""
    if node.type.endswith("_specifier") and node.child_by_field_name("body") is None:
        return ""  # C: a mention of the type
    named = node.child_by_field_name("type" if node.type == "impl_item" else "name")
    inner: Node | None = node
    while named is None and inner is not None:  # C: the innermost declarator is the function's name
        below = inner.child_by_field_name("declarator")
        named, inner = (inner if below is None and inner is not node else None), below
    if named is None:
        return ""
    return " ".join(source[named.start_byte : named.end_byte][:_NAME_BYTES].decode("utf-8", "replace").split())


def _assigned(node: Node, source: bytes) -> str:
    """JavaScript: the name of `const name = () => ...`."""
    for child in node.named_children:
        value = child.child_by_field_name("value") if child.type == "variable_declarator" else None
        if value is not None and value.type in FUNCTIONS:
            return _name(child, source)
    return ""


def _line_start(source: bytes, at: int) -> int:
    """The beginning of the line, if there is only white space before."""
    start = source.rfind(b"\n", 0, at) + 1
    return at if source[start:at].strip() else start


def _line_end(source: bytes, at: int) -> int:
    """The end of the line, if there is only punctuation up to it."""
    end = source.find(b"\n", at)
    return end if end >= 0 and not source[at:end].strip(b" \t;,)") else at


def _in_characters(found: list[tuple[int, list[str]]], source: bytes) -> list[Mark]:
    """Bytes to characters. Of several at one place the last holds; closing brackets stay with what they close."""
    marks: dict[int, list[str]] = {}
    at = characters = 0
    for (offset, path), (end, _) in pairwise([*found, (len(source), [])]):
        characters += _length(source[at:offset])
        at = max(at, offset)
        if source[offset:end].strip(_CLOSING) not in (b"", b"end") or end <= offset:
            marks[characters] = path
    return list(marks.items())


def _length(part: bytes) -> int:
    """Characters of UTF-8 that is cut at the boundaries of tokens, where every character is whole."""
    return len(part) if part.isascii() else len(part.decode("utf-8", "replace"))
