"""One file's bytes to one Document, whatever its format."""

from ingestion.load.document import VERSION, load
from ingestion.load.formats import NAMES, SUFFIXES, supports

__all__ = ["NAMES", "SUFFIXES", "VERSION", "load", "supports"]
