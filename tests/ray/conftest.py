"""One private Ray at a time: a module asks for the stack it needs, and gets a whole one over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from tests.e2e import running_stack

DOCUMENTS = {
    "tides.md": "# Tides\n\nSpring tides come about twice a month, when the sun and the moon pull along one line.\n",
    "mooring.md": "# Mooring\n\nA boat on a mooring buoy needs a bridle of two lines.\n",
}
QUESTION = "When do spring tides come?"


@dataclass
class Stack:
    """A running application and its clients."""

    server: running_stack.Stack
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI

    async def chat(self, model: str, content: str = "hello", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def metrics(self) -> str:
        page = await self.http.get("/metrics")
        assert page.status_code == 200, page.text
        return page.text

    async def running(self) -> int:
        """Requests in the engine now, by its own count."""
        page = await self.metrics()
        return int(sum(float(count) for count in re.findall(r"^anchorage_engine_requests\{.*\} (\S+)$", page, re.M)))

    def processes(self, name: str) -> list[psutil.Process]:
        """The server's processes whose command line says `name`, at least one."""
        named = self.server.titled(name)
        assert named
        return named


async def runs(stack: Stack, count: int) -> bool:
    """Whether the engine has so many requests."""
    return await stack.running() == count


@asynccontextmanager
async def serving(folder: Path, **groups: dict[str, Any]) -> AsyncIterator[Stack]:
    """`anchorage serve` with these settings and two documents ingested, as its own process: Ray reads its variables
    when it is first imported, so a process can have one Ray at most."""
    documents, data_dir = folder / "documents", folder / "data"
    documents.mkdir()
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text)
    environment = {f"ANCHORAGE_{group.upper()}": json.dumps(values) for group, values in groups.items()}
    server = await running_stack.start_serve(data_dir, **environment)
    try:
        await server.until_ready()
        ingested = await running_stack.anchorage("ingest", str(documents), "--data-dir", str(data_dir))
        assert ingested.code == 0, ingested.err
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=90, trust_env=False) as http,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Stack(server, http, client)
        assert await server.stop() == 0, server.log()
    finally:
        await server.destroy()


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Poll with a bounded deadline. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.1)
