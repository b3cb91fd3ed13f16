"""What a loader makes of a file's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Format: TypeAlias = Literal["markdown", "text", "html", "pdf"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Text with its title ("" where the file names none) and metadata: scalars and lists of scalars, as JSON has them.

    `format` says what the file was; the text of `markdown` and `html` is Markdown. A PDF's metadata has `pages` and,
    for the chunker, `page_starts`: the offset in the text at which each page begins.
    """

    format: Format
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
