"""One private Ray at a time: a module asks for the stack it needs, and gets a whole one over real HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from serving.deployments.local import serve_locally
from serving.settings import Settings
from serving.stack import embedded_index

DOCUMENTS = {
    "tides.md": "# Tides\n\nSpring tides come about twice a month, when the sun and the moon pull along one line.\n",
    "mooring.md": "# Mooring\n\nA boat on a mooring buoy needs a bridle of two lines.\n",
}
QUESTION = "When do spring tides come?"


@dataclass
class Stack:
    """A running application and its clients."""

    url: str
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI

    async def chat(self, model: str, content: str = "hello", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def running(self) -> int:
        """Requests that the engine works on now, by its own count."""
        from ray import serve

        return int(await serve.get_deployment_handle("Llm", "anchorage").running.remote())

    def kill(self, name: str) -> None:
        """Kill the processes of our Ray whose command line begins with `name`."""
        ours = psutil.Process().children(recursive=True)
        named = [process for process in ours if " ".join(process.cmdline()).startswith(name)]
        assert named
        for process in named:
            process.kill()

    async def kill_while_it_writes(self, name: str, model: str, **fields: Any) -> None:
        """Stream an answer, kill once its first token is here, and read on to the end."""
        stream = await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hello"}], stream=True, **fields
        )
        killed = False
        async for chunk in stream:
            if not killed and chunk.choices and chunk.choices[0].delta.content:
                self.kill(name)
                killed = True


@asynccontextmanager
async def running_stack(folder: Path, **groups: dict[str, Any]) -> AsyncIterator[Stack]:
    """The stack with two documents ingested."""
    async with embedded_index(Settings(**groups), folder / "data") as settings:  # type: ignore[arg-type]
        settings = settings.model_copy(update={"api": settings.api.model_copy(update={"port": 0})})
        await _ingest(folder)
        async with (
            serve_locally(settings, log_dir=folder / "logs") as url,
            httpx.AsyncClient(base_url=url, timeout=90, trust_env=False) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Stack(url, http, client)


async def _ingest(folder: Path) -> None:
    documents = folder / "documents"
    documents.mkdir()
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text)
    anchorage = str(Path(sys.executable).with_name("anchorage"))
    process = await asyncio.create_subprocess_exec(
        anchorage, "ingest", str(documents), "--data-dir", str(folder / "data"), env=os.environ
    )
    assert await process.wait() == 0


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Poll with a bounded deadline. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.1)
