"""`anchorage demo`: from nothing to a cited answer over our own handbook, by the same commands that a reader has."""

from __future__ import annotations

import asyncio
import sys
from importlib import resources
from pathlib import Path

import typer

from serving.cli_ask import ask_server, best_model
from serving.cli_next import what_next
from serving.cli_options import DataDir, read_settings
from serving.cli_progress import Steps
from serving.cli_serve import own_key, served, with_given
from serving.cli_signals import Ending
from serving.client import Client
from serving.errors import AnchorageError, ConfigurationError
from serving.ports import is_free
from serving.settings import Settings

DEMO_DATA_DIR = Path(".anchorage") / "demo"
QUESTION = "How do I remove a document?"


class StepFailed(AnchorageError):
    """A step of the demo did not do its work; what it said is above."""


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(data_dir: DataDir = DEMO_DATA_DIR) -> None:
    """Show all of it: serve, ingest the handbook, ask. On a terminal it keeps serving afterwards."""
    settings = read_settings()
    steps = Steps()
    if not is_free(settings.api.host, settings.api.port):
        steps.note(f"port {settings.api.port} is taken: a free one is used")
        settings = with_given(settings, "api", {"port": 0})
    keep = sys.stdin.isatty() and sys.stdout.isatty()
    ending = Ending(lambda: steps.say("\nstopping …"))
    asyncio.run(ending.run(_demo(settings, data_dir, steps, ending, keep=keep)))
    steps.say("stopped")


async def _demo(settings: Settings, data_dir: Path, steps: Steps, ending: Ending, *, keep: bool) -> None:
    steps.say("[bold]1. Start what is needed[/]")
    async with served(settings, data_dir, steps, ending) as url:
        steps.say(f"  serving at {url}, data in {data_dir}\n")
        steps.say("[bold]2. Ingest the handbook[/]")
        await _ingest(data_dir)
        steps.say("\n[bold]3. Ask over HTTP[/]")
        steps.say(f"  {QUESTION}\n")
        client = Client(url, own_key(settings))
        model = await best_model(client)
        answered = await ask_server(client, {"model": model, "messages": [{"role": "user", "content": QUESTION}]})
        if not answered.sources():
            raise StepFailed("the answer cites no source")
        if keep:
            steps.say("\n" + what_next(url, model, data_dir, QUESTION, keyed=own_key(settings) is not None))
            await asyncio.Event().wait()


async def _ingest(data_dir: Path) -> None:
    """In a process of its own, as a reader would do it beside a running server. Raises StepFailed."""
    with resources.as_file(resources.files("serving") / "handbook") as handbook:
        if not handbook.is_dir():
            raise ConfigurationError("the handbook is missing from this installation")
        command = ["-m", "serving.cli", "ingest", str(handbook), "--data-dir", str(data_dir)]
        child = await asyncio.create_subprocess_exec(sys.executable, *command)
        try:
            code = await child.wait()
        finally:
            if child.returncode is None:
                child.terminate()
                await child.wait()
    if code:
        raise StepFailed(f"ingesting the handbook failed (exit code {code})")
