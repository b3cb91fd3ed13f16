"""What a load test found, kept: exactly, whatever it is, and small enough for long runs."""

from __future__ import annotations

import dataclasses
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.histogram import Times
from loadtest.progress import Progress
from loadtest.record import Record
from loadtest.run import Client, Run, Sample, Study
from serving.errors import ConfigurationError


def test_a_study_is_read_as_it_was_kept(tmp_path: Path) -> None:
    """All fields, also those that are not known."""
    full = Record(
        *("turn", 0.5, 0.001, 0.1, 0.9, [], 0.2, 0.19, 7, 3, 3, "cut", 'it "broke"\u2028', 200, 2.0),
        *(True, "answered", True, 1, True, 2, 0.5, 1.0, False, {"search": 0.01}, 4),
    )
    assert all(getattr(full, each.name) != each.default for each in dataclasses.fields(Record) if each.name != "gaps_s")
    run = Run({"kind": "open", "arrivals": "poisson:1", "rate": 1.0}, 2.0, 1.0, "2026-01-01T00:00:00+00:00")
    run.add(full)
    run.add(Record("stream", 1.5, gaps_s=[0.0, 1e-7, 0.05, 9999.0]))
    run.clients = [Client("a:1", 0.5, [0.4, 0.6], Times.of([0.001]))]
    run.samples = [Sample(0.1), Sample(1.0, {"Llm": 1}, {"Llm": 2}, 3, 4)]
    run.events, run.void = [{"t_s": 1, "what": "replica lost", "detail": "x"}], ["why"]
    study = Study([run], "sweep", {"a": None}, {"b": 1}, {"c": 2}, {"d": 3}, {"rate": None}, {"gpu": None})
    study.save(tmp_path / "result.json")
    again = Study.load(tmp_path / "result.json")
    assert dataclasses.replace(again, runs=[]) == dataclasses.replace(study, runs=[])
    assert again.runs[0].records == run.records
    assert again.runs[0].as_json() == run.as_json()
    assert list(again.runs[0].measured_gaps().counts()) == list(run.measured_gaps().counts())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 1, "runs": [{}]}', "\x00"])
def test_what_is_no_study_is_refused(tmp_path: Path, text: str) -> None:
    """By its name."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"other\.json"):
        Study.load(path)


def test_a_long_run_takes_little_memory_and_counts_all() -> None:
    """Answers come in any order, some long after the others of their second."""
    draw = random.Random(2)
    records = [Record("stream", at_s=at / 2, gaps_s=[draw.expovariate(20) for _ in range(3)]) for at in range(1200)]
    known: dict[int, list[float]] = {}
    for record in records:
        known.setdefault(int(record.at_s), []).extend(record.gaps_s)
    records.sort(key=lambda record: record.at_s + draw.expovariate(0.02))
    run = Run({"kind": "closed", "rate": None}, 600.0)
    tracemalloc.start()
    for record in records:
        run.add(record)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 30 * 2**20
    assert {number: list(times.counts()) for number, times in run.gaps.items()} == {
        number: list(Times.of(gaps).counts()) for number, gaps in known.items()
    }
    assert len(run.measured_gaps()) == 3600


def test_progress_is_told_by_nearest_rank(tmp_path: Path) -> None:
    """As every other percentile: the median of two values is the lower one. What is not known is null."""
    progress = Progress(tmp_path / "progress.jsonl")
    for ttft_s in (2.0, 1.0):
        progress.add(Record("stream", 0.0, ttft_s=ttft_s, total_s=3 * ttft_s))
    progress.write(7.0, 4, "measuring")
    line = json.loads((tmp_path / "progress.jsonl").read_text())
    assert (line["ttft_p50_s"], line["ttft_p95_s"], line["total_p50_s"], line["gap_p99_s"]) == (1.0, 2.0, 3.0, None)
    assert (line["done"], line["sent"]) == (2, 6)


@pytest.mark.parametrize("spoilt", [lambda text: "", lambda text: text[: len(text) // 2], lambda text: "x" + text[1:]])
def test_a_spoilt_histogram_is_named(spoilt: Callable[[str], str]) -> None:
    """What hdrh says of one is of many kinds."""
    with pytest.raises(ValueError, match="not an HDR histogram"):
        Times.decoded(spoilt(Times.of([0.1, 0.2]).encoded()))
