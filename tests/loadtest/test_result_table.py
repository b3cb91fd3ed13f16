"""What is left on a terminal of a run."""

from __future__ import annotations

import io

from rich.console import Console

from loadtest.figures import figures
from loadtest.record import Record
from loadtest.result_table import show_run
from loadtest.run import Run
from loadtest.slo import Slo, judge


def shown(*records: Record) -> str:
    run = Run({"kind": "open", "arrivals": "poisson:1", "rate": 1.0}, duration_s=10, records=list(records))
    slo = Slo.default()
    found, console = figures(run, slo), Console(file=io.StringIO(), width=200)
    show_run(found, judge(slo, run, found), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_could_not_be_judged_is_said() -> None:
    """Searches alone keep no TTFT: who reads "met" must not think of it."""
    said = shown(*(Record("search", float(at), total_s=0.1) for at in range(8)))
    assert "Objectives met: errors 0 %" in said
    assert "Not judged, because nothing was asked that could tell: TTFT p95, gap p99, source recall" in said


def test_answers_without_an_llm_are_said() -> None:
    """Beside the verdict that they made."""
    times = {"ttft_s": 0.1, "total_s": 0.2, "gap_p99_s": 0.01, "pieces": 2}
    told = [Record("stream", float(at), **times, outcome="extractive") for at in range(8)]
    assert "8 of 8 answers were extractive: no LLM wrote them." in shown(*told)
    assert "extractive" not in shown(*(Record("stream", float(at), **times, outcome="answered") for at in range(8)))
