"""The five tasks against our own server: what it says is what a record keeps."""

from __future__ import annotations

from typing import Any

from serving.errors import EngineCold
from tests.api.conftest import Staging, catalog, staged
from tests.loadtest.performing import job, performed

__all__ = ["catalog", "staged"]  # fixtures


async def _fine() -> None: ...


async def _cold() -> None:
    raise EngineCold("nobody asked yet")


async def test_every_task_of_our_own_server(staged: Staging) -> None:
    """Streams, whole answers, conversations and searches, with sources, citations, tokens and stages."""
    known: dict[str, Any] = {"text": "What is a Pod?", "sources": ["pods.md"], "enough": 1, "answers": ["smallest"]}
    asks = [
        {"task": "stream", **known},
        {"task": "ask", **known, "collection": "other"},
        {"task": "turn", **known, "turns": [{"task": "turn", **known, "text": "And a Node?"}]},
        {"task": "search", **known},
        {"task": "stream", **known, "collection": "no-such"},
        {"task": "upload", "text": "Note", "uri": "loadtest:1", "title": "1", "collection": "default"},
    ]
    async with staged(probes={"store": _fine, "llm": _cold}) as stage:
        target = {"plain": False, "model": "", "on_cold": "wait"}
        patience: dict[str, Any] = {"upload": {"timeout_s": 3.0}}
        found = await performed(
            *(
                job(stage.url, target=target, ask=ask, ready_s=20.0, limits=patience.get(ask["task"], {}))
                for ask in asks
            )
        )
    [streamed], [whole], turns, [searched], [unknown], [uploaded] = found
    for record in (streamed, whole, *turns):
        assert (record["error"], record["outcome"], record["cold"], record["resumed"]) == (None, "answered", False, 0)
        assert (record["source_recall"], record["answer_match"]) == (1.0, True)
        assert (record["citations"], record["citations_valid"]) == (2, 1.0)
        assert record["tokens_in"] > 0
        assert record["tokens_out"] == 14
        assert {"embed", "search", "first_token", "total"} <= record["stages_s"].keys()
    assert [record["pieces"] for record in (streamed, whole, *turns)] == [13, 1, 13, 13]
    assert (searched["error"], searched["source_recall"], searched["stages_s"]["search"]) == (None, 1.0, 0.002)
    assert streamed["said"]["models"].startswith("scripted, scripted@none, extractive, scripted@default, ")
    assert streamed["said"]["parts"] == "store ready, llm not ready: nobody asked yet"
    assert (unknown["error"], unknown["status"]) == ("http_4xx", 404)
    assert "collection_not_found" in unknown["message"]
    # Nobody ingests on this stage: the upload is taken, and waited for as long as its user does.
    assert uploaded["error"] == "timeout"
