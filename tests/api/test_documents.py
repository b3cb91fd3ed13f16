"""Documents over HTTP, with a real catalog, store and worker; only the embedding model is a hash."""

from __future__ import annotations

import base64
from dataclasses import replace

from serving.errors import EmbedderUnavailable
from serving.index.catalog_models import Upload
from tests.api.conftest import Desk
from tests.ingestion.pdf import make_pdf

# -- uploads -----------------------------------------------------------------------------------------------------------


async def test_what_was_uploaded_is_found(desk: Desk) -> None:
    """The collection is made; an operation that was waited for is finished, and its documents answer."""
    done = await desk.done(
        {"uri": "https://example.org/tides", "text": "Spring tide.", "title": "Tides", "metadata": {"sea": "north"}},
        {"id": "notes/1", "text": "Neap tide."},
    )
    assert (done["object"], done["kind"], done["status"], done["generation"]) == ("operation", "upload", "succeeded", 1)
    assert [(found["uri"], found["state"], found["chunks"]) for found in done["documents"]] == [
        ("https://example.org/tides", "live", 1),
        (f"anchorage://{desk.collection}/notes/1", "live", 1),
    ]
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert await desk.texts() == {"Spring tide.", "Neap tide."}
    collection = (await desk.stage.http.get(f"/v1/collections/{desk.collection}")).json()
    assert (collection["documents"], collection["chunks"], collection["generation"]) == (2, 2, 1)
    assert collection["embedding_model"] == desk.settings.embedder.model
    assert collection["published_at"] <= done["finished_at"]
    listed = (await desk.stage.http.get("/v1/collections")).json()["data"]
    assert collection in listed
    document = (await desk.stage.http.get(f"{desk.documents}/{done['documents'][0]['id']}")).json()
    assert (document["state"], document["title"], document["generation"]) == ("live", "Tides", 1)
    filtered = {"query": "tide", "collection": desk.collection, "filter": {"sea": "north"}}
    assert [passage["uri"] for passage in (await desk.stage.http.post("/v1/search", json=filtered)).json()["data"]] == [
        "https://example.org/tides"
    ]


async def test_without_waiting_the_operation_is_polled(desk: Desk) -> None:
    """202, with the place to look at and the documents' ids."""
    reply = await desk.stage.http.post(desk.documents, json={"text": "A tide alone."})
    assert reply.status_code == 202, reply.text
    operation = reply.json()
    assert reply.headers["location"] == f"/v1/operations/{operation['id']}"
    assert operation["documents"][0]["uri"].startswith(f"anchorage://{desk.collection}/")
    done = await desk.until(operation["id"], lambda found: found["finished_at"])
    assert done["status"] == "succeeded"
    assert done["documents"][0]["id"] == operation["documents"][0]["id"]
    listed = (await desk.stage.http.get("/v1/operations", params={"collection": desk.collection})).json()["data"]
    assert listed == [done]
    again = await desk.done({"text": "A tide alone."})
    assert again["documents"][0]["id"] == operation["documents"][0]["id"], "the same content, the same document"


async def test_files_of_a_form(desk: Desk) -> None:
    """Each with its own metadata; a page's number is kept, an uploaded name is the document's."""
    files = [
        ("file", ("lights.pdf", make_pdf(["The tide table.", "A light."]), "application/pdf")),
        ("file", ("rope", b"<html><body><p>A rope holds against the tide.</p></body></html>", "text/html")),
    ]
    data = {"metadata": ['{"kind": "book"}', '{"kind": "page"}']}
    reply = await desk.stage.http.post(f"{desk.documents}?wait=true", files=files, data=data)
    assert reply.status_code == 200, reply.text
    assert [(found["uri"].rpartition("/")[2], found["state"]) for found in reply.json()["documents"]] == [
        ("lights.pdf", "live"),
        ("rope", "live"),
    ]
    body = {"query": "tide", "collection": desk.collection, "mode": "text"}
    passages = (await desk.stage.http.post("/v1/search", json=body)).json()["data"]
    assert {(passage["metadata"]["kind"], passage["metadata"].get("page")) for passage in passages} == {
        ("book", 1),
        ("page", None),
    }


async def test_bytes_in_json(desk: Desk) -> None:
    """As base64, with a name or a format that says what they are."""
    content = base64.b64encode(make_pdf(["The tide table."])).decode()
    done = await desk.done({"name": "table.pdf", "content": content}, {"id": "b", "content": content, "format": "pdf"})
    assert [found["state"] for found in done["documents"]] == ["live", "live"]


async def test_the_same_uri_replaces(desk: Desk) -> None:
    """Nothing of the old text answers any more, and there is one document."""
    await desk.done({"id": "a", "text": "The old tide."})
    await desk.done({"id": "a", "text": "The new tide."})
    assert await desk.texts() == {"The new tide."}
    listed = (await desk.stage.http.get(desk.documents)).json()
    assert [(found["chunks"], found["state"]) for found in listed["data"]] == [(1, "live")]


async def test_a_bad_file_fails_alone(desk: Desk) -> None:
    """The others of its upload are published; the reason is told."""
    files = [("file", ("good.txt", b"A good tide.")), ("file", ("bad.pdf", b"no PDF")), ("file", ("x.zzz", b"?"))]
    reply = await desk.stage.http.post(f"{desk.documents}?wait=true", files=files)
    done = reply.json()
    assert (reply.status_code, done["status"]) == (200, "failed")
    assert [found["state"] for found in done["documents"]] == ["live", "failed", "failed"]
    assert "not a PDF" in done["documents"][1]["reason"]
    assert "not supported" in done["documents"][2]["reason"]
    assert done["error"].startswith("2 of 3 documents failed")
    assert await desk.texts() == {"A good tide."}
    failed = (await desk.stage.http.get(desk.documents, params={"state": "failed"})).json()["data"]
    assert [found["uri"].rpartition("/")[2] for found in failed] == ["bad.pdf", "x.zzz"]


async def test_a_key_makes_a_request_repeatable(desk: Desk) -> None:
    """The same key, the same operation; another request under it is refused."""
    document = {"id": "a", "text": "A tide."}
    first = await desk.post(document, wait=False, **{"Idempotency-Key": "k"})
    second = await desk.post(document, **{"Idempotency-Key": "k"})
    assert first.json()["id"] == second.json()["id"]
    third = await desk.post(document, **{"Idempotency-Key": "k"})
    assert third.json() == second.json()
    other = await desk.post({"id": "a", "text": "Another."}, **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert await desk.texts() == {"A tide."}


async def test_lists_have_pages(desk: Desk) -> None:
    """By uri, each document once, those that were removed not."""
    done = await desk.done(*({"id": f"d{number}", "text": f"Tide {number}."} for number in range(5)))
    await desk.stage.http.delete(f"{desk.documents}/{done['documents'][1]['id']}?wait=true")
    seen: list[str] = []
    after = ""
    while True:
        page = (await desk.stage.http.get(desk.documents, params={"limit": 2, "after": after})).json()
        seen += [found["uri"].rpartition("/")[2] for found in page["data"]]
        if not page["has_more"]:
            break
        after = page["next"]
    assert seen == ["d0", "d2", "d3", "d4"]


# -- removals ----------------------------------------------------------------------------------------------------------


async def test_a_deleted_document_is_gone_with_a_receipt(desk: Desk) -> None:
    """From every generation and the catalog's texts; it may be uploaded again."""
    done = await desk.done({"id": "a", "text": "The first tide."}, {"id": "b", "text": "The second tide."})
    id, uri = done["documents"][0]["id"], done["documents"][0]["uri"]
    await desk.done({"id": "a", "text": "The third tide."})
    reply = await desk.stage.http.delete(f"{desk.documents}/{id}?wait=true")
    assert reply.status_code == 200, reply.text
    gone = reply.json()
    assert (gone["kind"], gone["status"], gone["documents"][0]["state"]) == ("delete", "succeeded", "gone")
    assert gone["receipt"]["proven"]
    assert gone["receipt"]["rows_removed"] == 2
    assert await desk.texts() == {"The second tide."}
    build = await desk.parts.catalog.live_build(desk.collection)
    assert build is not None
    assert await desk.parts.store.keys(build.index, build.key, [uri]) == []
    assert await desk.parts.catalog.text(desk.collection, uri) is None
    assert (await desk.stage.http.get(f"{desk.documents}/{id}")).json()["state"] == "gone"
    collection = (await desk.stage.http.get(f"/v1/collections/{desk.collection}")).json()
    assert (collection["documents"], collection["chunks"]) == (1, 1)
    await desk.done({"id": "a", "text": "The fourth tide."})
    assert await desk.texts() == {"The second tide.", "The fourth tide."}


async def test_wishes_are_fulfilled_in_their_order(desk: Desk) -> None:
    """However many are taken together: what was asked for last is what there is."""
    operations = desk.parts.catalog.operations
    uri = "test://a"
    made = [
        await operations.enqueue(desk.collection, "upload", [Upload(uri, b"One tide.", "a.txt")]),
        await operations.enqueue(desk.collection, "upload", [Upload(uri, b"Two tides.", "a.txt")]),
        await operations.enqueue(desk.collection, "delete", [uri]),
        await operations.enqueue(desk.collection, "upload", [Upload(uri, b"Three tides.", "a.txt")]),
    ]
    for operation in made:
        done = await desk.until(operation.id, lambda found: found["finished_at"])
        assert done["status"] == "succeeded", done
    assert await desk.texts("tides") == {"Three tides."}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_what_another_run_is_changing_waits(desk: Desk) -> None:
    """The upload says why, and so does a removal that was asked for after it; both end when the other run has."""
    done = await desk.done({"id": "a", "text": "The first tide."}, {"id": "b", "text": "Another tide."})
    id, uri = done["documents"][0]["id"], done["documents"][0]["uri"]
    catalog = desk.parts.catalog
    build = await catalog.live_build(desk.collection)
    assert build is not None
    run = await catalog.begin_run(build, "bulk")
    record = (await catalog.lookup(build.key, [uri]))[uri]
    await catalog.record(build.key, [replace(record, state="parsed", snapshot=run.snapshot)])
    upload = (await desk.post({"id": "a", "text": "The second tide."}, wait=False)).json()
    removal = (await desk.stage.http.delete(f"{desk.documents}/{id}")).json()
    free = await desk.done({"id": "b", "text": "A changed tide."})
    assert free["status"] == "succeeded"
    waits = await desk.until(upload["id"], lambda found: found["reason"])
    assert (waits["status"], uri in waits["reason"]) == ("queued", True)
    waits = await desk.until(removal["id"], lambda found: found["reason"])
    assert waits["status"] == "queued"
    assert await desk.texts() == {"The first tide.", "A changed tide."}
    await catalog.record(build.key, [record])
    for operation in (upload, removal):
        ended = await desk.until(operation["id"], lambda found: found["finished_at"])
        assert (ended["status"], ended["reason"]) == ("succeeded", None)
    assert await desk.texts() == {"A changed tide."}


async def test_a_part_that_is_away_is_waited_for(desk: Desk) -> None:
    """The operation stays, with the reason, and is done when the part is there again."""
    desk.model.failure = EmbedderUnavailable("The embedder is away.")
    try:
        operation = (await desk.post({"id": "a", "text": "A tide."}, wait=False)).json()
        waits = await desk.until(operation["id"], lambda found: found["reason"])
        assert (waits["status"], waits["reason"]) == ("queued", "The embedder is away.")
    finally:
        desk.model.failure = None
    ended = await desk.until(operation["id"], lambda found: found["finished_at"])
    assert ended["status"] == "succeeded"
