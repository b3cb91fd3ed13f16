"""The Llm deployment: vLLM through `ray.serve.llm`, with a stream of compact, adaptive batches.

`LLMServer` (Ray's own) starts and keeps the engine. Its streaming methods hold the first chunk back for 50 ms and ship
ready server-sent text; `generate` here talks to the same engine directly, reads vLLM's stream where it is made, and
sends the first token at once. Importing this file imports neither vLLM nor `ray.serve.llm` (13 s and 700 MB): the
replica does, so that the processes that only name this class stay light.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from ray import serve

from serving import vllm
from serving.deployments.ready import ReadyFile
from serving.deployments.relay import Relay
from serving.deployments.workload import Requests
from serving.resuming import Begun, Decoder, Seam
from serving.tokens import load_tokenizer
from serving.vllm import Item, Kind

#: Seconds that one message costs the two processes it passes between (measured: 0.1 to 0.2 ms in each). While n
#: answers stream at once each sends at most one message in n times this, so that messages never take a whole core;
#: what comes meanwhile travels in the next one. One stream alone is not slowed down.
MESSAGE_COST_S = 0.0003
#: What a replica whose engine died has to say is under way by then, seconds; and how long its engine may take to stop.
_LAST_WORDS_S, _STOP_S = 0.2, 5.0

_GAUGE = (
    "# HELP anchorage_engine_requests Requests in the engine.\n"
    "# TYPE anchorage_engine_requests gauge\n"
    "anchorage_engine_requests {}\n"
)


class Llm:
    """One engine. `config`: LLMConfig of `ray.serve.llm`, as a dict. `engine_cls`: import path of another engine."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, config: dict[str, Any], engine_cls: str | None = None, ready_folder: Path | None = None
    ) -> None:
        started = time.monotonic()
        self._ready_file = ReadyFile(ready_folder)
        self._streams = 0
        self._requests = Requests()
        self._replica = serve.get_replica_context().replica_tag
        self._leaving: asyncio.Task[None] | None = None
        if engine_cls:
            self._engine = _load(engine_cls)(config)
            self._typed: Callable[[Kind, dict[str, Any]], Any] = _as_is
            await self._engine.start()
        else:
            await self._start_vllm(config)
        self._start_s = time.monotonic() - started
        self._ready_file.write()

    async def _start_vllm(self, config: dict[str, Any]) -> None:
        from ray.serve.llm import LLMConfig
        from ray.serve.llm.deployment import LLMServer

        await _give_chat_template(config)
        known = LLMConfig(**config)
        # vLLM finds and downloads the model itself; Ray's own step would import vLLM in one more process first.
        known.get_or_create_callback().ctx.run_init_node = False

        class Server(LLMServer):  # type: ignore[misc] # Ray is untyped
            async def _start_engine(self) -> None:
                # Ray's own also starts an actor for usage reports: 380 MB, even where reports are off.
                await self.engine.start()

        server = Server.sync_init(known)
        await server.start()
        self._engine = server.engine
        self._typed = _vllm_request

    async def generate(self, kind: Kind, body: dict[str, Any], begun: Begun | None = None) -> AsyncIterator[list[Item]]:
        """Batches of `serving.vllm` items. One says at once who answers: its engine has the request by then.

        `begun`: another replica was lost while it answered this request, and this one goes on. Closing or cancelling
        it aborts the request in the engine.
        """
        if self._leaving is not None:
            await asyncio.shield(self._leaving)
        seam = None
        if begun is not None:
            yield [(vllm.FROM, self._replica)]
            seam = Seam.find(begun, self._tokens(), body.get("stop", ()))
            yield [seam.opening()]
            if seam.complete(body):
                yield seam.end()
                return
            kind, body = "completion", seam.body(body)
        try:
            request = self._typed(kind, body)
        except ValueError as error:
            yield [(vllm.REFUSED, _first_reason(error), None)]
            return
        async with aclosing(self._answer(kind, request)) as batches:
            # What the replicas are scaled by: see record_autoscaling_stats.
            with self._requests.one() as token_came:
                async for batch in batches:
                    if batch[0][0] != vllm.FROM:
                        token_came()
                    yield seam.joined(batch) if seam else batch

    async def _answer(self, kind: Kind, request: Any) -> AsyncGenerator[list[Item]]:
        relay = Relay(self._engine.chat(request) if kind == "chat" else self._engine.completions(request))
        self._streams += 1
        finished = False
        try:
            yield [(vllm.FROM, self._replica)]
            done: Item | None = None
            reader = vllm.Reader()
            async for chunks in relay.batches(lambda: self._streams * MESSAGE_COST_S):
                batch, ended = vllm.done_last(_items(reader, chunks))
                done = ended or done
                if done and relay.ended:
                    batch.append(done)
                    done, finished = None, True
                if vllm.is_failed(batch):
                    await self._leave_if_dead()
                if batch:
                    yield batch
            if relay.failure is not None:
                await self._leave_if_dead()
                yield [vllm.failure(f"{type(relay.failure).__name__}: {relay.failure}")]
            elif done:
                finished = True
                yield [done]
        finally:
            self._streams -= 1
            broken = relay.over and not finished
            await relay.close()
            if broken:
                await self._leave_if_dead()

    async def _leave_if_dead(self) -> None:
        """A dead engine refuses at once whatever it gets, so it looks like the least loaded of all: routers would send
        it everything for the 6 s until Serve has seen three checks fail. Without this process they ask another one.
        Before a failure is told: whoever hears of it asks again at once, and must not find this engine once more.
        """
        try:
            await self._engine.check_health()
        except Exception:  # noqa: BLE001 - the process edge: whatever an engine raises here, Serve takes as its end
            self._leaving = self._leaving or asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        self._ready_file.remove()
        await asyncio.sleep(_LAST_WORDS_S)
        with suppress(Exception):
            # Whatever a dead engine makes of being stopped, the process ends.
            async with asyncio.timeout(_STOP_S):
                await self._stop_engine()
        os._exit(1)

    async def nothing(self) -> None:
        """A request that only makes Serve want a replica."""

    async def started(self) -> float:
        """Seconds the engine took to start."""
        return self._start_s

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: requests in flight and how fast they are answered."""
        return self._requests.report()

    async def running(self) -> int:
        """Requests in the engine now."""
        count = getattr(self._engine, "running", None)
        if count is not None:
            return int(count)
        return len(self._engine._engine_client.output_processor.request_states)

    async def metrics_text(self) -> tuple[str, str]:
        """This replica's id and its Prometheus metrics: vLLM's own, and how many requests are in the engine now.

        vLLM's gauges stand still while no request is left to step, so an aborted last one would seem to go on.
        """
        from prometheus_client import generate_latest

        own = _GAUGE.format(await self.running())
        return serve.get_replica_context().replica_tag, own + generate_latest().decode()

    async def check_health(self) -> None:
        await self._engine.check_health()

    async def __del__(self) -> None:
        self._ready_file.remove()
        # Serve calls this when the last stream has ended, or when the time for that is up.
        if hasattr(self, "_engine"):
            await self._stop_engine()

    async def _stop_engine(self) -> None:
        await self._engine.shutdown()
        # Ray's engine leaves vLLM's own processes to notice by themselves that they are not needed.
        if client := getattr(self._engine, "_engine_client", None):
            client.shutdown()

    def _tokens(self) -> Decoder:
        tokens: Decoder = getattr(self._engine, "_engine_client", self._engine).get_tokenizer()
        return tokens


def _items(reader: vllm.Reader, chunks: list[Any]) -> list[Item]:
    if isinstance(chunks[0], str):
        return reader.items(chunks)
    # The engine refused the request: one error object instead of a stream.
    return [vllm.refusal(chunk.error.model_dump()) for chunk in chunks]


def llm_config(name: str, source: str, engine_args: Mapping[str, Any], *, gpu: bool) -> dict[str, Any]:
    """LLMConfig of `ray.serve.llm`, as a dict; `engine_args` go to vLLM unchanged."""
    return {
        "model_loading_config": {"model_id": name, "model_source": source},
        "engine_kwargs": dict(engine_args),
        "accelerator_config": {"kind": "gpu" if gpu else "cpu"},
        "placement_group_config": {"bundles": bundles(engine_args, gpu=gpu)},
        # vLLM's metrics go to this process's own registry, from which /metrics reads them.
        "log_engine_metrics": False,
    }


def bundles(engine_args: Mapping[str, Any], *, gpu: bool) -> list[dict[str, float]]:
    """What one engine replica reserves: a GPU per tensor and pipeline rank, or one logical CPU."""
    if not gpu:
        return [{"CPU": 1}]
    ranks = int(engine_args.get("tensor_parallel_size", 1)) * int(engine_args.get("pipeline_parallel_size", 1))
    return [{"CPU": 1, "GPU": 1}, *({"GPU": 1.0} for _ in range(ranks - 1))]


def engine_environment(env: Mapping[str, str], *, gpu: bool) -> dict[str, str]:
    """Environment of the engine's processes: `env` wins, then this process's own, then the defaults."""
    defaults = {"VLLM_NO_USAGE_STATS": "1"}
    if not gpu:
        defaults |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    return {**{name: os.environ.get(name, value) for name, value in defaults.items()}, **env}


async def _give_chat_template(config: dict[str, Any]) -> None:
    """A model without a chat template of its own gets the one that its prompts are counted with."""
    source, arguments = config["model_loading_config"]["model_source"], config["engine_kwargs"]
    tokens = await load_tokenizer(source, arguments)
    if tokens.chat_template is not None:
        arguments.setdefault("chat_template", tokens.chat_template)


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _as_is(kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
    return body


def _vllm_request(kind: Kind, body: dict[str, Any]) -> Any:
    from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

    return ChatCompletionRequest(**body) if kind == "chat" else CompletionRequest(**body)


def _first_reason(error: ValueError) -> str:
    """The first complaint of a pydantic ValidationError in one line, or the error's own text."""
    listed = getattr(error, "errors", None)
    if not callable(listed):
        return str(error)
    first = listed()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
