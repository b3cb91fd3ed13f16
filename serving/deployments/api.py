"""The Api deployment: the HTTP edge and the pipeline, wired to the other deployments. Replicas hold no state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from ray import serve

from serving.answer import EngineInfo, Retriever
from serving.api.app import create_app
from serving.api.services import DocumentDesk, EmbeddingModel, Probe, Services
from serving.deployments.answers import answered
from serving.deployments.exposition import merge
from serving.deployments.listening import reuse_port
from serving.deployments.names import API, EMBEDDER, INGESTOR, LLM, engine_class, llm_name
from serving.deployments.remote import RemoteEmbedder, RemoteLlm
from serving.deployments.watch import Watch
from serving.deployments.workload import Turns
from serving.errors import Unavailable
from serving.extractive import ExtractiveGenerator
from serving.index.catalog import Catalog
from serving.index.milvus import Milvus
from serving.pipeline import Engine, Rag
from serving.retrieval import HybridRetriever
from serving.settings import Settings
from serving.telemetry import Telemetry, configure_logging
from serving.tokens import load_tokenizer

#: A replica that does not say its metrics within this is left out of the page.
_METRICS_S = 3.0


class Api:
    """One HTTP replica. `llm` is None where no model is configured, `ingestor` where nothing is ingested."""

    def __init__(self, settings: Settings, embedder: Any, llm: Any = None, ingestor: Any = None) -> None:
        configure_logging(settings.telemetry)
        reuse_port()
        self._settings = settings
        self._telemetry = Telemetry()
        self._turns = Turns()
        self._embedder = RemoteEmbedder(embedder)
        self._milvus = Milvus.connect(settings.index)
        self._catalog = Catalog.connect(settings.index)
        self._watch: Watch | None = None
        handles = {EMBEDDER: embedder, LLM: llm, INGESTOR: ingestor}
        self._handles: dict[str, Any] = {name: handle for name, handle in handles.items() if handle is not None}
        self._pokes: set[asyncio.Task[None]] = set()
        self._app_name = serve.get_replica_context().app_name

    async def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(await self._services(), self._settings.api, metrics=self._all_metrics)

    async def metrics_text(self) -> tuple[str, str]:
        """This replica's id and its Prometheus metrics."""
        starts = self._watch.metrics() if self._watch is not None else ""
        return serve.get_replica_context().replica_tag, self._telemetry.render().decode() + starts

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: how busy this replica is."""
        return self._turns.report()

    async def __del__(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        await self._milvus.close()
        await self._catalog.close()

    async def _services(self) -> Services:
        settings = self._settings
        name, dimension = await self._embedder.describe()
        retriever = HybridRetriever(
            self._embedder, self._milvus, self._catalog, settings.retrieval, name, self._embedder
        )
        probes: dict[str, Probe] = {
            "milvus": self._milvus.ping,
            "catalog": self._catalog.ping,
            "embedder": self._embedder.ping,
        }
        return Services(
            answerer=await self._rag(retriever, probes),
            retriever=retriever,
            collections=self._catalog,
            embedding=EmbeddingModel(name, dimension, self._embedder, self._embedder.count_tokens),
            telemetry=self._telemetry,
            desk=DocumentDesk(self._catalog, self._poke),
            probes=probes,
            retrieval=settings.retrieval,
            index=settings.index,
            llm=settings.llm,
        )

    async def _rag(self, retriever: Retriever, probes: dict[str, Probe]) -> Rag:
        extractive = Engine(EngineInfo("extractive", "extractive"), ExtractiveGenerator(self._embedder))
        engines = {}
        if LLM in self._handles:
            engine, llm = await self._llm_engine()
            engines[engine.info.name] = engine
            probes["llm"] = llm.ping
        return Rag(retriever, engines, extractive, default_max_tokens=self._settings.api.default_max_tokens)

    async def _llm_engine(self) -> tuple[Engine, RemoteLlm]:
        settings = self._settings.llm
        self._watch = Watch(self._app_name, LLM, settings.cold_start_s, settings.guard_url)
        llm = RemoteLlm(self._handles[LLM], self._watch, self._telemetry.resumed)
        await llm.start()
        # An engine put in vLLM's place has no tokenizer to count with.
        tokens = None
        if settings.model and engine_class(settings) is None:
            tokens = await load_tokenizer(settings.model, settings.engine_args)
        info = EngineInfo(llm_name(settings), "vllm", tokens.context if tokens else None)
        return Engine(info, llm, tokens), llm

    def _poke(self) -> None:
        """Tell the worker that there is something to do; if that fails it finds out by itself."""
        if INGESTOR in self._handles:
            poking = asyncio.create_task(_poked(self._handles[INGESTOR]))
            self._pokes.add(poking)
            poking.add_done_callback(self._pokes.discard)

    async def _all_metrics(self) -> bytes:
        """The metrics of every replica of every deployment; this replica's own at least."""
        handles = {API: serve.get_deployment_handle(API, self._app_name), **self._handles}
        gathered = await asyncio.gather(*(self._metrics_of(handle) for handle in handles.values()))
        texts = {replica: text for texts in gathered for replica, text in texts}
        own, text = await self.metrics_text()
        return merge(sorted({**texts, own: text}.items())).encode()

    async def _metrics_of(self, handle: Any) -> Iterable[tuple[str, str]]:
        # One without replicas refuses to be asked (DeploymentUnavailableError): a sleeping Llm, for one.
        with suppress(Unavailable), answered(Unavailable, "A deployment"):
            async with asyncio.timeout(_METRICS_S):
                found: list[tuple[str, str]] = await handle.broadcast("metrics_text").results_async()
                return found
        return []


async def _poked(handle: Any) -> None:
    with suppress(Unavailable), answered(Unavailable, "The ingestor"):
        async with asyncio.timeout(_METRICS_S):
            await handle.poke.remote()
