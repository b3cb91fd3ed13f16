"""The store's contract, on a real Milvus Lite server."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from serving.errors import ConfigurationError, DocumentError, IndexUnavailable
from serving.index.milvus import Milvus
from serving.index.types import FOREVER
from serving.ports import free_port
from serving.settings import IndexSettings
from tests.contract.conftest import MilvusLiteServer
from tests.contract.corpus import DIMENSION, random_units, request, stored, unit


async def test_a_chunk_comes_back_as_it_was_written(store: Milvus, index: str) -> None:
    """Every field of a chunk survives the way through the store, whatever characters it has."""
    text = 'It\'s "quoted" \\ back\nnewline\ttab 日本語 🎉 \u0000 end'
    uri = "file:///odd 'name' \"x\" \\ é.md"
    written = stored(text, uri=uri, heading=("Über", "x > y"), start=7, ordinal=3, metadata={"a": [1, {"b": None}]})
    await store.upsert(index, [written])
    (hit,) = await store.search(request(index))
    passage, chunk = hit.passage, written.chunk
    assert (passage.chunk_id, passage.uri, passage.title, passage.text) == (chunk.id, uri, chunk.title, text)
    assert (passage.start, passage.end, passage.heading, passage.ordinal) == (7, chunk.end, chunk.heading, 3)
    assert dict(passage.metadata) == {"a": [1, {"b": None}]}
    assert hit.similarity == pytest.approx(1.0, abs=1e-5)
    assert [key.uri for key in await store.keys(index, "docs", [uri])] == [uri]


async def test_writing_twice_is_writing_once(store: Milvus, index: str) -> None:
    """An upsert repeated leaves one row, with the later content."""
    row = stored("same text")
    await store.upsert(index, [row])
    await store.upsert(index, [replace(row, chunk=replace(row.chunk, title="Later"))])
    assert await store.count(index, "docs", 1) == 1
    (hit,) = await store.search(request(index))
    assert hit.passage.title == "Later"


async def test_readers_see_one_generation_while_the_next_is_written(store: Milvus, index: str) -> None:
    """A run changes, adds and removes; readers of the old generation see none of it, readers of the new all of it."""
    old, kept, gone = (stored(text, ordinal=i) for i, text in enumerate(("old text", "kept text", "gone text")))
    await store.upsert(index, [old, kept, gone])
    await store.upsert(index, [stored("new text", born=2, ordinal=0)])
    await store.set_died(index, [old.key, gone.key], 2)
    await store.flush(index)

    async def texts(generation: int, mode: str) -> set[str]:
        query = request(index, generation=generation, text="text", mode=mode)  # type: ignore[arg-type]
        return {hit.passage.text for hit in await store.search(query)}

    for mode in ("dense", "text", "hybrid"):
        assert await texts(1, mode) == {"old text", "kept text", "gone text"}
        assert await texts(2, mode) == {"new text", "kept text"}
    assert (await store.count(index, "docs", 1), await store.count(index, "docs", 2)) == (3, 2)
    await store.purge(index, "docs", 2)
    assert await texts(2, "hybrid") == {"new text", "kept text"}
    assert await texts(1, "hybrid") == {"kept text"}
    left = await store.keys(index, "docs", [old.chunk.uri])
    assert {key.key for key in left} == {kept.key, stored("new text", born=2).key}


async def test_a_death_can_be_taken_back(store: Milvus, index: str) -> None:
    """A run that was given up leaves rows marked dead; the next one revives them."""
    row = stored("revived", metadata={"kept": "yes"})
    await store.upsert(index, [row])
    await store.set_died(index, [row.key], 2)
    assert [key.died for key in await store.keys(index, "docs", [row.chunk.uri])] == [2]
    await store.set_died(index, [row.key, "0" * 40 + "-9"], FOREVER)
    assert [key.died for key in await store.keys(index, "docs", [row.chunk.uri])] == [FOREVER]
    (hit,) = await store.search(request(index, generation=5, text="revived", mode="hybrid"))
    assert (hit.passage.text, dict(hit.passage.metadata)) == ("revived", {"kept": "yes"})
    assert hit.similarity == pytest.approx(1.0, abs=1e-5)


async def test_keys_says_what_a_writer_must_know(store: Milvus, index: str) -> None:
    """Keys of all rows of the named documents, dead ones too, and of no other document."""
    one, two = stored("one", uri="u1"), stored("two", uri="u2", died=4)
    await store.upsert(index, [one, two, stored("three", uri="u3")])
    keys = {key.uri: key for key in await store.keys(index, "docs", ["u1", "u2", "missing"])}
    assert {uri: (key.key, key.chunk_id, key.born, key.died) for uri, key in keys.items()} == {
        "u1": (one.key, one.chunk.id, 1, FOREVER),
        "u2": (two.key, two.chunk.id, 1, 4),
    }
    assert await store.keys(index, "docs", []) == []


async def test_keys_and_purge_go_beyond_one_page(store: Milvus, index: str) -> None:
    """More rows than a query may return are all listed, and all purged."""
    count = 9_000
    rows = [stored(f"chunk {i}", uri=f"u{i % 1500}", ordinal=i, died=2) for i in range(count)]
    await store.upsert(index, rows)
    await store.flush(index)
    keys = await store.keys(index, "docs", [f"u{i}" for i in range(1500)])
    assert len({key.key for key in keys}) == len(keys) == count
    await store.purge(index, "docs", 2)
    assert await store.keys(index, "docs", [f"u{i}" for i in range(1500)]) == []


async def test_deleted_rows_are_gone(store: Milvus, index: str) -> None:
    """Delete removes what it names, and nothing else, however often it is called."""
    one, two = stored("one", ordinal=0), stored("two", ordinal=1)
    await store.upsert(index, [one, two])
    for _ in range(2):
        await store.delete(index, [one.key])
    assert [hit.passage.text for hit in await store.search(request(index))] == ["two"]


async def test_tenants_and_collections_are_apart(milvus_lite: MilvusLiteServer, index: str) -> None:
    """No name, however contrived, shows one tenant another's chunks."""
    names = [("a", "b"), ("a/b", "c"), ("a", "b-c"), ("a%2Fb", "c"), ('a" or 1 == 1 or "', "c")]
    stores = {tenant: Milvus.connect(IndexSettings(milvus_uri=milvus_lite.uri, tenant=tenant)) for tenant, _ in names}
    for tenant, collection in names:
        await stores[tenant].upsert(index, [stored(f"{tenant} {collection} secret", collection=collection)])
    for tenant, collection in names:
        for mode in ("dense", "text", "hybrid"):
            query = request(index, collection=collection, text="secret", mode=mode)  # type: ignore[arg-type]
            hits = await stores[tenant].search(query)
            assert [hit.passage.text for hit in hits] == [f"{tenant} {collection} secret"]
    assert await stores["a"].search(request(index, collection="c")) == []
    for opened in stores.values():
        await opened.close()


async def test_text_search_finds_words_by_their_stem(store: Milvus, index: str) -> None:
    """BM25 finds inflected words and composed names, and nothing where no word matches."""
    await store.upsert(
        index,
        [
            stored("Network policies restrict traffic between pods.", ordinal=0),
            stored("The kube-proxy runs on each node.", ordinal=1),
            stored("Bread is baked from flour.", ordinal=2),
        ],
    )

    async def found(question: str) -> list[str]:
        query = request(index, text=question, mode="text")
        return [hit.passage.text.split()[0] for hit in await store.search(query)]

    assert await found("How does a policy restrict?") == ["Network"]
    assert await found("kube-proxy") == ["The"]
    assert await found("baking") == ["Bread"]
    assert await found("zebra") == []
    assert await found("what is the") == []


async def test_every_mode_knows_the_similarity(store: Milvus, index: str) -> None:
    """Similarity is the cosine between question and chunk, whichever way the chunk was found."""
    vectors = random_units(20)
    await store.upsert(index, [stored(f"word {i}", ordinal=i, vector=vector) for i, vector in enumerate(vectors)])
    query = random_units(1, seed=9)[0]
    for mode in ("dense", "text", "hybrid"):
        hits = await store.search(request(index, text="word", vector=query, limit=20, mode=mode))  # type: ignore[arg-type]
        assert len(hits) == 20
        for hit in hits:
            expected = float(vectors[hit.passage.ordinal] @ query)
            assert hit.similarity == pytest.approx(expected, abs=1e-5)


async def test_hybrid_is_reciprocal_rank_fusion_of_both(store: Milvus, index: str) -> None:
    """The order of hybrid search is that of the sums of 1/(k + rank) over the dense and the text ranking."""
    vectors = random_units(40, seed=3)
    texts = [f"apple {'pear ' * (i % 7)} {'plum ' * (i % 5)} n{i}" for i in range(40)]
    rows = [stored(t, ordinal=i, vector=v) for i, (t, v) in enumerate(zip(texts, vectors, strict=True))]
    await store.upsert(index, rows)
    question = request(index, text="pear plum", vector=random_units(1, seed=4)[0], limit=40)
    ranks = [
        {hit.passage.ordinal: rank for rank, hit in enumerate(await store.search(replace(question, mode=mode)), 1)}
        for mode in ("dense", "text")
    ]
    hybrid = [hit.passage.ordinal for hit in await store.search(replace(question, mode="hybrid"))]
    fused = [sum(1 / (60 + rank[ordinal]) for rank in ranks if ordinal in rank) for ordinal in hybrid]
    assert len(hybrid) == 40
    assert fused == pytest.approx(sorted(fused, reverse=True), abs=1e-6)


async def test_dense_ranking_is_that_of_brute_force(milvus_lite: MilvusLiteServer) -> None:
    """Over 5,000 random vectors of 384 dimensions, recall@10 against exact cosine is at least 0.99."""
    store = Milvus.connect(IndexSettings(milvus_uri=milvus_lite.uri))
    index = "anchorage_contract_recall"
    await store.ensure(index, 384)
    vectors = random_units(5_000, 384)
    await store.upsert(index, [stored(f"n{i}", ordinal=i, vector=vector) for i, vector in enumerate(vectors)])
    await store.flush(index)
    queries = random_units(50, 384, seed=1)
    found = 0
    for query in queries:
        exact = set(np.argsort(-(vectors @ query))[:10].tolist())
        hits = await store.search(request(index, vector=query, limit=10))
        assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
        found += len(exact & {hit.passage.ordinal for hit in hits})
    assert found / (10 * len(queries)) >= 0.99
    await store.close()


async def test_what_does_not_fit_is_the_documents_fault(store: Milvus, index: str) -> None:
    """A chunk too large in bytes, or not Unicode, is refused by name, before anything is written."""
    good = stored("good", ordinal=0)
    for bad in (stored("é" * 40_000, ordinal=1), stored("x", uri="file:///\udcff", ordinal=1)):
        with pytest.raises(DocumentError, match=r"bytes|Unicode"):
            await store.upsert(index, [good, bad])
    assert await store.count(index, "docs", 1) == 0
    await store.upsert(index, [stored("ok", title="é" * 5_000, ordinal=2)])
    (hit,) = await store.search(request(index))
    assert set(hit.passage.title) == {"é"}


async def test_an_index_of_another_make_is_refused(store: Milvus, index: str) -> None:
    """Another dimension is a configuration error; the same again is fine."""
    await store.ensure(index, DIMENSION)
    with pytest.raises(ConfigurationError, match="16 dimensions"):
        await store.ensure(index, DIMENSION * 2)
    with pytest.raises(ConfigurationError, match="no index"):
        await store.search(request("anchorage_missing"))


async def test_each_event_loop_has_its_own_connection(store: Milvus, index: str) -> None:
    """The same store answers in another thread's event loop, and here again afterwards."""
    await store.upsert(index, [stored("shared")])
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(store.count(index, "docs", 1))))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert found == [1]
    assert await store.count(index, "docs", 1) == 1


async def test_a_milvus_that_was_never_there_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """The error names Milvus and its address without the token, at once, and nothing else reaches the terminal."""
    uri = f"http://user:sesame@127.0.0.1:{free_port()}"
    milvus = Milvus.connect(IndexSettings(milvus_uri=uri, milvus_timeout_s=5))
    with pytest.raises(IndexUnavailable, match=r"Milvus at http://127\.0\.0\.1:\d+ does not answer") as caught:
        await milvus.ping()
    assert "sesame" not in str(caught.value)
    assert capfd.readouterr().err == ""


async def test_a_milvus_that_died_is_found_again(breakable_milvus: MilvusLiteServer) -> None:
    """Killed, it is named at once; started again on its port and folder, the same store works, text search included."""
    import signal

    store = Milvus.connect(IndexSettings(milvus_uri=breakable_milvus.uri, milvus_timeout_s=20))
    index = "anchorage_contract_restart"
    await store.ensure(index, DIMENSION)
    await store.upsert(index, [stored(f"restart {i}", ordinal=i, vector=unit(1.0, i)) for i in range(100)])
    await store.flush(index)
    question = request(index, text="restart", mode="hybrid")
    before = [hit.passage.ordinal for hit in await store.search(question)]
    for how in (signal.SIGKILL, signal.SIGINT):
        breakable_milvus.stop(how)
        outcomes = await asyncio.gather(*(store.search(question) for _ in range(8)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [IndexUnavailable] * 8
        with pytest.raises(IndexUnavailable, match="does not answer"):
            await store.ping()
        breakable_milvus.start()
        assert [hit.passage.ordinal for hit in await store.search(question)] == before
    await store.close()
