"""`python -m loadtest.bench NAME`: one table a bench; exit code 1 below its bar, or when the run does not count."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import Progress

from loadtest.bench.client import BenchError
from loadtest.bench.table import Result, as_json, show
from loadtest.machine import describe, header
from serving.errors import AnchorageError

app = typer.Typer(
    help="Side-by-side measurements: ours and its peers in the same go, interleaved.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON.")]
Quick: TypeAlias = Annotated[bool, typer.Option("--quick", help="Small and short: shows that it works, proves little.")]
Rounds: TypeAlias = Annotated[int, typer.Option(min=1, help="Rounds of every side, after one to warm up.")]
AllFlags: TypeAlias = Annotated[
    bool, typer.Option("--all-flags", help="Also Ray Serve's path with HAProxy and throughput mode: 8 GB more.")
]
NoRay: TypeAlias = Annotated[bool, typer.Option("--no-ray-peer", help="Without Ray Serve's own path: starts faster.")]

Bench: TypeAlias = Callable[[Progress], Awaitable[Result]]


@app.command()
def ttft(
    rounds: Rounds = 7,
    all_flags: AllFlags = False,
    no_ray_peer: NoRay = False,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Time to the first token that the stack adds to an engine of known timing."""
    from loadtest.bench import benches

    peers = benches.ray_peers(default=not no_ray_peer, all_flags=all_flags)
    finish("ttft", lambda progress: benches.ttft(rounds, peers, progress, quick=quick), json=json)


@app.command()
def relay(
    rounds: Rounds = 7,
    streams: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, max=4096, help="Tokens of a stream.")] = 512,
    all_flags: AllFlags = False,
    no_ray_peer: NoRay = False,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Tokens per second through the HTTP path with many streams, and what they cost."""
    from loadtest.bench import benches

    if quick:
        streams, tokens = min(streams, 16), min(tokens, 64)
    peers = benches.ray_peers(default=not no_ray_peer, all_flags=all_flags)
    finish("relay", lambda progress: benches.relay(streams, tokens, rounds, peers, progress), json=json)


@app.command()
def search(
    rounds: Rounds = 7,
    chunks: Annotated[int, typer.Option(min=100, help="Chunks in the collection.")] = 10_000,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Search over HTTP against the raw store call, and requests per second against the obvious server."""
    from loadtest.bench import benches

    if quick:
        chunks = min(chunks, 1_000)
    finish("search", lambda progress: benches.search(chunks, rounds, progress, quick=quick), json=json)


@app.command()
def embed(
    rounds: Rounds = 5,
    passages: Annotated[int, typer.Option(min=64, help="Passages of a round.")] = 1_600,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Bulk embedding against sentence-transformers at its defaults, and queries beside it."""
    from loadtest.bench import benches

    if quick:
        passages, rounds = min(passages, 128), 1
    finish("embed", lambda progress: benches.embed(passages, rounds, progress, quick=quick), json=json)


@app.command()
def ingest(
    rounds: Rounds = 5,
    documents: Annotated[int, typer.Option(min=1, help="Documents of 2 kB.")] = 2_000,
    rows: Annotated[int, typer.Option(min=100, help="Rows that are written to the store alone.")] = 10_000,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Without LlamaIndex and Haystack.")] = False,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Ingestion against embedding alone and against the peers' pipelines, done again, and writes to the store."""
    from loadtest.bench import benches

    if quick:
        rounds, documents, rows = 1, min(documents, 40), min(rows, 1_000)
    finish("ingest", lambda progress: benches.ingest(documents, rows, rounds, progress, peers=not no_peers), json=json)


@app.command()
def growth(
    chunks: Annotated[int, typer.Option(min=1_000, help="Chunks in the largest collection.")] = 100_000,
    results: Annotated[Path | None, typer.Option(file_okay=False, help="Folder to keep numbers and plot in.")] = None,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """From a thousand chunks to many: time, memory and disk, and whether the time is a straight line."""
    from loadtest.bench import benches

    if quick:
        chunks = 1_000
    finish("growth", lambda progress: benches.growth(chunks, results, progress), json=json)


@app.command()
def recall(
    chunks: Annotated[int, typer.Option(min=100, help="Chunks in the collection.")] = 10_000,
    questions: Annotated[int, typer.Option(min=1, max=400)] = 200,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Dense search over HTTP against brute-force cosine over the same vectors."""
    from loadtest.bench import benches

    if quick:
        chunks, questions = min(chunks, 1_000), min(questions, 50)
    finish("recall", lambda progress: benches.recall(chunks, questions, progress), json=json)


@app.command()
def fidelity(
    rounds: Rounds = 5,
    keep: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for what was written when.")] = None,
    no_peers: Annotated[
        bool, typer.Option("--no-peers", help="Without GuideLLM; stock locust is always there.")
    ] = False,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Our load test, stock locust and GuideLLM against a server of known timing; tokens per second of CPU."""
    from loadtest.bench import benches

    finish(
        "fidelity",
        lambda progress: benches.fidelity(rounds, keep, progress, peers=not no_peers, quick=quick),
        json=json,
    )


@app.command(name="quality")
def quality_command(
    url: Annotated[str, typer.Option(help="A running server.")],
    questions: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSON lines: question, sources.")],
    collection: Annotated[str, typer.Option(help="The collection that the questions are about.")] = "default",
    json: AsJson = False,
) -> None:
    """Hybrid search against dense and text search on questions whose source is known."""
    from loadtest.bench import quality

    finish("quality", lambda _: quality.run(url, collection, questions), json=json)


@app.command()
def memory(
    requests: Annotated[int, typer.Option(min=10, help="Requests of each of the two halves.")] = 1_000,
    quick: Quick = False,
    json: AsJson = False,
) -> None:
    """Memory of every process at rest and after requests: the second half must add nothing."""
    from loadtest.bench import benches

    if quick:
        requests = min(requests, 60)
    finish("memory", lambda progress: benches.memory(requests, progress), json=json)


@app.command()
def startup(
    runs: Annotated[int, typer.Option(min=1, help="Starts.")] = 5, quick: Quick = False, json: AsJson = False
) -> None:
    """Time from `anchorage serve` in an empty data directory to ready."""
    from loadtest.bench import benches

    finish("startup", lambda progress: benches.startup(1 if quick else runs, progress), json=json)


@app.command()
def reaction(rounds: Rounds = 3, quick: Quick = False, json: AsJson = False) -> None:
    """A fourfold load: how soon a new replica answers, against Serve's default settings; and who flaps on noise."""
    from loadtest.bench import benches

    finish("reaction", lambda progress: benches.reaction(1 if quick else rounds, progress, quick=quick), json=json)


@app.command()
def knee(quick: Quick = False, json: AsJson = False) -> None:
    """The highest rate that a sweep finds, against the one of a fine grid, on a server of known capacity."""
    from loadtest.bench import benches

    finish("knee", lambda progress: benches.knee(progress, quick=quick), json=json)


def finish(name: str, bench: Bench, *, json: bool) -> None:
    """Run it, print its table (progress goes to stderr) and end the process: 1 below the bar or for a void run."""
    machine = describe("python -m loadtest.bench")
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True) as progress:
            result = asyncio.run(_stoppable(bench, progress))
    except (BenchError, AnchorageError) as error:
        console.print(f"{name}: this run does not count: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print(f"{name}: stopped", style="red", markup=False)
        raise typer.Exit(130) from None
    if json:
        sys.stdout.write(as_json(name, machine, result) + "\n")
    else:
        show(name, header(machine), result)
    raise typer.Exit(0 if result.passed else 1)


async def _stoppable(bench: Bench, progress: Progress) -> Result:
    """A bench that is told to end (SIGTERM) stops what it started, as it does for Ctrl-C."""
    task = asyncio.ensure_future(bench(progress))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main() -> None:
    app()
