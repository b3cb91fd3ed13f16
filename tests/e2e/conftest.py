"""One running stack for all tests that only talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from serving.ports import free_port

from .running_stack import Stack, anchorage, start_serve

TIDES = """# Tides

## Spring tides

Spring tides come about twice a month, when the sun and the moon pull along one line. The high water of a spring tide
is higher than usual.

## Neap tides

Neap tides come a week after spring tides. The sun and the moon then pull at right angles, and the range is smallest.
"""
MOORING = """# Mooring

A boat on a mooring buoy needs a bridle of two lines, so that one worn line does not set it adrift.
"""


def write_documents(folder: Path) -> Path:
    """Two small documents about the sea."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tides.md").write_text(TIDES)
    (folder / "mooring.md").write_text(MOORING)
    return folder


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Serving, with two documents ingested beside the running server."""
    root = tmp_path_factory.mktemp("stack")
    running = await start_serve(root / "data")
    try:
        await running.until_ready()
        documents = write_documents(root / "sea")
        done = await anchorage("ingest", str(documents), "--data-dir", str(running.data_dir))
        assert done.code == 0, done
        yield running
    finally:
        await running.destroy()


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    return free_port()
