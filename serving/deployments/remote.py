"""The other deployments as this process sees them: `types.Embedder` and `generation.Generator` over Serve handles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from serving import vllm
from serving.deployments.answers import answered
from serving.deployments.watch import Watch
from serving.errors import EmbedderUnavailable, EngineCold, EngineUnavailable
from serving.generation import Batch, Done, GenerationRequest, Progress, Readiness
from serving.index.types import Vectors
from serving.resuming import Answer
from serving.telemetry import logger

#: By value over gRPC: the object store costs a message its round trip.
_DIRECT = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
#: A batch of queries takes tens of milliseconds; a bulk request of /v1/embeddings seconds.
_EMBED_S = 60.0
#: While no first token comes, look this often whether there is still a replica that could send one.
_LOOK_S = 1.0
#: Before a request that no replica took is sent again: routers hear of changes within this time.
_PAUSE_S = 0.25


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


@dataclass(slots=True, eq=False)
class _Call:
    """One attempt at an answer. `replica` is who took it; `heard` is when anything last came, monotonic seconds.

    `reason` is what was lost, if it fails.
    """

    response: Any
    heard: float
    replica: str | None = None
    reason: str = "replica"


class RemoteLlm:
    """Implements `generation.Generator` on the Llm deployment.

    A replica that dies, or is stopped before it is done, does not end an answer: another one goes on with it. `resumed`
    is told what was lost: the `engine`, the `replica`, or the whole `node`.
    """

    def __init__(self, handle: Any, watch: Watch, resumed: Callable[[str], None] = lambda reason: None) -> None:
        self._stream = handle.options(stream=True, method_name="generate", **_DIRECT)
        self._nothing = handle.options(method_name="nothing", **_DIRECT)
        self._watch = watch
        self._resumed = resumed
        self._log = logger(__name__)
        self._started = handle.options(method_name="started", **_DIRECT)
        self._waking: asyncio.Task[None] | None = None
        self._calls: set[_Call] = set()
        watch.after_look = self._drop_lost

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
        answer = Answer(request)
        while True:
            call = _Call(self._stream.remote(*answer.call()), time.monotonic())
            try:
                async with aclosing(self._relay(call, answer)) as batches:
                    async for batch in batches:
                        yield batch
                return
            except EngineCold as cold:
                # What failed says more than that nobody else is there.
                raise answer.failure or cold from None
            except EngineUnavailable as error:
                self._watch.doubt()
                answer.failed(error, taken=call.replica is not None)
                self._log.warning("answer_lost", lost=call.reason, replica=call.replica, error=str(error))
            if call.replica is None:
                await asyncio.sleep(_PAUSE_S)
                continue
            self._resumed(call.reason)
            if not answer.nothing:
                yield [Progress("resuming", 0.0)]

    async def _relay(self, call: _Call, answer: Answer) -> AsyncGenerator[Batch]:
        events: Batch = []
        self._calls.add(call)
        try:
            with answered(EngineUnavailable, "The LLM"):
                batch = await self._first(call, answer)
                while batch is not None:
                    call.heard = time.monotonic()
                    if events := _events(call, answer, batch):
                        yield events
                    batch = await anext(call.response, None)
            if not events or not isinstance(events[-1], Done):
                raise EngineUnavailable("The LLM ended its answer without finishing it.")
        finally:
            self._calls.discard(call)
            call.response.cancel()

    async def _first(self, call: _Call, answer: Answer) -> Any:
        """The first batch; a request that waits for a replica which is not coming is given up."""
        first = asyncio.ensure_future(anext(call.response, None))
        try:
            while not (await asyncio.wait([first], timeout=_LOOK_S))[0]:
                if not answer.patient:
                    self._require_ready()
            return first.result()
        finally:
            first.cancel()

    def _drop_lost(self) -> None:
        """After each look of the Watch. A lost node is silent: its connections stay open, and nothing ever comes.

        Who was not taken by anybody yet may have been sent there, too: he is sent again.
        """
        for call in list(self._calls):
            if self._watch.has_lost(call.replica, call.heard):
                call.reason = "node"
                call.response.cancel()

    def _require_ready(self) -> None:
        now = self._watch.readiness
        if not now.ready:
            raise EngineCold(f"The LLM is not ready ({now.stage}).", retry_after_s=now.estimate_s)

    async def _want_replica(self) -> None:
        # A request that waits is what Serve scales up from zero for; its outcome says nothing that Watch does not.
        with suppress(EngineUnavailable), answered(EngineUnavailable, "The LLM"):
            await self._nothing.remote()


def _events(call: _Call, answer: Answer, batch: Sequence[vllm.Item]) -> Batch:
    """What the batch says to the reader. Raises what an item says."""
    if batch[0][0] == vllm.FROM:
        call.replica = batch[0][1]
        return []
    try:
        events = vllm.events(batch)
    except EngineUnavailable:
        call.reason = "engine"
        raise
    answer.take(batch)
    return events
