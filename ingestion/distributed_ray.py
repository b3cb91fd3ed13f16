"""Connecting to Ray: a private one on this machine, or the cluster that was named. Nobody else's is ever touched."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import ray
from ray._private import auto_init_hook
from ray.data import DataContext

from serving.errors import ConfigurationError, WorkersUnavailable
from serving.settings import ClusterSettings

#: Bytes of a private Ray's object store; what is under way is far less (see distributed.py), and the rest is spilled.
_OBJECT_STORE_BYTES = 512 * 1024**2
_FOLDER = "anchorage-ingest-"
#: And nothing is told to the makers of Ray.
_VARIABLES = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}


@asynccontextmanager
async def connected(address: str | None, settings: ClusterSettings, workers: int) -> AsyncIterator[bool]:
    """Connected to Ray for as long as the block runs; yields whether it is a private one.

    Raises ConfigurationError for an address that cannot be used, WorkersUnavailable when no Ray answers there.
    """
    _hush()
    if ray.is_initialized():
        _prepare()
        yield False
        return
    private = address in (None, "local")
    folder = _own_folder() if private else None
    try:
        if folder is not None:
            cpus = math.ceil(workers * (settings.parse_cpus + settings.embed_cpus))
            await asyncio.to_thread(_start, folder, max(cpus, os.cpu_count() or 1))
        else:
            await asyncio.to_thread(_join, str(address))
        _prepare()
        yield private
    finally:
        await asyncio.shield(asyncio.to_thread(_leave, folder))


def _start(folder: Path, cpus: int) -> None:
    with _quietly():
        ray.init(
            address="local",
            num_cpus=cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(folder),
        )


def _join(address: str) -> None:
    if address.startswith("ray://"):
        raise ConfigurationError(
            f"{address} is an address for Ray's client, which cannot run Ray Data: run the command on a machine of the "
            "cluster with --ray-address auto, or as a Ray job."
        )
    try:
        with _quietly():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WorkersUnavailable(f"No Ray cluster at {address!r}: {str(error).splitlines()[0][:300]}") from error


def _leave(folder: Path | None) -> None:
    """Ends a private Ray; leaves another one, where Ray then ends what this run started."""
    ray.shutdown()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Ray reads these when it starts. Its native part writes to our terminal even those errors that it gets over."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update({name: before[name] or value for name, value in _VARIABLES.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def _hush() -> None:
    """Ray says in its files what it would also say here."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _prepare() -> None:
    """Ray and Ray Data, for our pipeline. The progress bar is ours."""
    # What is still running in a thread when we leave must not start or join another Ray.
    auto_init_hook.enable_auto_connect = False
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # One row is a page, one page a block (distributed_stages.py): none waits for another one to fill a block with.
    context.target_max_block_size = 1


def _own_folder() -> Path:
    """A new folder named for this process; those of processes that were killed are removed.

    Ray's sockets lie in it, and a socket's path has about 100 characters at most: in /tmp, not in a long TMPDIR.
    """
    base = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    for left in base.glob(f"{_FOLDER}*-*"):
        owner = left.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists() and Path("/proc").is_dir():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=base))
