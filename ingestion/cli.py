"""`anchorage ingest`: sources to a published collection, beside a running server or without one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ingestion.cli_on_cluster import Context, Job, Kubeconfig, Namespace, OnCluster, Queue, run_on_cluster
from ingestion.cli_progress import progress_bar, show_report
from ingestion.options import Options
from ingestion.report import IngestReport, OnProgress
from serving.cli_options import AsJson, DataDir, read_settings
from serving.errors import CallerError
from serving.running import DEFAULT_DATA_DIR
from serving.stack import embedded_index

if TYPE_CHECKING:
    from ingestion.parts import Parts
    from ingestion.source import Source
    from ingestion.work import OpenWork
    from serving.settings import Settings

#: Exit codes, as the program's help explains them.
OK, FAILED, USAGE, SOME_FAILED = 0, 1, 2, 3

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders, patterns ('docs/**/*.md'), s3:// gs:// abfs:// https:// addresses, sitemap:URL, "
        "urls:FILE, jsonl:FILE (or jsonl:- for stdin).",
        show_default=False,
    ),
]
CollectionName = Annotated[
    str | None,
    typer.Option("--collection", "-c", help="Collection to keep them in. Default: the setting's.", show_default=False),
]
Include = Annotated[
    list[str] | None, typer.Option("--include", help="Only documents that match this pattern. May be repeated.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="No documents that match this pattern. May be repeated.")
]
Sync = Annotated[
    bool | None,
    typer.Option(
        "--sync/--no-sync",
        help="Remove documents that have vanished from the sources, however many, and erase them with a receipt; or "
        "keep them. Default: remove them, unless most of a source has vanished.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Only documents that failed before; without SOURCES, all of them.")
]
Follow = Annotated[bool, typer.Option("--watch", help="Stay, and ingest what changes in the given folders.")]
Quiet = Annotated[bool, typer.Option("--no-progress", help="No progress bar, even on a terminal.")]
Distributed = Annotated[
    bool,
    typer.Option("--distributed", help="Read, parse and embed on a Ray cluster, or on a private Ray of this machine."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        envvar="RAY_ADDRESS",
        help="With --distributed: the cluster's address; auto: that of this machine. Default: a private Ray.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="With --distributed: processes that parse, and as many that embed, at most. Default: the setting's.",
        show_default=False,
    ),
]
Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for another ingestion to end.")]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a distributed run works: see `distributed.on_cluster`."""

    address: str | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for."""

    sources: list[str]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    collection: str
    options: Options
    data_dir: Path
    cluster: Cluster | None = None


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("ingest")(ingest_command)


def ingest_command(
    sources: Sources = None,
    collection: CollectionName = None,
    include: Include = None,
    exclude: Exclude = None,
    sync: Sync = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    watch: Follow = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
    no_progress: Quiet = False,
    wait: Wait = 0.0,
    distributed: Distributed = False,
    ray_address: RayAddress = None,
    workers: Workers = None,
    on_cluster: OnCluster = False,
    queue: Queue = None,
    namespace: Namespace = "anchorage",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a collection hold what the SOURCES hold now.

    Run it again whenever you like: unchanged documents cost a look, changed ones replace their passages, and those
    that have vanished take theirs away. A document that cannot be read fails alone and keeps its last good state.
    Readers see the old state until the new one is complete. Killed at any moment, the same command goes on.

    Exit codes: 0 all went well; 1 nothing could be done, or a part is down; 2 a source does not exist or the command
    line is wrong; 3 some documents failed, the rest was ingested.
    """
    places = (sources or [], tuple(include or ()), tuple(exclude or ()))
    options = Options(sync=sync, dry_run=dry_run, retry_failed=retry_failed, wait_s=wait)
    console = Console(stderr=True, highlight=False)
    try:
        if not sources and not retry_failed:
            raise CallerError("Name at least one source: `anchorage ingest docs/`.")
        if on_cluster:
            job = Job(*places, collection, options, workers, queue)
            raise typer.Exit(run_on_cluster(job, namespace, kubeconfig, context))
        settings = read_settings()
        collection = collection or settings.index.default_collection
        cluster = Cluster(ray_address, workers) if distributed else None
        request = Request(*places, collection, options, data_dir.expanduser().resolve(), cluster)
        report = _ingest_here(console, request, settings, watch, as_json, quiet=no_progress)
    except CallerError as error:
        console.print(f"[bold red]anchorage:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(USAGE) from error
    except KeyboardInterrupt as error:
        console.print("Stopped. What was written is kept: the same command goes on from there.")
        raise typer.Exit(OK if watch else 130) from error
    raise typer.Exit(exit_code(report))


def _ingest_here(
    console: Console, request: Request, settings: Settings, watch: bool, as_json: bool, *, quiet: bool
) -> IngestReport:
    """And shown; with `watch`, each time."""
    show = _as_json if as_json else lambda report: show_report(Console(highlight=False), report)
    bar = progress_bar(console) if console.is_terminal and not quiet and not watch else nullcontext(None)
    with bar as on_progress:
        report = asyncio.run(_run(request, settings, on_progress, show if watch else None))
    if not watch:
        show(report)
    return report


def exit_code(report: IngestReport) -> int:
    """0, 1 or 3: see the command's help."""
    if report.receipt is not None and not report.receipt["proven"]:
        return FAILED
    if not report.counts["failed"]:
        return OK
    done = any(report.counts[change] for change in ("new", "changed", "moved", "unchanged", "removed"))
    return SOME_FAILED if done else FAILED


def _as_json(report: IngestReport) -> None:
    sys.stdout.write(json.dumps(report.as_json()) + "\n")
    sys.stdout.flush()


async def _run(
    request: Request,
    settings: Settings,
    on_progress: OnProgress | None,
    follow: Callable[[IngestReport], None] | None,
) -> IngestReport:
    # The libraries behind these take seconds to import; `anchorage --help` does not wait for them.
    from ingestion.parts import open_parts
    from ingestion.watch import following, watched

    with _opened(request, settings, request.sources):
        pass  # a misspelt path is said before anything is started
    folders = watched(request.sources) if follow else []
    async with embedded_index(settings, request.data_dir) as found, open_parts(found) as parts:
        if follow is None:
            return await _ingest(request, found, parts, on_progress)
        async with following(folders) as changed:
            while True:
                changed.clear()
                follow(await _ingest(request, found, parts, None))
                await changed.wait()


async def _ingest(request: Request, settings: Settings, parts: Parts, on_progress: OnProgress | None) -> IngestReport:
    from ingestion.failures import failed_sources
    from ingestion.pipeline import ingest

    texts = request.sources or await failed_sources(parts.catalog, request.collection)
    with _opened(request, settings, texts) as sources:
        return await ingest(
            sources,
            request.collection,
            settings=settings,
            parts=parts,
            options=request.options,
            on_progress=on_progress,
            open_work=_work(request.cluster),
        )


def _work(cluster: Cluster | None) -> OpenWork:
    if cluster is None:
        from ingestion.work import here

        return here
    from ingestion.distributed import on_cluster

    return on_cluster(cluster.address, cluster.workers)


@contextmanager
def _opened(request: Request, settings: Settings, texts: Sequence[str]) -> Iterator[list[Source]]:
    """Sources for one walk. Raises SourceError."""
    from ingestion.load import SUFFIXES
    from ingestion.source import parse_sources

    with ExitStack() as stack:
        sources = parse_sources(
            texts,
            include=request.include,
            exclude=request.exclude,
            suffixes=SUFFIXES,
            settings=settings.ingestion,
        )
        for source in sources:
            stack.callback(source.close)
        yield sources
