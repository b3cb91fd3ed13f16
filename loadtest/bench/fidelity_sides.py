"""Who is held to the truth: our load test, stock locust as its users write it, GuideLLM. Each its real process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loadtest.bench.client import BenchError
from loadtest.bench.fidelity_process import Used, client, output, scripted
from loadtest.bench.fidelity_script import MODEL, QUESTION, Script
from loadtest.bench.fidelity_truth import Four, Truth, read
from loadtest.bench.rounds import VoidRound
from loadtest.figures import figures
from loadtest.run import Run, Study

#: A server that is this late by its script (p99) had too little of its core.
LATE_LIMIT_S = 0.010
_VOID = 4
_OURS = Path(__file__).resolve().parents[1] / "locustfile.py"
_STOCK = Path(__file__).with_name("peers") / "stock_locust.py"


@dataclass(frozen=True, slots=True)
class Load:
    """A load by its tokens: of answers as the script has them, over so many seconds.

    `nice`: of server and tool, among all that this machine does (sched(7)).
    """

    tokens_per_s: float
    script: Script
    seconds: float
    nice: int = 0

    @property
    def rate(self) -> float:
        """Requests a second, open loop."""
        return self.tokens_per_s / self.script.tokens

    @property
    def users(self) -> int:
        """As many as make that load when each asks again at once."""
        return max(1, round(self.rate * self.script.answer_s()))

    @property
    def requests(self) -> int:
        return round(self.rate * self.seconds)


@dataclass(frozen=True, slots=True)
class Said:
    """What a tool says of a run. `response`: a time that it shows for each request of its own accord."""

    four: Four
    requests: int
    tokens: int
    first_p90: float | None = None
    response: Four | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A tool's words beside the truth of the same requests."""

    said: Said
    truth: Truth
    used: Used


class Side(Protocol):
    """A tool that makes a load, and what it says of it."""

    def command(self, load: Load, url: str, found: Path) -> list[str]: ...

    def said(self, code: int, found: Path) -> Said:
        """Raises BenchError, or VoidRound when the tool itself says that it was too slow."""
        ...


@dataclass(frozen=True, slots=True)
class Ours:
    """`python -m locust -f loadtest/locustfile.py`. With `users`, each asks again at once."""

    closed: bool = False
    arrivals: str = "poisson"

    def command(self, load: Load, url: str, found: Path) -> list[str]:
        made = (
            ["--users", str(load.users), "--spawn-rate", str(load.users), "--every-s", "0"]
            if self.closed
            else ["--arrivals", f"{self.arrivals}:{load.rate:g}"]
        )
        return [
            *(sys.executable, "-m", "locust", "-f", str(_OURS), "--headless", "--only-summary", "--host", url, *made),
            *("--run-time", f"{load.seconds:g}s", "--seed", str(load.script.seed), "--plain", "--model", MODEL),
            *(
                "--answer-tokens",
                str(load.script.tokens),
                "--result",
                str(found),
                "--questions",
                str(_questions(found)),
            ),
        ]

    def said(self, code: int, found: Path) -> Said:
        if not found.exists():
            raise BenchError(f"our load test ended with {code} and without a result:\n{output(found.parent)}")
        (run,) = Study.load(found).runs
        if code == _VOID and not self.closed:
            raise VoidRound(f"our load test calls its run void: {'; '.join(run.void)}")
        return _of(run)


def _questions(found: Path) -> Path:
    """What the others ask, too: a question of which no answer is known, so that nobody judges any."""
    path = found.with_name("questions.jsonl")
    path.write_text(json.dumps({"question": QUESTION}) + "\n", encoding="utf-8")
    return path


def _of(run: Run) -> Said:
    """The figures that everybody is shown."""
    made = figures(run)
    if made.errors:
        raise BenchError(f"our load test met errors: {made.errors[0]}")
    four = Four(made.ttft.p50, made.ttft.p99, made.gap.p50, made.gap.p99)
    return Said(four, len(run.records), sum(record.pieces for record in run.records), made.ttft.p90)


@dataclass(frozen=True, slots=True)
class Stock:
    """A class of `peers/stock_locust.py`: a closed loop, as locust is."""

    name: str

    def command(self, load: Load, url: str, found: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "locust", "-f", str(_STOCK), self.name, "--headless", "--only-summary"),
            *("--host", url, "--users", str(load.users), "--spawn-rate", str(load.users)),
            *("--run-time", f"{load.seconds:g}s", "--stop-timeout", "60"),
            *("--tokens", str(load.script.tokens), "--found", str(found)),
        ]

    def said(self, code: int, found: Path) -> Said:
        if code:
            raise BenchError(f"stock locust ended with {code}:\n{output(found.parent)}")
        entries = json.loads(found.read_text(encoding="utf-8"))
        first, gap, answer = (entries.get(name, {}) for name in ("first token", "gap", "answer"))
        four = Four(*_seconds(first), *_seconds(gap))
        return Said(
            four, answer["count"], entries["tokens"], first["p90_ms"] / 1000, Four(*_seconds(answer), None, None)
        )


def _seconds(entry: dict[str, Any]) -> tuple[float | None, float | None]:
    p50, p99 = (entry[name] / 1000 if name in entry else None for name in ("p50_ms", "p99_ms"))
    return p50, p99


@dataclass(frozen=True, slots=True)
class Guidellm:
    """One worker process, for its one core: ten, as it has them by default, only take the core from each other."""

    python: Path
    arrivals: str = "poisson"

    def command(self, load: Load, url: str, found: Path) -> list[str]:
        return [
            *("/usr/bin/env", "GUIDELLM__MAX_WORKER_PROCESSES=1", str(self.python)),
            *("-m", "loadtest.bench.peers.guidellm_side", url, self.arrivals, f"{load.rate:g}"),
            *(str(load.requests), str(load.script.tokens), str(load.script.seed), str(found)),
        ]

    def said(self, code: int, found: Path) -> Said:
        if code:
            raise BenchError(f"GuideLLM ended with {code}:\n{output(found.parent)}")
        told = json.loads(found.read_text(encoding="utf-8"))
        names = ("first_p50_ms", "first_p99_ms", "gap_p50_ms", "gap_p99_ms")
        return Said(
            Four(*(told[name] / 1000 for name in names)),
            int(told["requests"]),
            int(told["tokens"]),
            told["first_p90_ms"] / 1000,
        )


async def measured(side: Side, load: Load, folder: Path, late_limit_s: float = LATE_LIMIT_S) -> Measured:
    """Raises BenchError when the tool did not see every token, VoidRound when the server was late."""
    found = folder / "found.json"
    found.unlink(missing_ok=True)
    async with scripted(load.script, folder, load.nice) as server:
        code, used = await client(side.command(load, server.url, found), server, folder, load.seconds, load.nice)
    said, truth = side.said(code, found), read(server.log)
    if (said.requests, said.tokens) != (len(truth.firsts), truth.tokens):
        raise BenchError(
            f"{said.requests} answers and {said.tokens} tokens were seen, {len(truth.firsts)} and {truth.tokens} sent"
        )
    if not load.script.flood and truth.late_p99() > late_limit_s:
        raise VoidRound(f"the server was {1000 * truth.late_p99():.1f} ms late (p99)")
    return Measured(said, truth, used)
