"""Progress of a run on a terminal, and its report as a table. The only user of `rich` in ingestion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ingestion.report import IngestReport, OnProgress, Progress

#: Failures listed on the terminal; `--json` has more of them.
_LISTED = 20


@contextmanager
def progress_bar(console: Console, doing: str = "ingest") -> Iterator[OnProgress]:
    """A bar with rate and time left, for as long as the block runs."""
    bar = Bar(
        TextColumn(f"[bold]{doing}[/]"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[documents]:,} documents, {task.fields[chunks]:,} chunks"),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(doing, total=None, documents=0, chunks=0)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.done,
                total=progress.total,
                documents=progress.documents,
                chunks=progress.chunks,
            )

        yield show


def show_report(console: Console, report: IngestReport) -> None:
    """Counts, failures with their reasons, and where the time went."""
    table = Table("new", "changed", "unchanged", "removed", "failed", "chunks", "seconds")
    counts = report.counts
    table.add_row(
        f"{counts['new']:,}",
        f"{counts['changed']:,}",
        f"{counts['unchanged']:,}",
        f"{counts['removed']:,}",
        f"[red]{counts['failed']:,}[/]" if counts["failed"] else "0",
        f"{report.chunks:,}",
        f"{report.total_s:.1f}",
    )
    console.print(table)
    for failure in report.failures[:_LISTED]:
        console.print(f"[red]failed[/] {escape(failure.path)}: {escape(failure.reason)}", soft_wrap=True)
    if counts["failed"] > _LISTED:
        console.print(f"… and {counts['failed'] - _LISTED:,} more that failed (see --json)")
    for reason, number in report.skipped.most_common(_LISTED):
        console.print(f"[dim]skipped {number:,}: {escape(reason)}[/]", soft_wrap=True)
    for note in report.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    if report.receipt is not None:
        console.print(_erased(report.receipt), soft_wrap=True)
    console.print(_closing(report), soft_wrap=True)


def _erased(receipt: Mapping[str, Any]) -> str:
    checks = receipt["checks"]
    passed = sum(check["passed"] for check in checks)
    colour = "default" if receipt["proven"] else "red"
    return (
        f"Erased {receipt['rows_removed']:,} rows of {receipt['documents_found']:,} vanished documents: "
        f"[{colour}]{passed} of {len(checks)} checks passed[/] (receipt {receipt['sha256'][:12]}; --json has all of it)"
    )


def _closing(report: IngestReport) -> str:
    name = escape(report.collection)
    if report.published:
        return (
            f"Collection [bold]{name}[/] has {report.documents:,} documents in {report.chunks:,} chunks "
            f"(generation {report.generation})."
        )
    if not report.documents:
        return f"Nothing to ingest was found; collection [bold]{name}[/] is empty."
    return f"Nothing changed: collection [bold]{name}[/] keeps generation {report.generation}."
