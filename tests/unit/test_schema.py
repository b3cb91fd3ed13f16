"""Names and rows of the index."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.index.schema import dimension_of, index_name, partition

names = st.text(min_size=1, max_size=30)


@given(names, st.integers(1, 8192))
def test_an_index_name_is_one_that_milvus_takes(model: str, dimension: int) -> None:
    """Letters, digits and underscores, not too long, and the dimension can be read back."""
    name = index_name(model, dimension)
    assert re.fullmatch(r"[a-z][a-z0-9_]{1,120}", name)
    assert dimension_of(name) == dimension


@pytest.mark.parametrize(("one", "other"), [("a/b", "a_b"), ("A-b", "a-b"), ("x" * 60 + "1", "x" * 60 + "2")])
def test_models_that_read_alike_have_indexes_of_their_own(one: str, other: str) -> None:
    """What is cut or folded away in the readable part still tells models apart."""
    assert index_name(one, 384) != index_name(other, 384)


@given(st.tuples(names, names), st.tuples(names, names))
def test_no_two_owners_share_a_partition(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Tenant and collection together, however they are named, are told apart."""
    assert (partition(*one) == partition(*other)) == (one == other)
