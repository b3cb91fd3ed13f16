"""`anchorage failures`: what could not be ingested, why, and when it is tried again."""

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
    mistakes_said,
    moment,
    moment_json,
    opened_catalog,
    table_console,
    write_json,
)
from serving.cli_options import AsJson, DataDir
from serving.running import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from serving.index.catalog_models import DocumentRecord

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to list.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("failures")(failures_command)


def failures_command(
    collection: CollectionName = None,
    limit: Limit = 1_000,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Documents that could not be ingested, with their reasons.

    A document keeps its last good passages. It is tried again when it changes, and where its source did not answer also
    after a while, a few times. `anchorage ingest --retry-failed` tries all of them now.
    """
    with mistakes_said():
        name, total, failed = asyncio.run(_failed(collection, limit, data_dir))
    if as_json:
        documents = [_as_json(record) for record in failed]
        write_json({"collection": name, "failed": total, "documents": documents})
        return
    _show(table_console(), name, total, failed)


async def _failed(collection: str | None, limit: int, data_dir: Path) -> tuple[str, int, list[DocumentRecord]]:
    from ingestion.failures import failed_documents

    total, failed = 0, []
    async with opened_catalog(data_dir) as (settings, catalog):
        name = collection or settings.index.default_collection
        async for record in failed_documents(catalog, name):
            total += 1
            if total <= limit:
                failed.append(record)
    return name, total, failed


def _show(console: Console, name: str, total: int, failed: list[DocumentRecord]) -> None:
    from ingestion.records import next_try

    if not failed:
        console.print(f"Nothing has failed in collection [bold]{escape(name)}[/].")
        return
    table = Table("document", "reason", "attempts", "last try (UTC)", "next try (UTC)", "passages")
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    for record in failed:
        due = next_try(record)
        table.add_row(
            escape(record.name or record.uri),
            escape(record.reason),
            str(record.attempts),
            moment(record.updated_at),
            "when it changes" if due is None else moment(due),
            f"{record.chunks:,} of before" if record.chunks else "none",
        )
    console.print(table)
    if total > len(failed):
        console.print(f"… and {total - len(failed):,} more (see --limit)")


def _as_json(record: DocumentRecord) -> dict[str, Any]:
    from ingestion.records import next_try

    due = next_try(record)
    return {
        "uri": record.uri,
        "id": record.id,
        "name": record.name,
        "source": record.source,
        "reason": record.reason,
        "attempts": record.attempts,
        "last_try": moment_json(record.updated_at),
        "next_try": None if due is None else moment_json(due),
        "chunks": record.chunks,
    }
