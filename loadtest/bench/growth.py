"""From a thousand chunks to a hundred thousand, by `anchorage ingest` into the embedded store: time, memory, disk.

Every size is ingested into an empty store by a fresh process. The embedding model is a real one of a single random
layer (`growth_model`), so that what is seen is how the pipeline and the store grow.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from loadtest.bench.growth_memory import Peaks, watching
from loadtest.bench.growth_model import DIMENSION, make
from loadtest.bench.ingest import Store
from loadtest.bench.ingest_documents import write_documents
from loadtest.bench.ingest_process import command
from loadtest.bench.memory import MIB
from loadtest.bench.rounds import spread
from loadtest.bench.table import Result, Row
from serving.index.catalog import Catalog
from serving.index.milvus import Milvus
from serving.index.schema import index_name
from serving.index.types import SearchRequest
from serving.settings import IndexSettings, Settings
from serving.stack import embedded_index

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
LEAST_R2, SLOWER_BAR, FLUSH_BAR = 0.99, 1.25, 1.25
#: What the time for a chunk in the largest collection is compared with: smaller ones are all fixed costs.
_BASE = 10_000
_SECTIONS = 8
_SEARCHES = 30


@dataclass(frozen=True, slots=True)
class Point:
    """One size. Seconds: `seconds` the run by its own clock, `whole_s` the command, `cpu_s` all processes together.

    `peaks` and `disk` in bytes. Milliseconds of a hybrid search (p50): `search_ms` after the run, `flushed_ms` after
    one more flush.
    """

    chunks: int
    documents: int
    seconds: float
    whole_s: float
    cpu_s: float
    peaks: Peaks
    disk: int
    search_ms: float
    flushed_ms: float


@dataclass(frozen=True, slots=True)
class Line:
    """Least squares: seconds over chunks. `deviation`: the largest distance of a point, as a share of the last one."""

    slope: float
    intercept: float
    r2: float
    deviation: float


async def measure(chunks: int, progress: Progress | None = None) -> tuple[Result, list[Point], Line]:
    """All sizes up to `chunks`."""
    sizes = [size for size in SIZES if size <= chunks]
    task = progress.add_task("sizes", total=sum(sizes)) if progress else None
    points = []
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-", ignore_cleanup_errors=True) as name:
        model = await asyncio.to_thread(make, Path(name))
        for size in sizes:
            folder = Path(name) / str(size)
            points.append(await _point(folder, size, model))
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            if progress and task is not None:
                progress.update(task, advance=size, description=f"{size:,} chunks")
    line = fit([point.chunks for point in points], [point.seconds for point in points])
    return Result(_rows(points, line), _notes()), points, line


async def _point(folder: Path, size: int, model: Path) -> Point:
    documents = folder / "documents"
    await asyncio.to_thread(write_documents, documents, size // _SECTIONS, _SECTIONS)
    embedder = Settings().embedder.model_copy(update={"model": str(model)})
    settings = Settings().model_copy(update={"embedder": embedder})
    # The server is held from here, so that it is searched as the run has left it.
    async with embedded_index(settings, folder / "data") as found:
        server = Store(found.index.milvus_uri, folder / "data")
        before = server.cpu_s()
        async with watching(server.process()) as watch:
            arguments = ("ingest", documents, "--data-dir", folder / "data", "-c", "bench", "--json")
            done = await command(arguments, folder, {"ANCHORAGE_EMBEDDER__MODEL": str(model)}, watch.follow)
        cpu = done.cpu_s + server.cpu_s() - before
        report = json.loads(done.output)
        as_left, flushed = await _searched(found.index, str(model))
    return Point(
        chunks=report["chunks"],
        documents=report["documents"],
        seconds=report["seconds"]["total"],
        whole_s=done.seconds,
        cpu_s=cpu,
        peaks=watch.peaks,
        disk=sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file()),
        search_ms=as_left,
        flushed_ms=flushed,
    )


async def _searched(settings: IndexSettings, model: str) -> tuple[float, float]:
    """Median milliseconds of hybrid searches as a run has left the store, and after one more flush."""
    catalog, store = Catalog.connect(settings), Milvus.connect(settings)
    index = index_name(model, DIMENSION)
    try:
        published = await catalog.collection("bench")
        await _search(store, index, published.snapshot, _SEARCHES)
        as_left = await _search(store, index, published.snapshot, _SEARCHES)
        await store.flush(index)
        return as_left, await _search(store, index, published.snapshot, _SEARCHES)
    finally:
        await store.close()
        await catalog.close()


async def _search(store: Milvus, index: str, snapshot: int, count: int) -> float:
    numbers = np.random.default_rng(7)
    taken = []
    for _ in range(count):
        vector = numbers.normal(size=DIMENSION).astype(np.float32)
        vector /= np.linalg.norm(vector)
        request = SearchRequest("bench", snapshot, index, "pending node restarts", vector, 10, "hybrid", rrf_k=10)
        started = time.perf_counter()
        await store.search(request)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def fit(chunks: Sequence[int], seconds: Sequence[float]) -> Line:
    """A straight line through the points, and how straight they lie."""
    across, up = np.asarray(chunks, dtype=float), np.asarray(seconds, dtype=float)
    slope, intercept = np.polyfit(across, up, 1) if len(chunks) > 1 else (up[0] / across[0], 0.0)
    off = up - (slope * across + intercept)
    total = float(((up - up.mean()) ** 2).sum())
    r2 = 1 - float((off**2).sum()) / total if total else 1.0
    return Line(float(slope), float(intercept), r2, float(np.abs(off).max() / up[-1]))


def _rows(points: Sequence[Point], line: Line) -> list[Row]:
    rows = [_point_row(point) for point in points]
    straight = Row(
        "a straight line: R2",
        f"{line.r2:.4f}, {1000 * line.slope:.2f} ms a chunk + {line.intercept:.1f} s",
        f"largest deviation {line.deviation:.1%} of the last point",
        "-",
        f">= {LEAST_R2:g}",
        line.r2 >= LEAST_R2,
        spread([line.r2]),
    )
    rows.append(straight)
    base = next((point for point in points if point.chunks >= _BASE - _SECTIONS), None)
    last = points[-1]
    if base is not None and base is not last:
        for kind, bar in (("seconds", SLOWER_BAR), ("cpu_s", None)):
            rows.append(_slower_row(kind, points[0], base, last, bar))
    rows.append(_flush_row(last))
    return rows


def _point_row(point: Point) -> Row:
    peaks = point.peaks
    memory = f"{peaks.command / MIB:,.0f} + {peaks.parsers / MIB:,.0f} + {peaks.store / MIB:,.0f}"
    return Row(
        f"{point.chunks:,} chunks of {point.documents:,} documents",
        f"{point.seconds:.1f} s, {point.chunks / point.seconds:.0f} chunks/s, {point.whole_s:.1f} s with start and end",
        f"peak {peaks.together / MIB:,.0f} MiB ({memory}), disk {point.disk / MIB:,.0f} MiB",
        f"{1000 * point.cpu_s / point.chunks:.2f} ms CPU a chunk",
    )


def _slower_row(kind: str, first: Point, base: Point, last: Point, bar: float | None) -> Row:
    """Both without the smallest size, which is starting and loading more than anything else."""
    here, there = (
        1000 * (getattr(point, kind) - getattr(first, kind)) / (point.chunks - first.chunks) for point in (last, base)
    )
    name = {"seconds": "time", "cpu_s": "CPU time"}[kind]
    return Row(
        f"{name} of a chunk beyond {first.chunks:,}: up to {last.chunks:,} / up to {base.chunks:,}",
        f"{here:.2f} ms",
        f"{there:.2f} ms",
        f"{here / there:.2f}x",
        "-" if bar is None else f"<= {bar:g}x",
        None if bar is None else here / there <= bar,
        spread([here / there]),
    )


def _flush_row(last: Point) -> Row:
    ratio = last.search_ms / last.flushed_ms
    return Row(
        f"p50 of a hybrid search in {last.chunks:,}: as the run left it / after one more flush",
        f"{last.search_ms:.1f} ms",
        f"{last.flushed_ms:.1f} ms",
        f"{ratio:.2f}x",
        f"<= {FLUSH_BAR:g}x",
        ratio <= FLUSH_BAR,
        spread([ratio]),
    )


def _notes() -> list[str]:
    return [
        "time by the run's own clock, with loading the model; the embedding model has one random layer",
        "peak memory: all processes at the same moment (each alone: the command + its parsers + Milvus Lite)",
    ]
