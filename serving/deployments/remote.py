"""The other deployments as this process sees them: `types.Embedder` and `generation.Generator` over Serve handles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from serving import vllm
from serving.deployments.answers import answered
from serving.deployments.watch import Watch
from serving.errors import EmbedderUnavailable, EngineCold, EngineUnavailable
from serving.generation import Batch, GenerationRequest, Readiness
from serving.index.types import Vectors

#: By value over gRPC: the object store costs a message its round trip.
_DIRECT = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
#: A batch of queries takes tens of milliseconds; a bulk request of /v1/embeddings seconds.
_EMBED_S = 60.0
#: While no first token comes, look this often whether there is still a replica that could send one.
_LOOK_S = 1.0


class RemoteEmbedder:
    """Implements `types.Embedder` and `retrieval.EmbeddingModels` on the Embedder deployment."""

    def __init__(self, handle: Any) -> None:
        self._whole = handle
        self._handle = handle.options(**_DIRECT)
        self._preparing: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str], *, bulk: bool = False, model: str | None = None) -> Vectors:
        """`bulk` work goes behind that of questions. Without `model`, by that of the settings.

        Raises EmbedderUnavailable, ConfigurationError for a model that cannot be loaded.
        """
        vectors: Vectors = await self._call("embed", list(texts), bulk, model)
        return vectors

    def prepare(self, model: str) -> None:
        """Have every replica load a model that will be asked for, in the background; as well as it can be had."""
        task = asyncio.create_task(self._prepare(model))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        return int(await self._call("count_tokens", list(texts)))

    async def describe(self, model: str | None = None) -> tuple[str, int]:
        """Name and dimension of a model. Raises as `embed`."""
        name, dimension = await self._call("describe", model)
        return name, dimension

    async def ping(self) -> None:
        """Returns when a replica answers."""
        await self._call("ping")

    async def _call(self, method: str, *args: Any) -> Any:
        with answered(EmbedderUnavailable, "The embedder"):
            async with asyncio.timeout(_EMBED_S):
                return await getattr(self._handle, method).remote(*args)

    async def _prepare(self, model: str) -> None:
        with suppress(EmbedderUnavailable), answered(EmbedderUnavailable, "The embedder"):
            async with asyncio.timeout(_EMBED_S):
                await self._whole.broadcast("prepare", model).results_async()


class RemoteLlm:
    """Implements `generation.Generator` on the Llm deployment."""

    def __init__(self, handle: Any, watch: Watch) -> None:
        self._stream = handle.options(stream=True, method_name="generate", **_DIRECT)
        self._nothing = handle.options(method_name="nothing", **_DIRECT)
        self._watch = watch
        self._started = handle.options(method_name="started", **_DIRECT)
        self._waking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, and learn from a running replica how long a start takes."""
        await self._watch.start()
        if self._watch.readiness.ready:
            with suppress(EngineUnavailable), answered(EngineUnavailable, "The LLM"):
                async with asyncio.timeout(_LOOK_S):
                    self._watch.learn(await self._started.remote())

    async def readiness(self) -> Readiness:
        return self._watch.readiness

    async def wake(self) -> None:
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._want_replica())
        self._watch.doubt()

    async def ping(self) -> None:
        """Returns when the engine would answer now. Raises EngineCold."""
        self._require_ready()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Batch]:
        self._require_ready()
        response = self._stream.remote(*vllm.body(request))
        try:
            with answered(EngineUnavailable, "The LLM"):
                batch = await self._first(response)
                while batch is not None:
                    yield vllm.events(batch)
                    batch = await anext(response, None)
        except EngineUnavailable:
            self._watch.doubt()
            raise
        finally:
            response.cancel()

    async def _first(self, response: Any) -> Any:
        """The first batch; a request that waits for a replica which is not coming is given up."""
        first = asyncio.ensure_future(anext(response, None))
        try:
            while not (await asyncio.wait([first], timeout=_LOOK_S))[0]:
                self._require_ready()
            return first.result()
        finally:
            first.cancel()

    def _require_ready(self) -> None:
        now = self._watch.readiness
        if not now.ready:
            raise EngineCold(f"The LLM is not ready ({now.stage}).", retry_after_s=now.estimate_s)

    async def _want_replica(self) -> None:
        # A request that waits is what Serve scales up from zero for; its outcome says nothing that Watch does not.
        with suppress(EngineUnavailable), answered(EngineUnavailable, "The LLM"):
            await self._nothing.remote()
