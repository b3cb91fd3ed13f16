"""The app over real HTTP: uvicorn on a free port, the real pipeline and catalog, engines that follow a script."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from ingestion.parts import Parts
from ingestion.worker import DocumentWorker
from serving.answer import AnswerBatch, Answerer, Ask, EngineInfo, RetrievalOptions, Retrieved, Retriever
from serving.api.app import create_app
from serving.api.services import DocumentDesk, EmbeddingModel, Services
from serving.generation import GenerationRequest, Generator
from serving.index.catalog import Catalog
from serving.index.catalog_models import Recipe
from serving.index.filters import compile_filter
from serving.index.milvus import Milvus
from serving.index.types import Passage, Vectors
from serving.pipeline import Engine, Rag
from serving.retrieval import HybridRetriever
from serving.scripted import Schedule, ScriptedGenerator
from serving.settings import ApiSettings, IndexSettings, RetrievalSettings, Settings
from serving.stack import embedded_index
from serving.telemetry import Telemetry

COLLECTION = "default"
DIMENSION = 8
PASSAGES = (
    Passage("c1", "docs/pods.md", "Pods", "A Pod is the smallest deployable unit.", 0, 38, ("Pods",), 0, 0.9, {"n": 1}),
    Passage("c2", "docs/nodes.md", "Nodes", "A Node runs the Pods.", 10, 31, ("Nodes", "Work"), 1, 0.8),
)
ANSWER = "A Pod is the smallest deployable unit. [1] A Node runs the Pods. [2]"


class Shelf:
    """A Retriever over two fixed passages of every collection that the catalog knows."""

    def __init__(self, catalog: Catalog) -> None:
        self.asked: list[RetrievalOptions] = []
        self.failure: Exception | None = None
        self._catalog = catalog

    async def retrieve(self, question: str, options: RetrievalOptions) -> Retrieved:
        self.asked.append(options)
        if self.failure is not None:
            raise self.failure
        compile_filter(options.filter)
        collection = await self._catalog.collection(options.collection)
        found = PASSAGES if "nothing" not in question else ()
        return Retrieved(found[: options.top_k], collection.generation, {"embed": 1.0, "search": 2.0})


class HashEmbedder:
    """Unit vectors from a hash: the same text, the same vector."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)[:DIMENSION] for text in texts]
        vectors = np.stack(rows).astype(np.float32) + 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Replay:
    """An Answerer that sends given batches, for what no scripted engine says; `closed` once its reader left early."""

    def __init__(self, batches: Sequence[AnswerBatch], failure: Exception | None = None) -> None:
        self.engines = (EngineInfo("scripted", "vllm", 4096),)
        self.asks: list[Ask] = []
        self._batches = batches
        self._failure = failure

    async def answer(self, ask: Ask) -> AsyncIterator[AnswerBatch]:
        self.asks.append(ask)
        for batch in self._batches:
            yield batch
        if self._failure is not None:
            raise self._failure


def cited(request: GenerationRequest) -> str:
    """The extractive engine's manner: what the passages say, each with its number."""
    return " ".join(f"{passage.text} [{number}]" for number, passage in enumerate(request.passages, start=1))


@dataclass
class Stage:
    """One running app and what stands behind it."""

    url: str
    shelf: Shelf
    generator: ScriptedGenerator
    services: Services
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.http.post(path, json=body, headers={name: value.encode() for name, value in headers.items()})

    async def chat(self, text: str = "What is a Pod?", **fields: Any) -> httpx.Response:
        body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}
        return await self.post("/v1/chat/completions", body)


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The app behind uvicorn on a free port of the loopback."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        await until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Poll until `condition()`; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
async def catalog(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Catalog]:
    """A real SQLite catalog with the published collections `default` and `other`."""
    path: Path = tmp_path_factory.mktemp("catalog") / "catalog.db"
    catalog = Catalog.connect(IndexSettings(catalog_url=f"sqlite:///{path}"))
    for name in (COLLECTION, "other"):
        run = await catalog.begin_run(await catalog.create(name, Recipe("hash", DIMENSION, 200)), "bulk")
        await catalog.publish(run, chunks=2, summary={})
    yield catalog
    await catalog.close()


Staging = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture(scope="session")
def staged(catalog: Catalog) -> Staging:
    """Makes stages: `async with staged(script=…, schedule=…, answerer=…, probes=…, max_queued=…) as stage`."""

    @asynccontextmanager
    async def make(
        script: Any = ANSWER,
        schedule: Schedule = Schedule(),  # noqa: B008 - frozen
        readiness: Any = None,
        answerer: Answerer | None = None,
        probes: Any = None,
        index: IndexSettings = IndexSettings(),  # noqa: B008 - frozen
        metrics: Callable[[], Awaitable[bytes]] | None = None,
        retriever: Retriever | None = None,
        desk: DocumentDesk | None = None,
        key: str = "none",
        **settings: Any,
    ) -> AsyncIterator[Stage]:
        shelf = Shelf(catalog)
        generator = ScriptedGenerator(script, schedule, *([readiness] if readiness else []))
        services = Services(
            answerer=answerer or _rag(shelf, generator),
            retriever=retriever or shelf,
            collections=desk.catalog if desk else catalog,
            embedding=EmbeddingModel("hash", DIMENSION, HashEmbedder(), _words),
            telemetry=Telemetry(),
            desk=desk or DocumentDesk(catalog),
            probes=probes or {},
            retrieval=RetrievalSettings(),
            index=index,
        )
        app = create_app(services, ApiSettings(**settings), metrics=metrics)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(listening(app))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=150, trust_env=False))
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            await stack.enter_async_context(client)
            yield Stage(url, shelf, generator, services, http, client)

    return make


@pytest.fixture(scope="session")
async def stage(staged: Staging) -> AsyncIterator[Stage]:
    """One stage for all tests that leave it as they found it."""
    async with staged() as stage:
        yield stage


class HashModel(HashEmbedder):
    """The hash as a model that ingestion can use; `failure` is raised instead, as long as there is one.

    A text with `poison` in it fails as nobody foresaw.
    """

    failure: Exception | None = None
    poison = ""

    async def dimension(self) -> int:
        return DIMENSION

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.failure is not None:
            raise self.failure
        if self.poison and any(self.poison in text for text in texts):
            raise ValueError("not foreseen")
        return await super().embed(texts)


@dataclass
class Desk:
    """A running app with its worker, and a collection that no other test has."""

    stage: Stage
    settings: Settings
    parts: Parts
    model: HashModel
    collection: str

    @property
    def documents(self) -> str:
        return f"/v1/collections/{self.collection}/documents"

    async def post(self, *documents: dict[str, Any], wait: bool = True, **headers: str) -> httpx.Response:
        return await self.stage.http.post(
            f"{self.documents}?wait={wait}", json={"documents": documents}, headers=headers
        )

    async def done(self, *documents: dict[str, Any]) -> dict[str, Any]:
        reply = await self.post(*documents)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def operation(self, id: str) -> dict[str, Any]:
        return dict((await self.stage.http.get(f"/v1/operations/{id}")).json())

    async def until(self, id: str, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while not condition(found := await self.operation(id)):  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.02)
        return found

    async def texts(self, query: str = "tide") -> set[str]:
        """What a search by words finds."""
        body = {"query": query, "collection": self.collection, "mode": "text", "top_k": 50}
        reply = await self.stage.http.post("/v1/search", json=body)
        assert reply.status_code == 200, reply.text
        return {passage["text"] for passage in reply.json()["data"]}


@dataclass
class Room:
    """What all desks share."""

    settings: Settings
    parts: Parts
    model: HashModel
    worker: DocumentWorker
    stage: Stage


@pytest.fixture(scope="session")
async def room(staged: Staging, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    async with embedded_index(Settings(), tmp_path_factory.mktemp("documents")) as settings:
        model = HashModel()
        parts = Parts(Catalog.connect(settings.index), Milvus.connect(settings.index), lambda _: model)
        worker = DocumentWorker(settings, lambda _: model)
        working = asyncio.create_task(worker.run())
        retriever = HybridRetriever(model, parts.store, parts.catalog, RetrievalSettings())
        async with staged(
            retriever=retriever,
            desk=DocumentDesk(parts.catalog, worker.poke),
            max_upload_bytes=200_000,
            max_upload_documents=5,
            upload_wait_s=120.0,
        ) as stage:
            yield Room(settings, parts, model, worker, stage)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        await worker.close()
        await parts.store.close()
        await parts.catalog.close()


@pytest.fixture
def desk(room: Room) -> Desk:
    return Desk(room.stage, room.settings, room.parts, room.model, f"c-{uuid.uuid4().hex[:12]}")


def _rag(shelf: Shelf, generator: Generator) -> Rag:
    extractive = Engine(EngineInfo("extractive", "extractive"), ScriptedGenerator(cited))
    return Rag(shelf, {"scripted": Engine(EngineInfo("scripted", "vllm", 4096), generator)}, extractive)


async def _words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)
