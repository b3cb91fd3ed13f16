"""Filters on a real Milvus Lite server: they select what they say, and nothing gets out of a literal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.index.filters import compile_filter
from serving.index.milvus import Milvus
from serving.settings import IndexSettings
from tests.contract.conftest import MilvusLiteServer
from tests.contract.corpus import request, stored

DOCUMENTS: dict[str, dict[str, Any]] = {
    "ada": {"author": "Ada", "year": 1843, "score": 0.5, "draft": False, "tags": ["x"]},
    "grace": {"author": "Grace", "year": 1952, "score": -1.5, "draft": True},
    "odd": {"author": "O\"Brien \\ 'x'\nnext", 'key"\\\n': "value", "year": "1952"},
    "bare": {},
}


@pytest.fixture(scope="module")
async def filtered(milvus_lite: MilvusLiteServer, index: str) -> Any:
    """Asks for the documents that a filter selects."""
    store = Milvus.connect(IndexSettings(milvus_uri=milvus_lite.uri, tenant="filtering"))
    rows = [
        stored(name, uri=f"file:///{name}.md", title=name.title(), ordinal=i, metadata=metadata)
        for i, (name, metadata) in enumerate(DOCUMENTS.items())
    ]
    await store.upsert(index, rows)
    await store.upsert(index, [stored("other", collection="other", metadata={"author": "Ada"})])

    async def ask(value: Any) -> set[str]:
        hits = await store.search(request(index, expression=compile_filter(value), limit=20))
        return {hit.passage.text for hit in hits}

    yield ask
    await store.close()


def condition(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"author": "Ada"}, {"ada"}),
        ({"author": "Ada", "year": 1952}, set()),
        ({"year": 1952}, {"grace"}),
        ({"year": "1952"}, {"odd"}),
        ({"draft": True}, {"grace"}),
        ({"draft": False}, {"ada"}),
        ({"author": "O\"Brien \\ 'x'\nnext"}, {"odd"}),
        ({'key"\\\n': "value"}, {"odd"}),
        ({"uri": "file:///bare.md"}, {"bare"}),
        ({"title": "Grace"}, {"grace"}),
        (condition("ne", "author", "Ada"), {"grace", "odd", "bare"}),
        (condition("ne", "title", "Ada"), {"grace", "odd", "bare"}),
        (condition("ne", "year", 1843), {"grace", "odd", "bare"}),
        (condition("gt", "year", 1900), {"grace"}),
        (condition("gte", "score", 0.5), {"ada"}),
        (condition("lt", "score", 0), {"grace"}),
        (condition("lte", "score", -1.5), {"grace"}),
        (condition("gt", "author", "B"), {"grace", "odd"}),
        (condition("in", "author", ["Ada", "Nobody"]), {"ada"}),
        (condition("in", "year", [1843, "1952"]), {"ada", "odd"}),
        (condition("in", "title", ["Ada", "Bare"]), {"ada", "bare"}),
        (condition("in", "year", [*range(255), 1952]), {"grace"}),
        (condition("nin", "author", ["Ada", "Grace"]), {"odd", "bare"}),
        (condition("nin", "title", ["Ada", "Grace"]), {"odd", "bare"}),
        (condition("eq", "missing", "x"), set()),
        ({"type": "and", "filters": [condition("gt", "year", 1800), {"draft": True}]}, {"grace"}),
        ({"type": "or", "filters": [{"author": "Ada"}, condition("eq", "uri", "file:///bare.md")]}, {"ada", "bare"}),
        (
            {
                "type": "and",
                "filters": [
                    {"type": "or", "filters": [{"author": "Ada"}, {"author": "Grace"}]},
                    condition("ne", "draft", True),
                ],
            },
            {"ada"},
        ),
    ],
)
async def test_a_filter_selects_what_it_says(filtered: Any, value: Any, expected: set[str]) -> None:
    """Typed comparisons, missing attributes, reserved keys and groups."""
    assert await filtered(value) == expected


@pytest.mark.parametrize(
    "attack",
    [
        'x" or 1 == 1 or metadata["author"] == "',
        "x' or 1 == 1 or '",
        'x\\" or partition != "',
        "x\\",
        'x"\n or born >= 0 or uri == "',
        "x%",
        "{author}",
        "$meta",
        "x\u2028\u0000\x1b",
    ],
)
async def test_nothing_gets_out_of_a_literal(filtered: Any, attack: str) -> None:
    """What would widen a filter, written into keys and values, selects nothing, and nothing of another collection."""
    assert await filtered({"author": attack}) == set()
    assert await filtered({attack: "x"}) == set()
    assert await filtered({"uri": attack}) == set()
    assert await filtered(condition("in", attack, [attack])) == set()
    assert await filtered({"type": "or", "filters": [{"author": attack}, {attack: attack}]}) == set()


texts = st.text(max_size=30) | st.text(alphabet="\"'\\\n\r\t)]( or=1%", max_size=20)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=texts.filter(bool), value=texts)
async def test_any_text_finds_exactly_its_own_document(store: Milvus, index: str, key: str, value: str) -> None:
    """A document with any attribute is found by it, and not by any other value."""
    row = stored("one", metadata={key: value, "k": value})
    await store.upsert(index, [row])
    by_key = compile_filter({"type": "eq", "key": "k", "value": value})
    assert len(await store.search(request(index, expression=by_key))) == 1
    other = compile_filter({"type": "eq", "key": "k", "value": value + '"'})
    assert await store.search(request(index, expression=other)) == []
    if key not in ("uri", "title"):
        both = compile_filter({"type": "eq", "key": key, "value": value})
        assert len(await store.search(request(index, expression=both))) == 1
