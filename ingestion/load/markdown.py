"""Markdown: front matter to metadata, shortcodes and comments cleaned, title from front matter or first heading."""

from __future__ import annotations

from ingestion import front_matter, shortcode
from ingestion.encoding import decode
from ingestion.load.loaded import Loaded
from ingestion.markdown import first_heading, plain_heading

#: A page's own heading is at its top.
_TITLE_WITHIN = 16_384


def load_markdown(data: bytes) -> Loaded:
    """Raises DocumentError for what is not text. A page without front matter or shortcodes is left as it is."""
    metadata, body = front_matter.split(decode(data))
    text = shortcode.clean(body)
    title = metadata.pop("title", None)
    if not isinstance(title, str) or not title.strip():
        title = first_heading(text[:_TITLE_WITHIN]) or ""
    if not text.strip():  # the page that stands for a folder often says what is in it, and nothing more
        text = str(metadata.get("description", ""))
    return Loaded("markdown", text, plain_heading(title), metadata)
