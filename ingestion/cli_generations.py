"""`anchorage generations`: what was published, holding readers at it, and going back to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ingestion.cli_opened import (
    CollectionName,
    Wait,
    mistakes_said,
    moment,
    moment_json,
    opened,
    opened_catalog,
    table_console,
    write_json,
)
from serving.cli_options import AsJson, DataDir
from serving.errors import WriterBusy
from serving.running import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from ingestion.generations import Listed
    from ingestion.rollback import RolledBack

Number = Annotated[int, typer.Argument(help="A generation, as `anchorage generations` lists them.", min=1)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to list.")]

#: The changes that a table shows, each with its sign.
_CHANGES = {"new": "+", "changed": "~", "removed": "-", "failed": "!"}
_COLOURS = {"current": "green", "pinned": "yellow", "purged": "dim", "interrupted": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(help="List what was published; hold readers at it; go back to it.")
    group.callback(invoke_without_command=True)(list_command)
    group.command("pin")(pin_command)
    group.command("unpin")(unpin_command)
    group.command("rollback")(rollback_command)
    app.add_typer(group, name="generations")


def list_command(
    context: typer.Context,
    collection: CollectionName = None,
    limit: Limit = 20,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """The generations of a collection, the latest one first. Changes: +new ~changed -removed !failed documents.

    current: readers read it. pinned: they are held at it. retained: they can be brought back to it. purged: they
    cannot. running: not published yet. interrupted: its run was killed; the next one of its kind goes on with it.
    """
    if context.invoked_subcommand is not None:
        return
    with mistakes_said():
        name, listed = asyncio.run(_listed(collection, limit, data_dir))
    if as_json:
        write_json({"collection": name, "generations": [_as_json(one) for one in listed]})
        return
    _show(table_console(), name, listed)


def pin_command(
    generation: Number,
    collection: CollectionName = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Hold readers at a generation, at once. Ingestion goes on; what it publishes is not read until `unpin`."""
    with mistakes_said():
        name = asyncio.run(_pin(generation, collection, data_dir))
    if as_json:
        write_json({"collection": name, "pinned": generation})
        return
    Console(highlight=False, soft_wrap=True).print(
        f"Readers of [bold]{escape(name)}[/] stay at generation {generation} until `anchorage generations unpin`."
    )


def unpin_command(
    collection: CollectionName = None, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False
) -> None:
    """Let readers follow the latest generation again."""
    with mistakes_said():
        name, generation = asyncio.run(_unpin(collection, data_dir))
    if as_json:
        write_json({"collection": name, "pinned": None, "generation": generation})
        return
    Console(highlight=False, soft_wrap=True).print(
        f"Readers of [bold]{escape(name)}[/] read the latest generation, {generation}."
    )


def rollback_command(
    generation: Number,
    collection: CollectionName = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
    wait: Wait = 0.0,
) -> None:
    """Bring back what a generation held: readers at once, and as a new generation that ingestion starts from.

    Nothing is embedded. Documents that were erased since do not come back. Killed at any moment, readers stay at the
    generation that was asked for, and the same command goes on.
    """
    with mistakes_said():
        done = asyncio.run(_roll_back(generation, collection, data_dir, wait))
    if as_json:
        write_json(_done_json(done))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in _said(done):
        console.print(escape(line))


async def _listed(collection: str | None, limit: int, data_dir: Path) -> tuple[str, list[Listed]]:
    from ingestion.generations import generations

    async with opened_catalog(data_dir) as (settings, catalog):
        name = collection or settings.index.default_collection
        return name, await generations(catalog, name, settings.ingestion.keep_generations, limit)


async def _pin(number: int, collection: str | None, data_dir: Path) -> str:
    from ingestion.generations import generation_of

    async with opened_catalog(data_dir) as (settings, catalog):
        name = collection or settings.index.default_collection
        build, generation = await generation_of(catalog, name, number)
        await catalog.pin(build.key, generation.snapshot)
        return name


async def _unpin(collection: str | None, data_dir: Path) -> tuple[str, int]:
    from ingestion.generations import live_build

    async with opened_catalog(data_dir) as (settings, catalog):
        name = collection or settings.index.default_collection
        build = await live_build(catalog, name)
        await catalog.unpin(build.key)
        return name, build.generation


async def _roll_back(number: int, collection: str | None, data_dir: Path, wait_s: float) -> RolledBack:
    from ingestion.rollback import roll_back

    async with opened(data_dir) as (settings, parts):
        name = collection or settings.index.default_collection
        try:
            return await roll_back(parts, settings, name, number, wait_s=wait_s)
        except WriterBusy as error:
            hint = f"`anchorage generations pin {number} -c {name}` brings readers there now."
            raise WriterBusy(f"{error} {hint}") from error


def _show(console: Console, name: str, listed: list[Listed]) -> None:
    if not listed:
        console.print(f"Nothing was published in collection [bold]{escape(name)}[/] yet.")
        return
    table = Table("generation", "published (UTC)", "kind", "documents", "chunks", "changes", "state", box=None)
    for column in (table.columns[0], *table.columns[3:6]):
        column.justify = "right"
    for one in listed:
        generation = one.generation
        colour = _COLOURS.get(one.standing, "default")
        published = generation.state == "published"
        table.add_row(
            str(generation.generation) if published else "",
            moment(generation.finished_at),
            generation.kind,
            f"{generation.documents:,}" if published else "",
            f"{generation.chunks:,}" if published else "",
            " ".join(f"{sign}{generation.summary.get(change, 0):,}" for change, sign in _CHANGES.items()),
            f"[{colour}]{one.standing}[/]",
        )
    console.print(table)


def _as_json(one: Listed) -> dict[str, Any]:
    generation = one.generation
    published = generation.state == "published"
    return {
        "generation": generation.generation if published else None,
        "started_at": moment_json(generation.started_at),
        "published_at": moment_json(generation.finished_at),
        "kind": generation.kind,
        "documents": generation.documents,
        "chunks": generation.chunks,
        **{change: generation.summary.get(change, 0) for change in ("new", "changed", "moved", "removed", "failed")},
        "state": one.standing,
        "current": generation.current,
    }


def _done_json(done: RolledBack) -> dict[str, Any]:
    report = done.report
    return {
        "collection": report.collection,
        "rolled_back_to": done.generation,
        "generation": report.generation,
        "published": report.published,
        "documents": report.documents,
        "chunks": report.chunks,
        "brought_back": report.counts["new"] + report.counts["changed"],
        "removed": report.counts["removed"],
        "chunks_written": report.written,
        "erased_documents": done.erased,
    }


def _said(done: RolledBack) -> list[str]:
    report, counts = done.report, done.report.counts
    said = [
        f"Collection {report.collection} is at generation {report.generation}, which holds what generation "
        f"{done.generation} held: {report.documents:,} documents in {report.chunks:,} chunks."
    ]
    if report.published:
        said.append(
            f"{counts['new'] + counts['changed']:,} documents were brought back and {counts['removed']:,} taken away; "
            "nothing was embedded."
        )
    if done.erased:
        said.append(f"Erased documents ({done.erased:,} in this collection) do not come back.")
    said.append(
        "The next `anchorage ingest` looks at their sources again, and brings in what those hold then. Put the sources "
        f"right first, or hold readers: `anchorage generations pin {report.generation} -c {report.collection}`."
    )
    return said
