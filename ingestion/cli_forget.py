"""`anchorage forget`: take documents out for good, and prove it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ingestion.cli_opened import (
    FAILED,
    OK,
    CollectionName,
    Wait,
    mistakes_said,
    opened,
    opened_catalog,
    write_json,
)
from serving.cli_options import AsJson, DataDir
from serving.running import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from ingestion.receipt import Receipt

#: Documents listed on the terminal; the JSON has more of them.
_LISTED = 20

Documents = Annotated[list[str], typer.Argument(help="Each by its uri, its path or its id.", show_default=False)]
ReceiptFile = Annotated[
    Path | None, typer.Option("--receipt", help="Keep the receipt in this file, as JSON.", show_default=False)
]
Allow = Annotated[bool, typer.Option("--allow", help="The way back: let ingestion take these documents again.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("forget")(forget_command)


def forget_command(
    documents: Documents,
    collection: CollectionName = None,
    receipt_file: ReceiptFile = None,
    allow: Allow = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
    wait: Wait = 60.0,
) -> None:
    """Remove DOCUMENTS for good, and print a receipt.

    Their passages go from every build and every generation that is kept, their text from the catalog; then the index
    is asked by their former vectors and words whether anything is left. Ingestion passes over them from now on, until
    `--allow`. Their sources are not touched. Killed at any moment, the same command goes on.

    Exit codes: 0 they are gone, and that is proven; 1 a check failed (the receipt says which), or a part is down; 2 a
    document is not known.
    """
    with mistakes_said():
        if allow:
            asyncio.run(_allow(documents, collection, data_dir, as_json=as_json))
            raise typer.Exit(OK)
        receipt = asyncio.run(_forget(documents, collection, data_dir, wait))
    content = receipt.as_json()
    if receipt_file is not None:
        _keep(receipt_file, json.dumps(content, indent=2) + "\n")
    if as_json:
        write_json(content)
    else:
        show_receipt(Console(highlight=False, soft_wrap=True), receipt)
    raise typer.Exit(OK if receipt.proven else FAILED)


async def _forget(names: Sequence[str], collection: str | None, data_dir: Path, wait_s: float) -> Receipt:
    from ingestion.erase import erase
    from ingestion.forget import documents_named

    async with opened(data_dir) as (settings, parts):
        name = collection or settings.index.default_collection
        uris = await documents_named(parts.catalog, name, names)
        return await erase(parts, settings, name, uris, wait_s=wait_s, for_good=True)


async def _allow(names: Sequence[str], collection: str | None, data_dir: Path, *, as_json: bool) -> None:
    from ingestion.forget import allow_again

    async with opened_catalog(data_dir) as (settings, catalog):
        name = collection or settings.index.default_collection
        uris = await allow_again(catalog, name, names)
    if as_json:
        write_json({"collection": name, "allowed": uris})
        return
    console = Console(highlight=False, soft_wrap=True)
    for uri in uris:
        console.print(f"{escape(uri)} is taken again by the next ingestion that meets it.")


def _keep(path: Path, text: str) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def show_receipt(console: Console, receipt: Receipt) -> None:
    """What was removed, what was checked, and what it does not cover."""
    content = receipt.as_json()
    console.print(f"[bold]Receipt[/] for collection [bold]{escape(receipt.collection)}[/]")
    console.print(f"  asked {receipt.asked_at}, finished {receipt.finished_at}, by {content['software']}")
    for uri, rows in list(receipt.documents.items())[:_LISTED]:
        console.print(f"  {escape(uri)}: {rows:,} rows")
    if receipt.asked > _LISTED:
        console.print(f"  … {receipt.asked:,} documents in all")
    console.print(f"[bold]Removed[/] {receipt.rows:,} rows, {receipt.texts:,} texts, {receipt.uploads:,} uploads")
    for removed in receipt.builds:
        console.print(
            f"  build {escape(removed.build)}: {removed.rows:,} rows of {removed.documents:,} documents; readers see "
            f"generation {removed.generation}"
        )
    console.print("[bold]Checked[/]")
    for check in receipt.checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        found = f": {escape(', '.join(check.answers))}" if check.answers else ""
        console.print(f"  {mark} {check.check} ({escape(check.where)}; asked {check.asked:,} times, {check.at}){found}")
    console.print("[bold]Not covered[/]")
    for limit in receipt.not_covered:
        console.print(f"  {escape(limit)}")
    console.print(f"SHA-256 {content['sha256']}")
    console.print("[green]They are gone.[/]" if receipt.proven else "[red]A check failed: run the command again.[/]")
