"""Documents over HTTP against a real `anchorage serve`: uploaded, found, deleted; its worker killed in the middle."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest_asyncio

from tests.ingestion.pdf import make_pdf

from .running_stack import Stack

LIGHT = "The harbour light of Skagen flashes white every four seconds."


@pytest_asyncio.fixture(loop_scope="session")
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.url, timeout=90, trust_env=False) as client:
        yield client


async def found(http: httpx.AsyncClient, collection: str, query: str) -> list[str]:
    """Titles of the passages, best first."""
    reply = await http.post("/v1/search", json={"query": query, "collection": collection, "top_k": 3})
    assert reply.status_code == 200, reply.text
    return [passage["title"] for passage in reply.json()["data"]]


async def finished(http: httpx.AsyncClient, location: str) -> dict[str, Any]:
    """Polls an operation to its end."""
    async with asyncio.timeout(90):
        while (operation := (await http.get(location)).json())["status"] in ("queued", "running"):  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.05)
    return dict(operation)


def ingestors(stack: Stack) -> list[psutil.Process]:
    """The worker's process, as Ray names it."""
    return stack.titled("Ingestor")


async def test_a_document_comes_and_goes(stack: Stack, http: httpx.AsyncClient) -> None:
    """JSON and a PDF are found once their operation has succeeded, and not any more once they are deleted."""
    documents = f"/v1/collections/c-{uuid.uuid4().hex[:8]}/documents"
    collection = documents.split("/")[3]
    wrong = await http.post(documents, json={"documents": [{"uri": "x"}]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "documents[0]")
    accepted = await http.post(documents, json={"id": "lights", "title": "Lights", "text": LIGHT})
    assert accepted.status_code == 202, accepted.text
    assert (await finished(http, accepted.headers["location"]))["status"] == "succeeded"
    pdf = make_pdf(["A bridle of two lines holds a boat on its buoy."], title="Moorings")
    done = await http.post(f"{documents}?wait=true", files={"file": ("moorings.pdf", pdf)})
    assert (done.status_code, done.json()["status"]) == (200, "succeeded"), done.text
    assert (await found(http, collection, "How often does the light of Skagen flash?"))[0] == "Lights"
    assert (await found(http, collection, "bridle of a buoy"))[0] == "Moorings"
    listed = (await http.get(documents)).json()["data"]
    assert [document["state"] for document in listed] == ["live", "live"]
    id = accepted.json()["documents"][0]["id"]
    gone = (await http.delete(f"{documents}/{id}?wait=true")).json()
    assert (gone["status"], gone["receipt"]["proven"]) == ("succeeded", True), gone
    assert await found(http, collection, "How often does the light of Skagen flash?") == ["Moorings"]
    metrics = (await http.get("/metrics")).text
    assert "anchorage_operations_waiting" in metrics


async def test_a_killed_worker_loses_nothing(stack: Stack, http: httpx.AsyncClient) -> None:
    """Serve starts another one, which finishes what was begun and what was asked for meanwhile; each once."""
    documents = f"/v1/collections/c-{uuid.uuid4().hex[:8]}/documents"
    made = [
        await http.post(documents, json={"id": f"d{number}", "text": f"Tide table number {number}. {LIGHT}"})
        for number in range(6)
    ]
    [killed] = ingestors(stack)
    killed.kill()
    made.append(await http.post(documents, json={"id": "late", "text": LIGHT}))
    for accepted in made:
        operation = await finished(http, accepted.headers["location"])
        assert (operation["status"], operation["error"]) == ("succeeded", None)
    collection = (await http.get(documents.removesuffix("/documents"))).json()
    assert (collection["documents"], collection["chunks"]) == (7, 7)
    assert killed.pid not in [process.pid for process in ingestors(stack)]
