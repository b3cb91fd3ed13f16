"""Ray Serve on this machine alone: a private Ray, started and stopped with us, beside whatever else runs here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from serving.deployments.environment import variables
from serving.deployments.names import API, APP, EMBEDDER, LLM
from serving.errors import ConfigurationError, EmbedderUnavailable, EngineUnavailable, Unavailable
from serving.ports import usable_port
from serving.settings import Settings

#: Called with the part that became ready: "ray", "embedder", "api", "llm".
Progress = Callable[[str], None]

_PARTS = {EMBEDDER: "embedder", API: "api", LLM: "llm"}
_FAILURES: Mapping[str, type[Unavailable]] = {EMBEDDER: EmbedderUnavailable, LLM: EngineUnavailable}
#: Messages pass by gRPC; the object store holds next to nothing. 75 MiB is Ray's least.
_OBJECT_STORE_BYTES = 100 * 1024 * 1024
_LOOK_S = 0.1
_FOLDER = "anchorage-ray-"
#: Whoever stops the server of his own machine does not wait for an answer to end.
_DRAIN_S = 2.0
_START_S = 900.0
#: Ray stops in seconds, but if its own processes were ended with us (`systemctl stop` ends all of a service) it waits
#: for them, and after 60 s it ends this process where it stands. What else is to be stopped must not wait for that.
_STOP_S = 30.0


@asynccontextmanager
async def serve_locally(
    settings: Settings,
    *,
    log_dir: Path | None = None,
    progress: Progress = lambda part: None,
    wait_for_llm: bool = True,
) -> AsyncIterator[str]:
    """The URL of the running application, for as long as the block runs; nothing we started outlives it.

    Port 0 takes a free one. Ray's and vLLM's logs end up in `log_dir`/ray. One at a time in a process.
    Raises ConfigurationError (port taken, settings that Ray refuses) and Unavailable for a part that does not start.
    """
    port = await asyncio.to_thread(usable_port, settings.api.host, settings.api.port)
    settings = settings.model_copy(update={"api": settings.api.model_copy(update={"port": port})})
    folder = await asyncio.to_thread(_own_folder)
    before = dict(os.environ)
    try:
        os.environ.update(variables(port, direct=_alone(settings)))
        await _to_the_end(_start_ray, settings, folder)
        progress("ray")
        await _to_the_end(_deploy, settings)
        await _until_running(settings, progress, wait_for_llm=wait_for_llm)
        yield _url(settings.api.host, port)
    finally:
        stopping = asyncio.ensure_future(asyncio.to_thread(_stop, folder, log_dir))
        await asyncio.wait([stopping], timeout=_STOP_S)
        if stopping.done():
            stopping.result()
        os.environ.clear()
        os.environ.update(before)


def _alone(settings: Settings) -> bool:
    """Whether there is only ever one Api replica, which can listen itself."""
    return max(settings.api.replicas, settings.api.max_replicas) == 1


async def _to_the_end(work: Callable[..., None], *args: Any) -> None:
    """Run in a thread, and wait for it even if cancelled: what is half started cannot be stopped."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _own_folder() -> Path:
    """A new folder named for this process; those of processes that were killed are removed.

    Ray's sockets lie in it, and a socket's path has 103 characters at most (macOS): in /tmp, not in the data directory
    and not in a long TMPDIR.
    """
    base = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    for left in base.glob(f"{_FOLDER}*-*"):
        owner = left.name.removeprefix(_FOLDER).partition("-")[0]
        if owner.isdecimal() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=base))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_ray(settings: Settings, folder: Path) -> None:
    import ray

    from serving.deployments.builder import cpus_needed

    if ray.is_initialized():
        raise ConfigurationError("This process is already connected to a Ray.")
    _hush()
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, math.ceil(cpus_needed(settings)) + 1),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(folder),
    )
    if settings.llm.model and settings.llm.device == "gpu" and not ray.cluster_resources().get("GPU"):
        raise ConfigurationError("llm.device is gpu, and Ray finds no GPU here: set it to auto or cpu.")


def _deploy(settings: Settings) -> None:
    from ray import serve
    from ray.serve import RunTarget, run_many
    from ray.serve.schema import LoggingConfig

    from serving.deployments.builder import application

    # Where the replica listens itself, Serve's own proxy is not asked: any port is good for it.
    port = usable_port(settings.api.host, 0) if _alone(settings) else settings.api.port
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.api.host, "port": port, "request_timeout_s": None},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    target = RunTarget(application(settings, drain_s=_DRAIN_S), name=APP, route_prefix="/")
    run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


async def _until_running(settings: Settings, progress: Progress, *, wait_for_llm: bool) -> None:
    wanted = [EMBEDDER, API]
    if settings.llm.model and settings.llm.min_replicas and wait_for_llm:
        wanted.append(LLM)
    deadline = time.monotonic() + _START_S
    while wanted:
        if time.monotonic() > deadline:
            raise Unavailable(f"{', '.join(wanted)} did not start within {_START_S:.0f} s.")
        deployments = await asyncio.to_thread(_deployments)
        for name in list(wanted):
            if _is_running(name, deployments.get(name)):
                wanted.remove(name)
                if name == API:
                    await _until_listening(settings.api.host, settings.api.port)
                progress(_PARTS[name])
        await asyncio.sleep(_LOOK_S)


def _deployments() -> Mapping[str, Any]:
    from ray import serve

    application = serve.status().applications.get(APP)
    return application.deployments if application else {}


def _is_running(name: str, deployment: Any) -> bool:
    if deployment is None:
        return False
    if deployment.status.value in ("DEPLOY_FAILED", "UNHEALTHY"):
        raise _FAILURES.get(name, Unavailable)(f"{name} does not start: {_reason(deployment.message)}")
    return bool(deployment.replica_states.get("RUNNING"))


def _reason(message: str) -> str:
    """The last error of Serve's message, which holds a traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(("File ", "^", "Traceback")) and "Error" in line]
    return (errors or lines or ["no reason was given"])[-1]


async def _until_listening(host: str, port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection(_shown(host), port)
            except OSError:
                await asyncio.sleep(_LOOK_S)
                continue
            writer.close()
            return


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _url(host: str, port: int) -> str:
    shown = _shown(host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _hush() -> None:
    """Ray and Serve say in their files what they would also say here."""
    for name in ("ray", "ray.serve", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _stop(folder: Path, log_dir: Path | None) -> None:
    import ray

    if ray.is_initialized():
        with contextlib.suppress(Exception):
            # Whatever fails here, Ray itself is stopped next.
            from ray import serve

            serve.delete(APP)
        ray.shutdown()
    logs = folder / "session_latest" / "logs"
    if log_dir is not None and logs.is_dir():
        kept = log_dir / "ray"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(logs, kept, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
