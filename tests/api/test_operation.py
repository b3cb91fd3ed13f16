"""Health, metrics, request ids, keys, models, embeddings, search."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import openai
import pytest
from structlog.testing import capture_logs

from serving.api.auth import read_keys
from serving.errors import ConfigurationError, EngineCold, IndexUnavailable
from serving.settings import ApiSettings
from tests.api.conftest import DIMENSION, Stage, Staging


async def test_alive_is_not_ready(staged: Staging) -> None:
    """A part that is down makes the server unready and is named with its reason; a cold LLM does not."""

    async def fine() -> None: ...

    async def down() -> None:
        raise IndexUnavailable("Milvus does not answer.")

    async def cold() -> None:
        raise EngineCold("The LLM is starting.")

    async with staged(probes={"catalog": fine, "milvus": down, "llm": cold}) as stage:
        assert (await stage.http.get("/healthz")).status_code == 200
        reply = await stage.http.get("/readyz")
        assert reply.status_code == 503
        assert reply.json() == {
            "ready": False,
            "missing": ["milvus"],
            "parts": {
                "catalog": {"ready": True},
                "milvus": {"ready": False, "reason": "Milvus does not answer."},
                "llm": {"ready": False, "reason": "The LLM is starting."},
            },
        }
    async with staged(probes={"llm": cold}) as stage:
        assert (await stage.http.get("/readyz")).status_code == 200


async def test_metrics_count_what_was_done(staged: Staging) -> None:
    """Requests by status, answers by outcome, tokens, citations, stages, first tokens."""
    async with staged() as stage:
        await stage.chat()
        await stage.chat(stream=True)
        await stage.chat(top_p=5)
        await stage.http.get("/v1/../secret-path")
        text = (await stage.http.get("/metrics")).text
    for line in (
        'anchorage_requests_total{method="POST",route="/v1/chat/completions",status="200"} 2.0',
        'anchorage_requests_total{method="POST",route="/v1/chat/completions",status="400"} 1.0',
        'anchorage_answers_total{engine="vllm",outcome="answered"} 2.0',
        'anchorage_tokens_total{kind="completion"} 28.0',
        "anchorage_citations_total 4.0",
        'anchorage_stage_seconds_count{stage="search"} 2.0',
        'anchorage_first_token_seconds_count{engine="vllm"} 2.0',
        'anchorage_requests_running{pool="answers"} 0.0',
        'anchorage_engine_running{model="scripted"} 0.0',
    ):
        assert line in text
    assert "secret-path" not in text


async def test_metrics_come_from_whom_the_builder_named(staged: Staging) -> None:
    """A deployment can merge the text of all replicas."""

    async def merged() -> bytes:
        return b"merged 1\n"

    async with staged(metrics=merged) as stage:
        reply = await stage.http.get("/metrics")
        assert (reply.text, reply.headers["content-type"][:10]) == ("merged 1\n", "text/plain")


@pytest.mark.parametrize("sent", ["abc-123", "0" * 128])
async def test_a_sane_request_id_is_kept(stage: Stage, sent: str) -> None:
    """It comes back on success and on error."""
    for body in ({"query": "x"}, {}):
        reply = await stage.post("/v1/search", body, **{"X-Request-Id": sent})
        assert reply.headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "0" * 129, "a b", 'x"y', "ümlaut"])
async def test_any_other_request_id_is_replaced(stage: Stage, sent: str) -> None:
    """Nothing that a caller made up reaches a log line or a header unchecked."""
    made = (await stage.post("/v1/search", {"query": "x"}, **{"X-Request-Id": sent})).headers["x-request-id"]
    assert len(made) == 32
    assert made != sent


async def test_the_access_log_has_one_line_a_request(stage: Stage) -> None:
    """Method, route, status, time, model and outcome; never what was asked."""
    with capture_logs() as logs:
        await stage.chat("What is my secret?", model="scripted@other")
        await stage.http.get("/v1/models/secret")
    answer, model = [line for line in logs if line["event"] == "request"]
    assert (answer["method"], answer["route"], answer["status"]) == ("POST", "/v1/chat/completions", 200)
    assert (answer["model"], answer["outcome"]) == ("scripted", "answered")
    assert answer["ms"] > 0
    assert (model["status"], model["error"]) == (404, "model_not_found")
    assert "secret" not in str(logs)


async def test_keys_open_everything_but_probes_and_metrics(staged: Staging, tmp_path: Path) -> None:
    """From the setting and from the file; anything else is 401 in OpenAI's shape, and no key is ever logged."""
    file = tmp_path / "keys"
    file.write_text("# ours\n\n  key-from-file  \nkey-two\n")
    with capture_logs() as logs:
        async with staged(keys=("key-set", "schlüssel"), keys_file=file, key="key-from-file") as stage:
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await stage.http.get(path)).status_code == 200
            for path in ("/v1/models", "/docs", "/openapi.json", "/nothing"):
                assert (await stage.http.get(path)).status_code == 401
            for wrong in ("", "Bearer", "Bearer key", "Bearer key-set2", "Basic key-set", "key-set"):
                reply = await stage.http.get("/v1/models", headers={"Authorization": wrong})
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
                assert reply.headers["www-authenticate"].startswith("Bearer")
            for key in ("key-set", "key-from-file", "key-two", "schlüssel"):
                headers = {"Authorization": f"Bearer {key}".encode()}
                assert (await stage.http.get("/v1/models", headers=headers)).status_code == 200
            assert (await stage.client.models.list()).data
            with pytest.raises(openai.AuthenticationError):
                await stage.client.with_options(api_key="wrong-key").models.list()
    assert "key" not in str([{**line, "error": ""} for line in logs])


def test_key_files_that_would_open_the_server_are_refused(tmp_path: Path) -> None:
    """A missing or empty file, or an empty key, is a configuration error, not an open door."""
    empty = tmp_path / "empty"
    empty.write_text("\n# nothing\n")
    for settings in (
        ApiSettings(keys_file=empty),
        ApiSettings(keys_file=tmp_path / "missing"),
        ApiSettings(keys=("",)),
    ):
        with pytest.raises(ConfigurationError):
            read_keys(settings)
    assert read_keys(ApiSettings()) == ()


async def test_models_are_every_name_a_request_may_carry(stage: Stage) -> None:
    """Each listed id can be got, and chatted or embedded with."""
    ids = [model.id async for model in stage.client.models.list()]
    assert set(ids) == {
        *("scripted", "scripted@none", "scripted@default", "scripted@other"),
        *("extractive", "extractive@default", "extractive@other", "hash"),
    }
    for name in ids:
        assert (await stage.client.models.retrieve(name)).id == name
        if name != "hash":
            assert (await stage.chat(model=name)).status_code == 200


async def test_embeddings_in_both_formats(stage: Stage) -> None:
    """The client's default (base64) and floats are the same unit vectors, in order, with usage."""
    texts = [f"text number {n}" for n in range(130)]
    default = await stage.client.embeddings.create(model="hash", input=texts)
    floats = await stage.client.embeddings.create(model="hash", input=texts, encoding_format="float")
    coded = await stage.client.embeddings.create(model="hash", input=texts, encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(str(row.embedding)), dtype="<f4") for row in coded.data]
    np.testing.assert_array_equal(np.array([row.embedding for row in default.data], dtype=np.float32), decoded)
    np.testing.assert_array_equal(np.array([row.embedding for row in floats.data], dtype=np.float32), decoded)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, rtol=1e-5)
    assert [row.index for row in floats.data] == list(range(130))
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == 390
    one = await stage.client.embeddings.create(model="hash", input="text number 7", dimensions=DIMENSION)
    assert one.data[0].embedding == default.data[7].embedding


async def test_search_gives_passages(stage: Stage) -> None:
    """Every field of a passage, by default without a threshold, from the default collection."""
    reply = (await stage.post("/v1/search", {"query": "Pod", "top_k": 1})).json()
    assert reply["object"] == "list"
    assert reply["data"] == [
        {
            "chunk_id": "c1",
            "uri": "docs/pods.md",
            "title": "Pods",
            "text": "A Pod is the smallest deployable unit.",
            "start": 0,
            "end": 38,
            "heading": ["Pods"],
            "score": 0.9,
            "metadata": {"n": 1},
        }
    ]
    assert (reply["collection"], reply["generation"]) == ("default", 1)
    assert stage.shelf.asked[-1].min_score is None
    assert stage.shelf.asked[-1].mode == "hybrid"
