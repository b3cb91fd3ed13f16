"""What a loader makes of a file's bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

#: (offset in the text, value): from there on the value holds, until the next one.
Mark: TypeAlias = tuple[int, Any]

#: Where a document keeps its marks among its metadata. They are for the chunker, and not stored with every chunk.
MARKS = "_marks"
#: The mark whose values are heading paths, for formats that have structure and are not Markdown.
SECTION = "section"
#: Marks that count: the value rises by one with every line of the text.
PER_LINE = frozenset({"line", "row"})
#: Formats whose text is Markdown.
MARKDOWN = frozenset({"markdown", "html", "docx", "pptx", "epub"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """Text with its title ("" where the file names none) and metadata: scalars and lists of scalars, as JSON has them.

    `format` says what the file was. `marks` say by name where in the file a place of the text is (`page`, `slide`,
    `sheet`, `row`, `line`) and under which headings (`section`), in the order of their offsets.
    """

    format: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Sequence[Mark]] = field(default_factory=dict)
