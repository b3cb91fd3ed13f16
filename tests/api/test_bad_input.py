"""Every wrong request gets the right 4xx in OpenAI's shape, naming the field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from tests.api.conftest import Stage, Staging

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "What is a Pod?"}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [USER], **fields}


def said(*messages: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": list(messages)}


def check(reply: httpx.Response, status: int, param: str | None = None, code: str | None = None) -> None:
    """The reply is an error in OpenAI's shape."""
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param, error
    if code is not None:
        assert error["code"] == code


BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER]}, "model"),
    ({"model": "scripted"}, "messages"),
    (chat(model=5), "model"),
    (chat(model=""), "model"),
    (chat(messages="hello"), "messages"),
    (said(), "messages"),
    (said({"role": "system", "content": "x"}), "messages"),
    (said("hello"), "messages[0]"),
    (said({"role": "user"}), "messages[0].content"),
    (said({"role": "user", "content": None}), "messages[0].content"),
    (said({"role": "user", "content": ""}), "messages[0].content"),
    (said(USER, {"role": "user", "content": " \n"}), "messages[1].content"),
    (said({"role": "user", "content": []}), "messages[0].content"),
    (said({"role": "user", "content": 5}), "messages[0].content"),
    (said({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0].type"),
    (said({"role": "user", "content": [{"type": "text", "text": 1}]}), "messages[0].content[0].text"),
    (said({"role": "wizard", "content": "x"}), "messages[0].role"),
    (said({"content": "x"}), "messages[0].role"),
    (chat(stream="yes"), "stream"),
    (chat(stream_options={"include_usage": 1}), "stream_options.include_usage"),
    (chat(max_tokens=-1), "max_tokens"),
    (chat(max_tokens=0), "max_tokens"),
    (chat(max_tokens=10**12), "max_tokens"),
    (chat(max_tokens="5"), "max_tokens"),
    (chat(max_completion_tokens=0), "max_completion_tokens"),
    (chat(temperature=-0.1), "temperature"),
    (chat(temperature=2.1), "temperature"),
    (chat(temperature="0"), "temperature"),
    (chat(temperature=True), "temperature"),
    (chat(top_p=0), "top_p"),
    (chat(top_p=1.5), "top_p"),
    (chat(n=2), "n"),
    (chat(seed=1.5), "seed"),
    (chat(seed=2**70), "seed"),
    (chat(presence_penalty=3), "presence_penalty"),
    (chat(stop=5), "stop"),
    (chat(stop={"a": 1}), "stop"),
    (chat(stop=["a"] * 5), "stop"),
    (chat(stop=["a", 5]), "stop[1]"),
    (chat(stop=""), "stop"),
    (chat(tools="x"), "tools"),
    (chat(top_logprobs=21), "top_logprobs"),
    (chat(rag=[]), "rag"),
    (chat(rag={"colection": "x"}), "rag.colection"),
    (chat(rag={"top_k": 0}), "rag.top_k"),
    (chat(rag={"top_k": 10_000}), "rag.top_k"),
    (chat(rag={"top_k": "3"}), "rag.top_k"),
    (chat(rag={"min_score": 1.5}), "rag.min_score"),
    (chat(rag={"mode": "magic"}), "rag.mode"),
    (chat(rag={"on_cold": "panic"}), "rag.on_cold"),
    (chat(rag={"per_document": 0}), "rag.per_document"),
    (chat(rag={"filter": "x"}), "rag.filter"),
    (chat(model="scripted@other", rag={"collection": "default"}), "rag.collection"),
    (chat(model="extractive@none"), "model"),
]


@pytest.mark.parametrize(("body", "param"), BAD_CHATS, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_bad_field_is_named(stage: Stage, body: dict[str, Any], param: str) -> None:
    """400 with the field in dotted form, streamed or not."""
    check(await stage.post(CHAT, body), 400, param)
    if "stream" not in body:
        check(await stage.post(CHAT, {**body, "stream": True}), 400, param)


async def test_a_broken_filter_is_named_below_rag(stage: Stage) -> None:
    """The filter compiler's own place in the filter, behind `rag.`."""
    reply = await stage.post(CHAT, chat(rag={"filter": {"type": "eq", "key": 5, "value": 1}}))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"].startswith("rag.filter")
    assert error["code"] == "invalid_filter"


@pytest.mark.parametrize("model", ["gpt-4", "scripted@", "@", "scripted\x00", "embedding@default"])
async def test_unknown_models_are_404(stage: Stage, model: str) -> None:
    """The message lists the models there are."""
    reply = await stage.post(CHAT, chat(model=model))
    check(reply, 404, "model", "model_not_found")
    assert "scripted" in reply.json()["error"]["message"]


async def test_unknown_collections_are_404(stage: Stage) -> None:
    """Whichever way they were named, and the message lists those there are."""
    check(await stage.post(CHAT, chat(model="scripted@nowhere")), 404, "model", "collection_not_found")
    reply = await stage.post(CHAT, chat(rag={"collection": "nowhere"}, stream=True))
    check(reply, 404, "rag.collection", "collection_not_found")
    assert "other" in reply.json()["error"]["message"]
    check(await stage.post("/v1/search", {"query": "x", "collection": "nowhere"}), 404, "collection")
    check(await stage.post(CHAT, chat(rag={"collection": "a\x00b'\"; --"})), 404, "rag.collection")
    check(await stage.http.get("/v1/models/scripted@nowhere"), 404, "collection")


RAW: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"   ", "blank"),
    (b"{", "cut"),
    (b'{"model": "scripted", }', "comma"),
    (b"[]", "list"),
    (b'"text"', "string"),
    (b"null", "null"),
    (b'{"model": "\xff\xfe"}', "utf8"),
    (b'{"model": "\\ud800"}', "surrogate"),
    (b'{"temperature": NaN}', "nan"),
    (b'{"temperature": Infinity}', "infinity"),
    (b'{"temperature": 1e999}', "huge"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested"),
]


@pytest.mark.parametrize("path", [CHAT, "/v1/search"])
@pytest.mark.parametrize("raw", [raw for raw, _ in RAW], ids=[name for _, name in RAW])
async def test_what_is_not_a_json_object_is_400(stage: Stage, path: str, raw: bytes) -> None:
    """Strict JSON, in UTF-8, an object."""
    check(await stage.http.post(path, content=raw, headers={"content-type": "application/json"}), 400)


async def test_content_types(stage: Stage) -> None:
    """JSON under any of its names, or none; anything else is 415 and says what to send."""
    raw = b'{"query": "x"}'
    for good in ("application/json", "application/json; charset=utf-8", "application/vnd.api+json"):
        assert (await stage.http.post("/v1/search", content=raw, headers={"content-type": good})).status_code == 200
    assert (await stage.http.post("/v1/search", content=raw)).status_code == 200
    for bad in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "nonsense"):
        check(await stage.http.post("/v1/search", content=raw, headers={"content-type": bad}), 415)


async def test_a_body_over_the_limit_is_413(staged: Staging) -> None:
    """Declared or chunked; of an endless chunked body no more is read than the limit."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 512 * 1024 * 1024:
            sent += 65_536
            yield b" " * 65_536

    async with staged(max_body_bytes=1000) as stage:
        exact = b'{"query": "%s"}' % (b"x" * (1000 - 13))
        assert len(exact) == 1000
        assert (await stage.http.post("/v1/search", content=exact)).status_code == 200
        check(await stage.http.post("/v1/search", content=exact + b" "), 413, code="body_too_large")
        check(await stage.http.post("/v1/search", content=b" " * 20_000_000), 413, code="body_too_large")
        with suppress(httpx.TransportError):  # cut off while it was still sending
            check(await stage.http.post("/v1/search", content=endless()), 413)
    assert sent < 512 * 1024 * 1024


async def test_many_wrong_messages_are_refused_without_looking_at_all(stage: Stage) -> None:
    """Megabytes of tiny messages end at the limit on their number."""
    body = said(*[USER] * 50_000)
    check(await stage.post(CHAT, body), 400, "messages")
    check(await stage.post(CHAT, chat(logit_bias=dict.fromkeys(map(str, range(200_000)), "x"))), 400, "logit_bias")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1]}, "prompt[0]"),
        ({"prompt": [[1, 2]]}, "prompt[0]"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
    ],
)
async def test_bad_completions(stage: Stage, body: dict[str, Any], param: str) -> None:
    """One prompt of text, and nothing that is not offered."""
    check(await stage.post("/v1/completions", {"model": "scripted", **body}), 400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": " "}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x" * 9000}, "query"),
        ({"query": "x", "top_k": 0}, "top_k"),
        ({"query": "x", "top_k": 10_000}, "top_k"),
        ({"query": "x", "mode": "magic"}, "mode"),
        ({"query": "x", "min_score": 2}, "min_score"),
        ({"query": "x", "colection": "y"}, "colection"),
    ],
)
async def test_bad_searches(stage: Stage, body: dict[str, Any], param: str) -> None:
    """A misspelt field is an error here, too: the route is ours."""
    check(await stage.post("/v1/search", body), 400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, 2]}, "input[0]"),
        ({"input": [[1, 2]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
    ],
)
async def test_bad_embeddings(stage: Stage, body: dict[str, Any], param: str) -> None:
    """Texts only, and only the model's own dimensions."""
    check(await stage.post("/v1/embeddings", {"model": "hash", **body}), 400, param)


async def test_embeddings_by_another_model_are_404(stage: Stage) -> None:
    """A chat model does not embed."""
    check(await stage.post("/v1/embeddings", {"model": "scripted", "input": "a"}), 404, "model", "model_not_found")


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
async def test_a_bad_timeout_header_is_named(stage: Stage, value: str) -> None:
    """It is a positive number of seconds."""
    reply = await stage.post(CHAT, chat(), **{"X-Request-Timeout-Seconds": value})
    check(reply, 400, "X-Request-Timeout-Seconds")


async def test_unknown_urls_and_methods(stage: Stage) -> None:
    """404 and 405 in the same shape; 405 says what is allowed."""
    check(await stage.http.get("/v1/nothing"), 404, code="unknown_url")
    check(await stage.http.post("/v1/chat/completions/"), 404)
    reply = await stage.http.get(CHAT)
    check(reply, 405, code="method_not_allowed")
    assert reply.headers["allow"] == "POST"


async def test_the_openai_client_raises_its_own_errors(stage: Stage) -> None:
    """Status and shape are what the client's exception classes are chosen by."""
    with pytest.raises(openai.NotFoundError) as missing:
        await stage.client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await stage.client.chat.completions.create(model="scripted", messages=[])
    assert bad.value.param == "messages"
