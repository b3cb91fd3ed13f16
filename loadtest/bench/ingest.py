"""Ingestion from files to a searchable index: against embedding alone, against the peers' pipelines, and done again.

Every side works in a fresh process, on a fresh Milvus Lite server, over the same documents; the peers get our chunks
from a splitter that only hands them out. Their clock runs once their process, model and clients are ready; ours, too.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from pymilvus import MilvusClient
from rich.progress import Progress

from loadtest.bench.client import BenchError
from loadtest.bench.ingest_documents import VARYING, Corpus, change, texts_of, write_chunks, write_documents
from loadtest.bench.ingest_peers import interpreter
from loadtest.bench.ingest_process import command, working
from loadtest.bench.raw import connect
from loadtest.bench.rounds import Measure, Sample, Samples, interleave, ratios, series, spread
from loadtest.bench.table import Result, Row, at_least
from serving.index.tokenizer import resolve_model
from serving.index.types import Vectors
from serving.settings import Settings
from serving.stack import embedded_index, running_milvus

EMBED_BAR, PEER_BAR, AGAIN_BAR = 0.85, 3.0, 50.0
CHANGED = 0.01
#: Rows of a peer that must be what we would have stored.
_COMPARED, _LEAST_COSINE = 20, 0.99


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's module, its environment, and where it writes to: collection, text field, vector field."""

    name: str
    module: str
    collection: str
    text: str
    vector: str


PEERS = (
    Peer("LlamaIndex", "llama_index", "llamacollection", "text", "embedding"),
    Peer("Haystack", "haystack", "HaystackCollection", "text", "vector"),
)


@dataclass(frozen=True, slots=True)
class Store:
    """A running Milvus Lite."""

    uri: str
    data_dir: Path

    def process(self) -> psutil.Process:
        state = running_milvus(self.data_dir)
        process = state.server.process() if state else None
        if process is None:
            raise BenchError("Milvus Lite ended while it was measured")
        return process

    def cpu_s(self) -> float:
        used = self.process().cpu_times()
        return float(used.user + used.system)


class Sides:
    """Measures of all sides over the same documents. `again` is their state after 1 % of them were changed."""

    def __init__(self, folder: Path, first: Corpus, again: Corpus, pythons: Mapping[str, Path]) -> None:
        self._folder = folder
        self._first = first
        self._again = again
        self._pythons = pythons
        self._model = resolve_model(Settings().embedder.model)
        self._vectors: dict[str, Vectors] = {}

    def measures(self, peers: Sequence[Peer]) -> dict[str, Measure]:
        sides: dict[str, Measure] = {"embed": self.embed, "ours": self.ours, "command": self.command}
        for mode in ("default", "tuned"):
            sides |= {f"{peer.name} {mode}": partial(self.peer, peer, mode) for peer in peers}
        return sides

    async def embed(self) -> Sample:
        """Nothing but `LocalEmbedder` over the chunks' texts."""
        started, file = time.perf_counter(), self._folder / "vectors.npy"
        arguments = ("loadtest.bench.ingest_side", "embed", self._first.chunks, file)
        async with working("embed", Path(sys.executable), arguments, self._folder) as side:
            done = await side.pass_()
            whole = time.perf_counter() - started
            bound = await side.pass_()
        self._vectors = dict(zip(texts_of(self._first.chunks), np.load(file), strict=True))
        return {**self._sample(done, self._first), **bound, "whole_per_s": self._first.texts / whole}

    async def ours(self) -> Sample:
        """`ingest()` from when everything has been started."""
        async with self._copy() as (folder, copy), self._store(folder) as store:
            arguments = ("loadtest.bench.ingest_side", "ours", store.data_dir, copy)
            async with working("ours", Path(sys.executable), arguments, self._folder) as side:
                before = store.cpu_s()
                first = await side.pass_()
                first["cpu_s"] += store.cpu_s() - before
                await self._change(copy)
                again = await side.pass_()
        self._check("ours, second pass", again, self._again)
        return {**self._sample(first, self._first), "again_s": again["seconds"], "again_cpu_s": again["cpu_s"]}

    async def command(self) -> Sample:
        """`anchorage ingest`, with the starts of the process, of Milvus Lite and of the parsers, and their ends."""
        async with self._copy() as (folder, copy):
            arguments = ("ingest", copy, "--data-dir", folder / "data", "-c", "bench", "--json")
            first = await command(arguments, self._folder)
            await self._change(copy)
            again = await command(arguments, self._folder)
        return {
            "per_s": self._first.texts / first.seconds,
            "seconds": first.seconds,
            "cpu_ms": 1000 * first.cpu_s / self._first.texts,
            "again_s": again.seconds,
        }

    async def peer(self, peer: Peer, mode: str) -> Sample:
        async with self._copy() as (folder, copy), self._store(folder) as store:
            chunks = [self._first.chunks, self._again.chunks] if peer.module == "llama_index" else [self._first.chunks]
            module = f"loadtest.bench.peers.{peer.module}_side"
            arguments = (module, self._model, store.uri, mode, copy, *chunks)
            async with working(f"{peer.name} {mode}", self._pythons[peer.name], arguments, self._folder) as side:
                before = store.cpu_s()
                first = await side.pass_()
                first["cpu_s"] += store.cpu_s() - before
                await asyncio.to_thread(self._compare, peer, store.uri)
                sample = self._sample(first, self._first)
                if len(chunks) == 1:
                    return sample
                await self._change(copy)
                again = await side.pass_()
        self._check(f"{peer.name}, second pass", again, self._again)
        return {**sample, "again_s": again["seconds"], "again_cpu_s": again["cpu_s"]}

    def _sample(self, done: Mapping[str, float], corpus: Corpus) -> Sample:
        self._check("a side", done, corpus)
        return {
            "per_s": corpus.texts / done["seconds"],
            "seconds": done["seconds"],
            "cpu_ms": 1000 * done["cpu_s"] / corpus.texts,
        }

    def _check(self, side: str, done: Mapping[str, float], corpus: Corpus) -> None:
        if done["rows"] != corpus.texts:
            raise BenchError(f"{side}: {done['rows']:g} chunks instead of {corpus.texts}")

    def _compare(self, peer: Peer, uri: str) -> None:
        """A peer must have stored our texts with our vectors. Raises BenchError."""
        client: MilvusClient = connect(uri)
        try:
            fields = [peer.text, peer.vector]
            rows = client.query(peer.collection, filter="", output_fields=fields, limit=_COMPARED)
        finally:
            client.close()
        for row in rows:
            ours = self._vectors.get(row[peer.text])
            if ours is not None and float(np.dot(ours, np.asarray(row[peer.vector]))) < _LEAST_COSINE:
                raise BenchError(f"{peer.name} stores another vector than ours of {row[peer.text][:60]!r}")
        if sum(row[peer.text] in self._vectors for row in rows) < len(rows) - 1:  # one is the text it warmed up with
            raise BenchError(f"{peer.name} stores other texts than ours")

    async def _change(self, copy: Path) -> None:
        for path in self._again.folder.rglob("*.md"):
            same = copy / path.relative_to(self._again.folder)
            if same.stat().st_size != path.stat().st_size:
                await asyncio.to_thread(shutil.copyfile, path, same)

    @asynccontextmanager
    async def _copy(self) -> AsyncIterator[tuple[Path, Path]]:
        """A folder for this side alone, and a copy of the documents in it."""
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / "documents"
            await asyncio.to_thread(shutil.copytree, self._first.folder, copy)
            yield Path(folder), copy

    @asynccontextmanager
    async def _store(self, folder: Path) -> AsyncIterator[Store]:
        async with embedded_index(Settings(), folder / "data") as settings:
            yield Store(settings.index.milvus_uri, folder / "data")


async def measure(documents: int, rounds: int, *, peers: bool, progress: Progress | None = None) -> Result:
    """`documents` of three sections and about 2 kB each."""
    played = PEERS if peers else ()
    pythons = {peer.name: await interpreter(peer.module) for peer in played}
    with tempfile.TemporaryDirectory(prefix="anchorage-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        first, again = await asyncio.to_thread(_corpora, folder, documents)
        sides = Sides(folder, first, again, pythons).measures(played)
        samples = await interleave(sides, rounds, progress, warm_up=False)
    return Result(_rows(samples, played), [*_notes(first, documents, rounds), _limit(samples)])


def _corpora(folder: Path, documents: int) -> tuple[Corpus, Corpus]:
    write_documents(folder / "first", documents, varying=VARYING)
    shutil.copytree(folder / "first", folder / "again")
    change(folder / "again", CHANGED)
    before, after = (write_chunks(folder / name, folder / f"{name}.json") for name in ("first", "again"))
    return before, after


def _rows(samples: Samples, peers: Sequence[Peer]) -> list[Row]:
    rows = [
        _rate_row("first pass, started / embedding alone", samples, "ours", "embed", bar=EMBED_BAR),
        _rate_row("first pass, whole command / embedding alone with its start", samples, "command", "embed", "whole_"),
    ]
    for mode, bar in (("default", PEER_BAR), ("tuned", None)):
        rows += [
            _rate_row(f"first pass, started / {peer.name}, {mode}", samples, "ours", f"{peer.name} {mode}", bar=bar)
            for peer in peers
        ]
    rows += [_again_row("ours", samples, "ours", AGAIN_BAR), _again_row("ours, whole command", samples, "command")]
    if any(peer.module == "llama_index" for peer in peers):
        rows.append(_again_row("LlamaIndex, default with a docstore", samples, "LlamaIndex default"))
    return rows


def _rate_row(name: str, samples: Samples, ours: str, peer: str, kind: str = "", *, bar: float | None = None) -> Row:
    one, other = series(samples, ours, "per_s"), series(samples, peer, f"{kind}per_s")
    return at_least(
        f"chunks/s: {name}", _rate(samples, ours, one), _rate(samples, peer, other), ratios(one, other), bar
    )


def _rate(samples: Samples, side: str, rates: Sequence[float]) -> str:
    return f"{spread(rates).text(1)}, {statistics.median(series(samples, side, 'cpu_ms')):.1f} ms CPU each"


def _again_row(name: str, samples: Samples, side: str, bar: float | None = None) -> Row:
    first, again = series(samples, side, "seconds"), series(samples, side, "again_s")
    return at_least(
        f"first pass / second with 1 % changed: {name}",
        spread(again).text(3, " s"),
        spread(first).text(2, " s"),
        ratios(first, again),
        bar,
    )


def _notes(corpus: Corpus, documents: int, rounds: int) -> list[str]:
    return [
        f"{documents:,} documents, {corpus.texts:,} chunks, {rounds} rounds; every pass in a fresh process on a fresh "
        "Milvus Lite server",
        "started: from when process, model, clients and store are there (each side has done one document); CPU with "
        "that of Milvus Lite",
        "the peers get our chunks ready made from a splitter, write to their own Milvus integrations, and neither "
        "flush nor verify",
        "tuned: LlamaIndex with 64 texts a batch (default 10), 1,000 rows a write, bfloat16; Haystack with 64 (32), "
        "bfloat16",
        "the second pass of LlamaIndex knows from memory what it has seen; its process has not ended in between",
    ]


def _limit(samples: Samples) -> str:
    """No first pass can be faster than the model's products alone."""
    rate, each = (statistics.median(series(samples, "embed", name)) for name in ("product_rate", "operations"))
    return (
        f"limit: {each / 1e9:.2f} GFLOP a chunk; products alone run at {rate / 1e9:.0f} GFLOP/s, enough for "
        f"{rate / each:.0f} chunks/s and no more"
    )
