"""The filter compiler alone: what it writes, and where it says a filter is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidFilter
from serving.index.expressions import literal
from serving.index.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_STRING, compile_filter


@pytest.mark.parametrize(
    ("given_filter", "expression"),
    [
        (None, ""),
        ({}, ""),
        ({"author": "Ada"}, '((metadata["author"] == "Ada"))'),
        ({"type": "pod"}, '((metadata["type"] == "pod"))'),
        ({"type": "gte", "key": "year", "value": -2.5}, '(metadata["year"] >= -2.5)'),
        ({"type": "eq", "key": "uri", "value": 'a"b'}, '(uri == "a\\"b")'),
        ({"type": "in", "key": "year", "value": [1, 2]}, '(metadata["year"] == 1 or metadata["year"] == 2)'),
        (
            {"type": "or", "filters": [{"a": True}, {"type": "eq", "key": "b", "value": "x"}]},
            '(((metadata["a"] == true)) or (metadata["b"] == "x"))',
        ),
    ],
)
def test_a_filter_becomes_an_expression(given_filter: Any, expression: str) -> None:
    """The grammar of OpenAI's vector stores and the short form, written in Milvus's language."""
    assert compile_filter(given_filter) == expression


def nested(depth: int) -> Any:
    value: Any = {"a": 1}
    for _ in range(depth - 1):
        value = {"type": "and", "filters": [value]}
    return value


@pytest.mark.parametrize(
    ("given_filter", "place"),
    [
        ("author == 'x'", "filter"),
        ([], "filter"),
        ({"type": "and", "filters": []}, "filter.filters"),
        ({"type": "and", "filters": {}}, "filter.filters"),
        ({"type": "and"}, "filter.filters"),
        ({"type": "and", "filters": [{}]}, "filter.filters[0]"),
        ({"type": "nand", "filters": [{"a": 1}]}, "filter.type"),
        ({"type": ["and"], "filters": [{"a": 1}]}, "filter.type"),
        ({"type": "like", "key": "a", "value": "x"}, "filter.type"),
        ({"type": "eq", "key": "a"}, "filter.value"),
        ({"type": "eq", "value": 1}, "filter.key"),
        ({"type": "eq", "key": 1, "value": 1}, "filter.key"),
        ({"type": "eq", "key": "", "value": 1}, "filter.key"),
        ({"type": "eq", "key": "a", "value": 1, "extra": 1}, "filter"),
        ({"type": "and", "filters": [{"a": 1}, {"type": "eq", "key": "b", "value": None}]}, "filter.filters[1].value"),
        ({"type": "eq", "key": "a", "value": {"b": 1}}, "filter.value"),
        ({"type": "gt", "key": "a", "value": True}, "filter.value"),
        ({"type": "gt", "key": "a", "value": float("nan")}, "filter.value"),
        ({"a": float("inf")}, "filter.a"),
        ({"a": 2**63}, "filter.a"),
        ({"a": "x" * (MAX_STRING + 1)}, "filter.a"),
        ({"a": "\ud800"}, "filter.a"),
        ({"uri": 5}, "filter.uri"),
        ({"type": "in", "key": "a", "value": "x"}, "filter.value"),
        ({"type": "in", "key": "a", "value": []}, "filter.value"),
        ({"type": "in", "key": "a", "value": [1, None]}, "filter.value[1]"),
        ({"type": "in", "key": "a", "value": [1] * (MAX_CONDITIONS + 1)}, "filter"),
        ({f"k{i}": i for i in range(MAX_CONDITIONS + 1)}, "filter"),
        (nested(MAX_DEPTH + 1), "filter" + ".filters[0]" * MAX_DEPTH),
    ],
)
def test_a_wrong_filter_is_refused_with_its_place(given_filter: Any, place: str) -> None:
    """The message and `param` name the place; nothing wrong gets through."""
    with pytest.raises(InvalidFilter) as caught:
        compile_filter(given_filter)
    assert caught.value.param == place
    assert str(caught.value).startswith(place)


def test_a_filter_may_be_as_deep_as_allowed() -> None:
    """The limit itself is allowed."""
    assert compile_filter(nested(MAX_DEPTH))


@given(st.text())
def test_a_literal_is_one_string_token(text: str) -> None:
    """Whatever the text, its literal ends where it ends: read by JSON's rules for strings it gives the text again."""
    written = literal(text)
    assert "\n" not in written
    assert json.loads(written, strict=False) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "key", "value", "filters", "a"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_compiles_or_is_refused(value: Any) -> None:
    """No input makes the compiler fail in another way, and every refusal can be sent as JSON."""
    try:
        compiled = compile_filter(value)
    except InvalidFilter as error:
        compiled = f"{error} {error.param}"
    assert isinstance(compiled.encode(), bytes)
