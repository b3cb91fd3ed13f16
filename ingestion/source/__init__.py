"""Where documents come from. `parse_sources()` reads arguments; every kind of source has its own file."""

from __future__ import annotations

from ingestion.source.items import Body, Content, Found, Problem, Source, below
from ingestion.source.local import path_of, uri_of
from ingestion.source.parse import parse_sources, vanished

__all__ = [
    "Body",
    "Content",
    "Found",
    "Problem",
    "Source",
    "below",
    "parse_sources",
    "path_of",
    "uri_of",
    "vanished",
]
