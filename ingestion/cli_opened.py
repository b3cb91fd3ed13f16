"""What commands about a collection share: its name, the parts they work with, and how they say what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape

from serving.cli_options import read_settings
from serving.errors import CallerError
from serving.stack import embedded_index, with_catalog

if TYPE_CHECKING:
    from ingestion.parts import Parts
    from serving.index.catalog import Catalog
    from serving.settings import Settings

#: Exit codes, as the program's help explains them.
OK, FAILED, USAGE = 0, 1, 2
#: Characters a line.
_WIDE = 200

CollectionName: TypeAlias = Annotated[
    str | None, typer.Option("--collection", "-c", help="Default: the setting's.", show_default=False)
]
Wait: TypeAlias = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for a run to end.")]


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[tuple[Settings, Parts]]:
    """Everything, for as long as the block runs; what is embedded is started where nobody has."""
    # The libraries behind this take seconds to import; `anchorage --help` does not wait for them.
    from ingestion.parts import open_parts

    async with embedded_index(read_settings(), _folder(data_dir)) as settings, open_parts(settings) as parts:
        yield settings, parts


@asynccontextmanager
async def opened_catalog(data_dir: Path) -> AsyncIterator[tuple[Settings, Catalog]]:
    """The catalog alone: nothing is started. Raises CallerError where there is none."""
    from serving.index.catalog import Catalog

    folder = _folder(data_dir)
    chosen = "catalog_url" in read_settings().index.model_fields_set
    if not chosen and not (folder / "catalog.db").exists():
        raise CallerError(f"Nothing is ingested in {data_dir} yet.")
    settings = with_catalog(read_settings(), folder)
    catalog = Catalog.connect(settings.index)
    try:
        yield settings, catalog
    finally:
        await catalog.close()


def _folder(data_dir: Path) -> Path:
    return data_dir.expanduser().resolve()


@contextmanager
def mistakes_said() -> Iterator[None]:
    """What the caller can change ends the command with code 2, said in one sentence."""
    try:
        yield
    except CallerError as error:
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]anchorage:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(USAGE) from error


def table_console() -> Console:
    """Where nobody looks at a terminal, tables are not cut to the width of one."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def write_json(content: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def moment(seconds: float) -> str:
    """A time for a table: UTC, to the second; nothing for one that has not come."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def moment_json(seconds: float) -> str | None:
    """A time for scripts: ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None
