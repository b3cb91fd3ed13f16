"""A private Ray with its real autoscaler, whose nodes are Ray nodes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtest.rehearsal import keeper
from loadtest.rehearsal.scenario import NODE_CPUS, UPSCALING_SPEED, Scenario
from serving.deployments.environment import cluster_variables
from serving.deployments.names import CPU_PLANE
from serving.errors import Unavailable
from serving.ports import free_port
from serving.settings import Settings

GPU_NODES, CPU_NODES = "gpu", "cpu"

#: Ray's fake nodes have numbers for ids; this is the head's (`fake_multi_node/node_provider.py`).
_HEAD_ID = "f" * 51 + "00000"
_HEAD_TYPE = "ray.head.default"
_ID_VARIABLE = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
#: Ray's least is 75 MiB.
_STORE_BYTES = 80 * 1024 * 1024
_START_S = 120.0
_STARTED = "Ray runtime started"
#: Keys that the autoscaler's configuration must have.
_EMPTY: Mapping[str, Any] = {
    "auth": {},
    "setup_commands": [],
    "initialization_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}


@dataclass(frozen=True)
class Cluster:
    """A running one. `record`: what the autoscaler asked of the nodes' provider (`nodes.SlowNodes`)."""

    folder: Path
    address: str
    record: Path

    def kill_node(self, node_id: str) -> None:
        """As if its machine had lost power: all its processes at once, nobody is told.

        Its connections are reset, which a machine without power does not do.
        """
        raylets = [process for process in keeper.family(self.folder) if _is_raylet_of(process, node_id)]
        doomed = [one for raylet in raylets for one in (raylet, *raylet.children(recursive=True))]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not raylets:
            raise Unavailable(f"Node {node_id} has no process here that could be killed.")


@asynccontextmanager
async def own_folder() -> AsyncIterator[Path]:
    """A new folder for all that a rehearsal writes. Afterwards, and when this process is killed, it is gone, and so is
    every process that was started for it.

    Ray's sockets lie in it, and a socket's path has 103 characters at most (macOS).
    """
    base = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix=f"arh-{os.getpid()}-", dir=base))
    # A session of its own: the terminal's Ctrl-C is for us, and we end the rest.
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", keeper.__name__, str(folder), stdin=subprocess.PIPE, start_new_session=True
    )
    assert watching.stdin is not None
    try:
        yield folder
    finally:
        watching.stdin.close()
        await asyncio.shield(watching.wait())


@asynccontextmanager
async def started(scenario: Scenario, settings: Settings, folder: Path) -> AsyncIterator[Cluster]:
    """A head that carries the CPU plane, and no GPU node; this process is connected to it while the block runs.

    Raises Unavailable with the end of what Ray said.
    """
    # Ray reads them when it is first imported.
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    address = f"{await asyncio.to_thread(_own_ip)}:{free_port()}"
    record = folder / "nodes.jsonl"
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(autoscaler_config(scenario, address, record)))
    log = folder / "head.log"
    with log.open("wb") as output:
        head = await asyncio.create_subprocess_exec(
            *_command(address, folder, config),
            env=_environment(scenario, settings, folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    await _until_started(head, log)
    # Ray prints there whatever its nodes say, first of all that there is no GPU yet.
    with contextlib.redirect_stdout(io.StringIO()):
        await asyncio.to_thread(_connect, address)
        try:
            yield Cluster(folder, address, record)
        finally:
            await asyncio.shield(asyncio.to_thread(_disconnect))


def autoscaler_config(scenario: Scenario, address: str, record: Path) -> dict[str, Any]:
    """As `ray start --autoscaling-config` reads it."""
    cpu_nodes = 1 if scenario.two_planes else 0
    return {
        **_EMPTY,
        "cluster_name": "rehearsal",
        "max_workers": scenario.nodes + cpu_nodes,
        "upscaling_speed": UPSCALING_SPEED,
        "idle_timeout_minutes": scenario.idle_s / 60,
        "provider": {
            "type": "external",
            "module": "loadtest.rehearsal.nodes.SlowNodes",
            "head_node_id": _HEAD_ID,
            "launch_multiple": True,
            "gcs_address": address,
            "node_delay_s": scenario.node_delay_s,
            "record": str(record),
        },
        "head_node_type": _HEAD_TYPE,
        "available_node_types": {
            _HEAD_TYPE: _node_type({"CPU": NODE_CPUS, CPU_PLANE: 1}, 0, 0),
            CPU_NODES: _node_type({"CPU": NODE_CPUS, CPU_PLANE: 1}, cpu_nodes, cpu_nodes),
            # An Llm takes one of each. Whatever else Serve has needs `cpu_plane`.
            GPU_NODES: _node_type({"CPU": scenario.gpus_per_node, "GPU": scenario.gpus_per_node}, 0, scenario.nodes),
        },
    }


def _node_type(resources: dict[str, float], least: int, most: int) -> dict[str, Any]:
    return {
        "resources": {**resources, "object_store_memory": _STORE_BYTES},
        "node_config": {},
        "min_workers": least,
        "max_workers": most,
    }


def _command(address: str, folder: Path, config: Path) -> list[str]:
    options = {
        "port": address.rpartition(":")[2],
        "temp-dir": folder,
        "autoscaling-config": config,
        "num-cpus": NODE_CPUS,
        "num-gpus": 0,
        "resources": json.dumps({CPU_PLANE: 1}),
        "object-store-memory": _STORE_BYTES,
        "include-dashboard": "false",
        "include-log-monitor": "false",
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": free_port(),
        # Any free ones: the usual range is somebody else's, too.
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    return command + [f"--{name}={value}" for name, value in options.items()]


def _environment(scenario: Scenario, settings: Settings, folder: Path) -> dict[str, str]:
    """As a cluster's pods have it, but for what makes nodes of it that are none."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("ANCHORAGE_")}
    return {
        **others,
        **cluster_variables(settings.api.deadline_s),
        keeper.MARK: str(folder),
        "ANCHORAGE_INDEX__CATALOG_URL": settings.index.catalog_url,
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_worker_niceness": "0",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": str(scenario.reconcile_s),
        "AUTOSCALER_METRIC_PORT": str(free_port()),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        _ID_VARIABLE: _HEAD_ID,
    }


async def _until_started(head: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while _STARTED not in (said := await asyncio.to_thread(log.read_text, errors="replace")):
        if head.returncode is not None or time.monotonic() > deadline:
            raise Unavailable("Ray's head does not start; it said:\n" + "\n".join(said.splitlines()[-12:]))
        await asyncio.sleep(0.1)


def _connect(address: str) -> None:
    import logging

    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(address=address, log_to_driver=False, configure_logging=False)


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _own_ip() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def _is_raylet_of(process: psutil.Process, node_id: str) -> bool:
    try:
        return process.name() == "raylet" and process.environ().get(_ID_VARIABLE) == node_id
    except psutil.Error:
        return False


def keep_logs(folder: Path, into: Path) -> None:
    """Copy what Ray, Serve, the replicas and Milvus wrote."""
    into.mkdir(parents=True, exist_ok=True)
    for part in (folder / "session_latest" / "logs", folder / "data" / "logs"):
        if part.is_dir():
            shutil.copytree(part, into / part.parent.name, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    for file in (folder / "head.log", folder / "nodes.jsonl", folder / "autoscaler.json"):
        if file.is_file():
            shutil.copy(file, into)
