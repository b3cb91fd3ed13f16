"""Milvus's expression language: literals, and the conditions that the store itself needs.

Milvus Lite has no filter templates, so every value stands in the expression as a literal that is written here.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.index import schema

# What must be escaped inside double quotes; everything else stands for itself.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def literal(text: str) -> str:
    """A string as a literal."""
    return f'"{text.translate(_ESCAPES)}"'


def any_of(field: str, values: Sequence[str]) -> str:
    """True where the field has one of the values."""
    return f"{field} in [{', '.join(map(literal, values))}]"


def within(tenant: str, collection: str) -> str:
    """True for the chunks of one collection, whatever their generation."""
    return f"{schema.PARTITION} == {literal(schema.partition(tenant, collection))}"


def visible(tenant: str, collection: str, generation: int) -> str:
    """True for the chunks that readers of a generation see."""
    return f"{within(tenant, collection)} and {schema.BORN} <= {generation:d} and {schema.DIED} > {generation:d}"


def differing(tenant: str, collection: str, earlier: int, later: int) -> str:
    """True for the chunks that readers of one of two generations see, and not those of the other."""
    born, died = schema.BORN, schema.DIED
    only_earlier = f"{born} <= {earlier:d} and {died} > {earlier:d} and {died} <= {later:d}"
    only_later = f"{born} > {earlier:d} and {born} <= {later:d} and {died} > {later:d}"
    return f"{within(tenant, collection)} and (({only_earlier}) or ({only_later}))"
