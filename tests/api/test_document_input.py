"""Uploads, deletions and questions about documents that cannot be served as asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Desk, Room, Staging

JSON = {"content-type": "application/json"}
TEXT = b'{"text": "x"}'


@pytest.mark.parametrize(
    ("collection", "headers", "body", "status", "param"),
    [
        ("docs", JSON, b"{", 400, None),
        ("docs", JSON, b"{}", 400, None),
        ("docs", JSON, b"[]", 400, None),
        ("docs", JSON, b'{"documents": []}', 400, "documents"),
        ("docs", JSON, b'{"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}', 400, "documents[1].uri"),
        ("docs", JSON, b'{"documents": [%s]}' % b",".join([TEXT] * 6), 400, "documents"),
        ("docs", JSON, b'{"documents": [{"text": "a", "content": "YQ=="}]}', 400, "documents[0]"),
        ("docs", JSON, b'{"text": "a", "uri": "u", "id": "i"}', 400, None),
        ("docs", JSON, b'{"text": ""}', 400, "text"),
        ("docs", JSON, b'{"text": 1}', 400, "text"),
        ("docs", JSON, b'{"text": "a", "txet": "b"}', 400, "txet"),
        ("docs", JSON, b'{"content": "%%%", "format": "pdf"}', 400, "content"),
        ("docs", JSON, b'{"content": "YQ=="}', 400, "content"),
        ("docs", JSON, b'{"text": "a", "format": "../x"}', 400, "format"),
        ("docs", JSON, b'{"text": "a", "uri": "%s"}' % ("\u00e4" * 1500).encode(), 400, "documents[0].uri"),
        ("docs", JSON, b'{"text": "a", "metadata": {"a": "%s"}}' % (b"x" * 40_000), 400, "metadata"),
        ("docs", JSON, b'{"text": "%s"}' % (b"x" * 200_000), 413, None),
        ("docs", {"content-type": "text/plain"}, b"x", 415, None),
        ("docs", {"content-type": "multipart/form-data"}, b"x", 400, None),
        ("docs", {"content-type": "multipart/form-data; boundary=b"}, b"--b--\r\n", 400, "file"),
        ("no such name", JSON, TEXT, 400, "collection"),
        ("~2", JSON, TEXT, 400, "collection"),
        ("x" * 129, JSON, TEXT, 400, "collection"),
        ("docs", {**JSON, "idempotency-key": "x" * 300}, TEXT, 400, "Idempotency-Key"),
    ],
)
async def test_wrong_uploads_are_refused(
    room: Room, collection: str, headers: dict[str, str], body: bytes, status: int, param: str | None
) -> None:
    """Before anything is kept, in OpenAI's shape, naming the field."""
    reply = await room.stage.http.post(f"/v1/collections/{collection}/documents", content=body, headers=headers)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error
    assert await room.parts.catalog.operations.latest(collection) == []


@pytest.mark.parametrize("data", [{"metadata": "["}, {"metadata": "[1]"}, {"uri": ["a", "b"]}, {"title": ["a", "b"]}])
async def test_wrong_forms_are_refused(room: Room, data: dict[str, Any]) -> None:
    """What is told of the files does not fit them."""
    reply = await room.stage.http.post("/v1/collections/docs/documents", files=[("file", ("a.txt", b"x"))], data=data)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(data)))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/collections/nowhere", 404, "collection_not_found"),
        ("GET", "/v1/collections/nowhere/documents", 404, "collection_not_found"),
        ("GET", "/v1/collections/nowhere/documents/x", 404, "collection_not_found"),
        ("DELETE", "/v1/collections/nowhere/documents/x", 404, "collection_not_found"),
        ("GET", "/v1/operations/x", 404, "not_found"),
        ("GET", "/v1/operations?limit=0", 400, "invalid_value"),
    ],
)
async def test_unknown_things(room: Room, method: str, path: str, status: int, code: str) -> None:
    """404 says what there is not."""
    reply = await room.stage.http.request(method, path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_wrong_pages(desk: Desk) -> None:
    """Of a collection that there is."""
    done = await desk.done({"id": "a", "text": "A tide."})
    for parameters, param in (({"limit": 0}, "limit"), ({"after": "é"}, "after"), ({"state": "x"}, "state")):
        reply = await desk.stage.http.get(desk.documents, params=parameters)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    unknown = done["documents"][0]["id"][::-1]
    assert (await desk.stage.http.get(f"{desk.documents}/{unknown}")).status_code == 404
    assert (await desk.stage.http.delete(f"{desk.documents}/{unknown}")).status_code == 404


async def test_changes_can_be_switched_off(staged: Staging) -> None:
    """Lists stay."""
    async with staged(uploads=False) as stage:
        reply = await stage.http.post("/v1/collections/docs/documents", json={"text": "x"})
        assert reply.status_code == 405
        assert (await stage.http.get("/v1/collections")).status_code == 200


async def test_keys_guard_documents_too(staged: Staging) -> None:
    """Nothing is read or kept without one."""
    async with staged(keys=("secret",)) as stage:
        for method, path in (("POST", "/v1/collections/docs/documents"), ("GET", "/v1/operations")):
            assert (await stage.http.request(method, path)).status_code == 401
