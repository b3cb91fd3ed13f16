"""`anchorage serve`: start what is missing on this machine, serve, and stop all of it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from serving.cli_ask import best_model
from serving.cli_checks import check_memory, check_model
from serving.cli_next import what_next
from serving.cli_options import DataDir, read_settings
from serving.cli_progress import Steps
from serving.cli_signals import Ending
from serving.client import Client
from serving.ports import usable_port
from serving.running import DEFAULT_DATA_DIR, announce, prepare, sole_server
from serving.settings import ApiSettings, OnCold, Settings
from serving.stack import embedded_index, running_milvus

QUESTION = "Your question"


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: loopback only.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 takes a free one. Default: 8000.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="LLM: Hugging Face id or local folder. Without one, answers are extractive."
        ),
    ] = None,
    on_cold: Annotated[OnCold | None, typer.Option(help="What a caller gets while the LLM is not ready.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Replicas of the HTTP edge.")] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Logs as JSON lines.")] = False,
) -> None:
    """Serve a data directory: starts what is missing here; Ctrl-C stops all of it."""
    settings = read_settings()
    settings = with_given(settings, "api", {"host": host, "port": port, "replicas": replicas})
    settings = with_given(settings, "llm", {"model": model, "on_cold": on_cold})
    settings = with_given(settings, "telemetry", {"log_json": json_logs or None})
    steps = Steps()
    ending = Ending(lambda: steps.say("\nstopping …"))
    asyncio.run(ending.run(_serve(settings, data_dir, steps, ending)))
    steps.say("stopped")


def with_given(settings: Settings, group: str, values: dict[str, object]) -> Settings:
    """Settings with those values of a group that are not None. typer has checked them."""
    given = {name: value for name, value in values.items() if value is not None}
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update=given)})


@asynccontextmanager
async def served(settings: Settings, data_dir: Path, steps: Steps, ending: Ending) -> AsyncIterator[str]:
    """The address of a running server, for as long as the block runs; nothing is left of it afterwards.

    Raises ConfigurationError for what cannot work here, Unavailable for a part that does not come up.
    """
    data_dir = prepare(data_dir)
    with sole_server(data_dir):
        settings = with_given(settings, "api", {"port": usable_port(settings.api.host, settings.api.port)})
        if settings.llm.model:
            check_model(settings.llm.model)
        check_memory(settings)
        async with AsyncExitStack() as parts:
            with steps.step("milvus"):
                settings = await parts.enter_async_context(embedded_index(settings, data_dir))
            yield await parts.enter_async_context(_application(settings, data_dir, steps, ending))


@asynccontextmanager
async def _application(settings: Settings, data_dir: Path, steps: Steps, ending: Ending) -> AsyncIterator[str]:
    from serving.deployments.local import serve_locally

    waiting = ["ray", "embedder", "api", *(["llm"] if settings.llm.model and settings.llm.min_replicas else [])]
    milvus = running_milvus(data_dir)
    others = [milvus.server.pid] if milvus else []

    def ready(part: str) -> None:
        steps.done(part)
        waiting.remove(part)
        if part == "ray":
            ending.arm()
        # An LLM may take minutes more; questions are answered once the Api is there, as `llm.on_cold` says.
        announce(data_dir, "" if "api" in waiting else url_of(settings.api), not_family=others)
        steps.doing(waiting[0] if waiting else None)

    steps.doing(waiting[0])
    try:
        async with serve_locally(settings, log_dir=data_dir / "logs", progress=ready) as url:
            yield url
    finally:
        steps.doing(None)


def url_of(api: ApiSettings) -> str:
    """How a client on this machine reaches the address that the server binds to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(api.host, api.host)
    return f"http://[{host}]:{api.port}" if ":" in host else f"http://{host}:{api.port}"


def own_key(settings: Settings) -> str | None:
    """A key that our own server accepts, if it asks for one."""
    if settings.api.keys:
        return settings.api.keys[0].get_secret_value()
    if settings.api.keys_file is None:
        return None
    lines = (line.strip() for line in settings.api.keys_file.read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line and not line.startswith("#"))


async def _serve(settings: Settings, data_dir: Path, steps: Steps, ending: Ending) -> None:
    async with served(settings, data_dir, steps, ending) as url:
        key = own_key(settings)
        model = await best_model(Client(url, key))
        steps.say(f"\nReady after {steps.elapsed_s:.1f} s: [bold]{url}[/]\n")
        steps.say(what_next(url, model, data_dir, QUESTION, keyed=key is not None))
        await asyncio.Event().wait()
