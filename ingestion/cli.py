"""`anchorage ingest`: sources to a published collection, beside a running server or without one."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ingestion.cli_progress import progress_bar, show_report
from ingestion.report import IngestReport, OnProgress
from ingestion.writer_lock import writer_lock
from serving.cli_options import AsJson, DataDir, read_settings
from serving.errors import CallerError
from serving.running import DEFAULT_DATA_DIR
from serving.stack import embedded_index

if TYPE_CHECKING:
    from serving.settings import Settings

#: Exit codes, as the program's help explains them.
OK, FAILED, USAGE, SOME_FAILED = 0, 1, 2, 3

Sources = Annotated[
    list[str], typer.Argument(help="Files, folders or patterns like 'docs/**/*.md'.", show_default=False)
]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", "-c", help="Collection to keep them in. Default: the setting's.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--no-progress", help="No progress bar, even on a terminal.")]
Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for another ingestion to end.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("ingest")(ingest_command)


def ingest_command(
    sources: Sources,
    collection: CollectionName = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
    no_progress: Quiet = False,
    wait: Wait = 0.0,
) -> None:
    """Make a collection hold what the SOURCES hold now: Markdown, text, HTML and PDF.

    Run it again whenever you like: unchanged files cost nothing, changed ones replace their passages, and files that
    were deleted from a given folder take theirs away. A file that cannot be read fails alone and keeps its last good
    state. Readers see the old state until the new one is complete.

    Exit codes: 0 all went well; 1 nothing could be done, or a part is down; 2 a source does not exist or the command
    line is wrong; 3 some files failed, the rest was ingested.
    """
    console = Console(stderr=True, highlight=False)
    try:
        settings = read_settings()
        name = collection or settings.index.default_collection
        bar = progress_bar(console) if console.is_terminal and not no_progress else nullcontext(None)
        with bar as on_progress:
            report = asyncio.run(_run(sources, name, settings, data_dir.expanduser().resolve(), wait, on_progress))
    except CallerError as error:
        console.print(f"[bold red]anchorage:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(USAGE) from error
    if as_json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    else:
        show_report(Console(highlight=False), report)
    raise typer.Exit(exit_code(report))


def exit_code(report: IngestReport) -> int:
    """0, 1 or 3: see the command's help."""
    if not report.counts["failed"]:
        return OK
    done = any(report.counts[change] for change in ("new", "changed", "unchanged", "removed"))
    return SOME_FAILED if done else FAILED


async def _run(
    sources: list[str],
    collection: str,
    settings: Settings,
    data_dir: Path,
    wait_s: float,
    on_progress: OnProgress | None,
) -> IngestReport:
    # The libraries behind these take seconds to import; `anchorage --help` does not wait for them.
    from ingestion.parts import open_parts
    from ingestion.pipeline import ingest
    from ingestion.source import parse_sources

    parse_sources(sources)  # a misspelt path is said before anything is started
    async with (
        writer_lock(data_dir, wait_s=wait_s),
        embedded_index(settings, data_dir) as found,
        open_parts(found) as parts,
    ):
        return await ingest(sources, collection, settings=found, parts=parts, on_progress=on_progress)
