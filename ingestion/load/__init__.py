"""One file's bytes to one Document, whatever its format."""

from ingestion.load.document import VERSION, load
from ingestion.load.formats import SUFFIXES

__all__ = ["SUFFIXES", "VERSION", "load"]
