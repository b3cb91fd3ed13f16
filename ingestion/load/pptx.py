"""PPTX: slides with their titles as headings, tables, and notes. The only importer of `pptx` (python-pptx)."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from ingestion.front_matter import plain
from ingestion.load.archive import opened
from ingestion.load.loaded import Loaded, Mark
from ingestion.load.rows import markdown_table
from serving.errors import DocumentError

_MAX_DEPTH = 20
#: What PowerPoint itself calls a file that nobody has named.
_UNNAMED = "PowerPoint Presentation"


def load_pptx(data: bytes) -> Loaded:
    """Raises DocumentError: not a PPTX, too large unpacked, encrypted, broken, empty."""
    with opened(data, "PPTX"):
        from pptx import Presentation

        presentation = Presentation(io.BytesIO(data))
        slides = [_slide(slide, number) for number, slide in enumerate(presentation.slides, start=1)]
        properties = presentation.core_properties
        metadata = {name: getattr(properties, name) for name in ("author", "keywords", "subject", "category")}
        metadata["date"] = properties.modified or properties.created
        title = properties.title or next((title for title, _ in slides if title), "")
    texts: list[str] = []
    marks: list[Mark] = []
    length = 0
    for number, (_, text) in enumerate(slides, start=1):
        if text:
            marks.append((length, number))
            texts.append(text)
            length += len(text) + 2
    if not texts:
        raise DocumentError(f"empty: its {len(slides)} slides have no text")
    known = plain({**{key: value for key, value in metadata.items() if value}, "slides": len(slides)})
    # What PowerPoint itself calls a file that nobody has named.
    return Loaded(
        "pptx", "\n\n".join(texts), "" if title == "PowerPoint Presentation" else title, known, {"slide": marks}
    )


def _slide(slide: Any, number: int) -> tuple[str, str]:
    """Title and text of a slide."""
    shape = slide.shapes.title
    title = " ".join(shape.text_frame.text.split()) if shape is not None else ""
    own = shape.shape_id if shape is not None else None
    blocks = [f"## {title}"] if title else []
    blocks += _blocks((shape for shape in slide.shapes if shape.shape_id != own), 0)
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    if notes is not None and notes.text.strip():
        blocks.append(f"Notes: {notes.text.strip()}")
    return title, "\n\n".join(block for block in blocks if block)


def _blocks(shapes: Iterable[Any], depth: int) -> Iterator[str]:
    for shape in shapes:
        if hasattr(shape, "shapes"):
            if depth < _MAX_DEPTH:
                yield from _blocks(shape.shapes, depth + 1)
        elif getattr(shape, "has_table", False) and shape.has_table:
            yield markdown_table([cell.text for cell in row.cells] for row in shape.table.rows)
        elif shape.has_text_frame:
            yield _paragraphs(shape.text_frame)


def _paragraphs(frame: Any) -> str:
    """Several paragraphs in one box are a list, as they look."""
    found = [(min(6, paragraph.level), " ".join(paragraph.text.split())) for paragraph in frame.paragraphs]
    found = [(level, text) for level, text in found if text]
    if len(found) < 2:
        return "".join(text for _, text in found)
    return "\n".join(f"{'    ' * level}- {text}" for level, text in found)
