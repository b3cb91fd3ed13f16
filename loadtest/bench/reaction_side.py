"""Both sides of the reaction bench in one process: a private Ray, on which the LLM is deployed anew for each step.

A line on standard input names the side to measure; a line of JSON answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serving import vllm
from serving.deployments.environment import variables
from serving.deployments.names import ENGINE_VARIABLE
from serving.deployments.scripted import SCRIPT_VARIABLE, Script, ScriptedEngine
from serving.settings import LlmSettings, ScalingSettings, Settings

#: Requests in flight that one replica is to carry, on both sides; half of it before the step, four times that after.
TARGET, BEFORE, AFTER = 8, 4, 16
#: An answer takes 2 s, in few messages: the machine's cores are for what reacts.
_SCRIPT = Script(tokens=100, burst=10, gap_s=0.2)
MOST = 4
#: Serve's default takes 40 to 60 s; nothing that reacts takes longer.
_PATIENCE_S = 180.0
_BODY = {"messages": [{"role": "user", "content": "hello"}], "model": "scripted", "stream": True}
#: Serve's defaults (ray/serve/config.py, AutoscalingConfig) but for what both sides share.
DEFAULT = {"min_replicas": 1, "max_replicas": MOST, "target_ongoing_requests": TARGET}


class Traffic:
    """So many clients at a time, each asking again as soon as it is answered."""

    def __init__(self, handle: Any) -> None:
        self._stream = handle.options(stream=True, method_name="generate")
        self._clients: set[asyncio.Task[None]] = set()
        self.seen: dict[str, float] = {}

    def add(self, clients: int) -> None:
        self._clients |= {asyncio.create_task(self._ask()) for _ in range(clients)}

    async def stop(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.wait(self._clients)

    def check(self) -> None:
        """Raises what a client met with."""
        for client in self._clients:
            if client.done():
                client.result()

    async def _ask(self) -> None:
        while True:
            async for batch in self._stream.remote("chat", _BODY):
                for item in batch:
                    if item[0] == vllm.FROM:
                        self.seen.setdefault(item[1], time.monotonic())


async def reaction_s(name: str, own_rule: Mapping[str, Any] | None, warm_s: float) -> float:
    """Seconds from the step to the first answer that a new replica began. `own_rule`: Serve's autoscaling."""
    from ray import serve

    # Ray reads its variables when it is imported, which this does.
    from serving.deployments.builder import llm_application

    settings = _settings()
    application = llm_application(settings, 2.0, own_rule)
    handle = await asyncio.to_thread(serve.run, application, name=name, route_prefix=None)
    traffic = Traffic(handle)
    try:
        traffic.add(BEFORE)
        await asyncio.sleep(warm_s)
        traffic.check()
        before = set(traffic.seen)
        assert len(before) == 1, f"{name}: {len(before)} replicas before the step"
        step = time.monotonic()
        traffic.add(AFTER - BEFORE)
        while time.monotonic() < step + _PATIENCE_S:
            traffic.check()
            if came := [at for replica, at in traffic.seen.items() if replica not in before]:
                return min(came) - step
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{name} did not react within {_PATIENCE_S:.0f} s")
    finally:
        await traffic.stop()
        await asyncio.to_thread(serve.delete, name)


def _settings() -> Settings:
    engine = {
        ENGINE_VARIABLE: f"{ScriptedEngine.__module__}.{ScriptedEngine.__name__}",
        SCRIPT_VARIABLE: _SCRIPT.model_dump_json(),
    }
    return Settings(
        llm=LlmSettings(model="scripted", device="cpu", max_replicas=MOST, env=engine),
        scaling=ScalingSettings(llm_requests=TARGET),
    )


@contextmanager
def _private_ray() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="anchorage-reaction-", dir="/tmp")
    os.environ.update(variables(0, direct=False))
    import ray
    from ray import serve

    try:
        ray.init(
            address="local",
            num_cpus=2 * MOST + 2,
            object_store_memory=100 * 1024 * 1024,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=folder,
        )
        serve.start(proxy_location="Disabled")
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


async def _passes(warm_s: float, out: Any) -> None:
    """Until standard input ends, also in the middle of a pass: whoever asked has gone."""
    asked: asyncio.Queue[str] = asyncio.Queue()
    working = asyncio.create_task(_work(asked, warm_s, out))
    reading = asyncio.create_task(_read(asked))
    await asyncio.wait([working, reading], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _read(asked: asyncio.Queue[str]) -> None:
    while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
        asked.put_nowait(name)


async def _work(asked: asyncio.Queue[str], warm_s: float, out: Any) -> None:
    rules = {"ours": None, "default": DEFAULT}
    while True:
        name = await asked.get()
        out.write(json.dumps({"seconds": await reaction_s(name, rules[name], warm_s)}) + "\n")
        out.flush()


def main() -> None:
    out = sys.stdout
    # What Ray and Serve print is for the log.
    with contextlib.redirect_stdout(sys.stderr), _private_ray():
        asyncio.run(_passes(float(sys.argv[1]), out))


if __name__ == "__main__":
    main()
