"""Start, stop, kill: whatever happens, nothing is left behind and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from serving.running import running_server
from serving.stack import running_milvus

from .conftest import write_documents
from .running_stack import MARK, Stack, anchorage, marked, start_serve
from .waiting import until

QUESTION = "When do spring tides come?"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kept(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A data directory with documents, ingested while nothing served it."""
    root = tmp_path_factory.mktemp("kept")
    done = await anchorage("ingest", str(write_documents(root / "sea")), "--data-dir", str(root / "data"))
    assert done.code == 0, done
    assert running_milvus(root / "data") is None, "ingest started Milvus Lite, so it stops it"
    yield root / "data"


async def nothing_left(stack: Stack) -> None:
    await until(lambda: not stack.family())
    assert running_server(stack.data_dir) is None


async def test_after_kill_9_the_next_start_recovers_and_ctrl_c_stops_all_of_it(kept: Path) -> None:
    """The killed server's Ray is ended, its Milvus Lite adopted, and a second Ctrl-C is harmless."""
    killed = await start_serve(kept)
    again: Stack | None = None
    client = httpx.AsyncClient(trust_env=False)
    try:
        await killed.until_ready()
        await client.get(killed.url)
        milvus = running_milvus(kept)
        assert milvus is not None
        killed.process.kill()
        await killed.process.wait()
        # The client's connection to the killed one is open still.
        again = await start_serve(kept, port=httpx.URL(killed.url).port or 0)
        await again.until_ready()
        adopted = running_milvus(kept)
        assert adopted is not None
        assert adopted.server == milvus.server
        await until(lambda: [process.pid for process in killed.family()] == [milvus.server.pid], 10)
        done = await anchorage("ask", QUESTION, "--data-dir", str(kept))
        assert "[1] Tides" in done.out.split("Sources")[1], done

        assert await again.stop(signal.SIGINT, signal.SIGINT) == 0, again.log()
        await nothing_left(again)
        assert running_milvus(kept) is None
        assert "Traceback" not in again.log()
    finally:
        await client.aclose()
        await killed.destroy()
        if again is not None:
            await again.destroy()


async def test_an_api_that_dies_comes_back(tmp_path: Path) -> None:
    """On its port, though clients are connected to it."""
    stack = await start_serve(tmp_path)
    try:
        await stack.until_ready()
        async with httpx.AsyncClient(base_url=stack.url, trust_env=False) as client:
            assert (await client.get("/readyz")).status_code == 200
            # Until then `anchorage serve` asks it itself.
            await until(lambda: "Ctrl-C stops everything" in stack.log())
            (api,) = stack.titled("ServeReplica:anchorage:Api")
            api.kill()
            await until(lambda: not api.is_running())
            await stack.until_answering()
    finally:
        await stack.destroy()


async def test_sigterm_while_starting_leaves_nothing(tmp_path: Path) -> None:
    """As a service manager would send it."""
    stack = await start_serve(tmp_path)
    try:
        await until(lambda: "milvus" in stack.log() or stack.process.returncode is not None)
        # In the middle of starting Ray: its first processes are there.
        await until(lambda: bool(stack.titled("gcs_server")))
        assert await stack.stop(signal.SIGTERM) == 0, stack.log()
        await nothing_left(stack)
        assert "Traceback" not in stack.log()
    finally:
        await stack.destroy()


async def test_sigterm_to_all_of_it_leaves_nothing(tmp_path: Path) -> None:
    """As systemd ends a service: Ray's own processes go at once, so Ray waits, and ends ours after a minute."""
    stack = await start_serve(tmp_path)
    try:
        await stack.until_ready()
        os.killpg(stack.process.pid, signal.SIGTERM)
        async with asyncio.timeout(120):
            await stack.process.wait()
        await nothing_left(stack)
        assert running_milvus(tmp_path) is None
    finally:
        await stack.destroy()


@contextmanager
def occupied(*ports: int) -> Iterator[None]:
    """Somebody else listens there, whoever it is."""
    with ExitStack() as held:
        for port in ports:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            listener.listen()
        yield


async def test_the_demo_works_beside_others_and_leaves_nothing(tmp_path: Path) -> None:
    """The usual ports of HTTP, Ray (GCS, dashboard, client) and Milvus are taken; without a terminal it ends with 0."""
    with occupied(8000, 6379, 8265, 10001, 19530):
        done = await anchorage("demo", "--data-dir", str(tmp_path), timeout_s=480, **{MARK: str(tmp_path)})
    assert done.code == 0, done
    assert "port 8000 is taken" in done.err
    assert "[1]" in done.out.split("Sources")[0]
    assert "[1]" in done.out.split("Sources")[1]
    await until(lambda: not marked(str(tmp_path)), 10)


async def test_a_demo_that_cannot_work_says_why(tmp_path: Path) -> None:
    """A step that fails ends it with 1 and a reason."""
    (tmp_path / "file").write_text("")
    done = await anchorage("demo", "--data-dir", str(tmp_path / "file" / "data"))
    assert done.code == 1
    assert "file/data cannot be made" in done.err
    assert "Traceback" not in done.err
