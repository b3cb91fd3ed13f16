"""`anchorage rebuild` and `anchorage builds`: another recipe for a collection, and which build of it readers read."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ingestion.cli_progress import progress_bar
from ingestion.report import OnProgress
from serving.cli_options import AsJson, DataDir, read_settings
from serving.errors import CallerError
from serving.running import DEFAULT_DATA_DIR
from serving.stack import embedded_index

if TYPE_CHECKING:
    from ingestion.parts import Parts
    from ingestion.rebuild_report import RebuildReport
    from serving.index.catalog_models import Build
    from serving.settings import Settings

_T = TypeVar("_T")

#: Exit codes, as the program's help explains them.
_FAILED, _USAGE, _SOME_FAILED = 1, 2, 3
_LISTED = 20

Collection = Annotated[
    str | None, typer.Option("--collection", "-c", help="Default: the setting's.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Embedding model: packaged name, Hugging Face id or folder. Default: the setting's."),
]
ChunkTokens = Annotated[
    int | None, typer.Option("--chunk-tokens", min=16, help="Tokens of a chunk's text. Default: the setting's.")
]
NoSwitch = Annotated[bool, typer.Option("--no-switch", help="Make the new build, and leave readers where they are.")]
Force = Annotated[bool, typer.Option("--force", help="Switch although documents are missing in the new build.")]
Again = Annotated[bool, typer.Option("--again", help="Make a new build even if the recipe is the collection's own.")]
Quiet = Annotated[bool, typer.Option("--no-progress", help="No progress bar, even on a terminal.")]
Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for an ingestion to end.")]
Now = Annotated[bool, typer.Option("--now", help="As the build is, without bringing it up to date first.")]
Which = Annotated[str, typer.Argument(metavar="BUILD", help="Its name or its number.", show_default=False)]

#: Catches a build up: called with settings, parts, the collection's name, and whom to tell.
Work: TypeAlias = "Callable[[Settings, Parts, str, OnProgress | None], Awaitable[RebuildReport]]"

builds = typer.Typer(help="The builds of a collection: list them, switch readers to another one, drop one.")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("rebuild")(rebuild_command)
    app.add_typer(builds, name="builds", invoke_without_command=True)


def rebuild_command(
    collection: Collection = None,
    model: Model = None,
    chunk_tokens: ChunkTokens = None,
    no_switch: NoSwitch = False,
    force: Force = False,
    again: Again = False,
    wait: Wait = 300.0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
    no_progress: Quiet = False,
) -> None:
    """Make a collection anew by another embedding model or chunk size, while it is read and written.

    The sources are not needed. Questions are answered from the old build until the new one holds the same documents;
    then readers are switched, in one moment. The old build is kept to switch back to (`anchorage builds`). Killed at
    any moment, the same command goes on.

    Exit codes: 0 readers read the new build (or it is ready, with --no-switch); 1 it failed, or documents would be
    missing; 2 the command line is wrong; 3 readers were switched by --force although documents are missing.
    """

    async def work(settings: Settings, parts: Parts, name: str, on_progress: OnProgress | None) -> RebuildReport:
        from ingestion.rebuild import rebuild
        from ingestion.rebuild_report import RebuildOptions

        recipe = model or settings.embedder.model, chunk_tokens or settings.ingestion.chunk_tokens
        options = RebuildOptions(not no_switch, force, again, wait)
        return await rebuild(name, *recipe, settings=settings, parts=parts, options=options, on_progress=on_progress)

    _end(_catch_up(work, collection, data_dir, quiet=no_progress), as_json=as_json, switch=not no_switch)


@builds.callback()
def builds_command(
    context: typer.Context, collection: Collection = None, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """The builds of a collection: list them, switch readers to another one, drop one."""
    if context.invoked_subcommand is not None:
        return

    async def listed() -> list[Build]:
        async with _opened(data_dir) as (settings, parts):
            name = collection or settings.index.default_collection
            await parts.catalog.collection(name)
            return await parts.catalog.builds(name)

    found = _run(listed())
    if as_json:
        _print([asdict(build) for build in found])
    else:
        _table(found)


@builds.command("switch")
def switch_command(
    build: Which,
    collection: Collection = None,
    now: Now = False,
    force: Force = False,
    wait: Wait = 300.0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
    no_progress: Quiet = False,
) -> None:
    """Bring another build up to date, by its own recipe, and let readers read it."""
    if now:
        _switch_now(build, collection, wait, data_dir, as_json=as_json)
        return

    async def work(settings: Settings, parts: Parts, name: str, on_progress: OnProgress | None) -> RebuildReport:
        from ingestion.rebuild import switch_to
        from ingestion.rebuild_report import RebuildOptions

        options = RebuildOptions(force=force, wait_s=wait)
        return await switch_to(name, build, settings=settings, parts=parts, options=options, on_progress=on_progress)

    _end(_catch_up(work, collection, data_dir, quiet=no_progress), as_json=as_json, switch=True)


@builds.command("drop")
def drop_command(
    build: Which,
    collection: Collection = None,
    wait: Wait = 0.0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Remove a build that readers do not read, for good."""

    async def dropped() -> Build:
        from ingestion.rebuild_now import drop

        async with _opened(data_dir) as (settings, parts):
            return await drop(collection or settings.index.default_collection, build, parts=parts, wait_s=wait)

    gone = _run(dropped())
    if as_json:
        _print({"collection": gone.collection, "dropped": gone.key})
    else:
        Console(highlight=False).print(f"Build {gone.key} is dropped.", soft_wrap=True)


def _switch_now(key: str, collection: str | None, wait: float, data_dir: Path, *, as_json: bool) -> None:
    async def switched() -> Any:
        from ingestion.rebuild_now import switch_now

        async with _opened(data_dir) as (settings, parts):
            return await switch_now(collection or settings.index.default_collection, key, parts=parts, wait_s=wait)

    done = _run(switched())
    build = done.build
    if as_json:
        said = {"collection": build.collection, "build": build.key, "previous": done.previous}
        _print(said | {"switched": True, "differing": done.differing})
        return
    console = Console(highlight=False)
    console.print(f"Readers of collection {build.collection} read build {build.key} now.", soft_wrap=True)
    if done.differing:
        console.print(
            f"{done.differing:,} documents differ from {done.previous}, which they read before.", soft_wrap=True
        )


# -- running and telling -----------------------------------------------------------------------------------------------


def _catch_up(work: Work, collection: str | None, data_dir: Path, *, quiet: bool) -> RebuildReport:
    console = Console(stderr=True, highlight=False)
    bar = progress_bar(console, "rebuild") if console.is_terminal and not quiet else nullcontext(None)

    async def run(on_progress: OnProgress | None) -> RebuildReport:
        async with _opened(data_dir) as (settings, parts):
            return await work(settings, parts, collection or settings.index.default_collection, on_progress)

    with bar as on_progress:
        return _run(run(on_progress))


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    console = Console(stderr=True, highlight=False)
    try:
        return asyncio.run(work)
    except CallerError as error:
        console.print(f"[bold red]anchorage:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(_USAGE) from error
    except KeyboardInterrupt as error:
        console.print("Stopped. What was written is kept: the same command goes on from there.")
        raise typer.Exit(130) from error


@asynccontextmanager
async def _opened(data_dir: Path) -> AsyncIterator[tuple[Settings, Parts]]:
    # The libraries behind these take seconds to import; `anchorage --help` does not wait for them.
    from ingestion.parts import open_parts

    async with embedded_index(read_settings(), _absolute(data_dir)) as settings, open_parts(settings) as parts:
        yield settings, parts


def _absolute(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve()


def _end(report: RebuildReport, *, as_json: bool, switch: bool) -> None:
    if as_json:
        _print(report.as_json())
    else:
        _show(report, switch=switch)
    if switch and not (report.switched or report.already):
        raise typer.Exit(_FAILED)
    if report.obstacles and report.switched:
        raise typer.Exit(_SOME_FAILED)


def _show(report: RebuildReport, *, switch: bool) -> None:
    console = Console(highlight=False)
    recipe = f"embedding model {report.recipe.model}, chunks of at most {report.recipe.chunk_tokens} tokens"
    for failure in report.failures[:_LISTED]:
        console.print(f"[red]missing[/] {escape(failure.path)}: {escape(failure.reason)}", soft_wrap=True)
    if len(report.failures) > _LISTED:
        console.print(f"… and {len(report.failures) - _LISTED:,} more (see --json)")
    for obstacle in report.obstacles:
        console.print(f"[yellow]{escape(obstacle)}[/]", soft_wrap=True)
    if report.already:
        said = f"Readers of collection {report.collection} read build {report.build} already: {recipe}."
    elif report.switched:
        said = (
            f"Readers of collection {report.collection} read build {report.build} now: {report.documents:,} documents "
            f"in {report.chunks:,} chunks, {recipe}. Build {report.previous} is kept: `anchorage builds`."
        )
    elif switch:
        said = f"Readers of collection {report.collection} keep build {report.previous}. --force switches all the same."
    else:
        said = (
            f"Build {report.build} is ready: {report.documents:,} documents in {report.chunks:,} chunks, {recipe}. "
            f"Readers keep {report.previous}: `anchorage builds switch {report.build}`."
        )
    console.print(escape(said), soft_wrap=True)


def _table(found: list[Build]) -> None:
    table = Table("build", "embedding model", "chunk tokens", "documents", "chunks", "generation", "published", "state")
    for build in found:
        at = datetime.fromtimestamp(build.published_at, UTC).strftime("%Y-%m-%d %H:%M UTC") if build.snapshot else "-"
        numbers = (f"{number:,}" for number in (build.documents, build.chunks, build.generation))
        state = "live" if build.live else "kept" if build.state == "ready" else build.state
        table.add_row(build.key, build.recipe.model, str(build.recipe.chunk_tokens), *numbers, at, state)
    Console(highlight=False).print(table)


def _print(said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
