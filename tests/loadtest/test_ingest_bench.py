"""The ingestion benches, small: every side runs, and the figures are of the same work."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.bench.growth import Line, Point, fit
from loadtest.bench.growth_memory import Peaks
from loadtest.bench.growth_plot import keep
from loadtest.bench.ingest import measure as ingest
from loadtest.bench.ingest_documents import change, documents, texts_of, write_chunks, write_documents
from loadtest.bench.writes import measure as writes


def test_documents_are_the_same_every_time_and_change_where_they_should(tmp_path: Path) -> None:
    """One per cent of them, by one section more."""
    for name in ("one", "other"):
        write_documents(tmp_path / name, 200)
    change(tmp_path / "other", 0.01)
    pairs = zip(documents(tmp_path / "one"), documents(tmp_path / "other"), strict=True)
    assert sum(one.read_text() != other.read_text() for one, other in pairs) == 2
    first, second = (write_chunks(tmp_path / name, tmp_path / f"{name}.json") for name in ("one", "other"))
    assert second.texts - first.texts == 2
    assert len(texts_of(first.chunks)) == first.texts


async def test_our_sides_ingest_the_same_chunks() -> None:
    """A side that stores another number of chunks ends the bench; the peers are not needed here."""
    result = await ingest(4, 1, peers=False)
    names = [row.metric for row in result.rows]
    assert [name.partition(":")[0] for name in names] == ["chunks/s"] * 2 + ["first pass / second with 1 % changed"] * 2
    assert all(row.value is not None and row.value.median > 0 for row in result.rows)


async def test_rows_are_written_by_both_sides(tmp_path: Path) -> None:
    """The sweep is told in a note, whatever it found to be best."""
    result = await writes(120, 1, tmp_path)
    assert len(result.rows) == 2
    assert "100: " in result.notes[0]


def test_a_straight_line_is_recognised() -> None:
    """And so is one that is not."""
    sizes = [1_000, 10_000, 100_000]
    line = fit(sizes, [3.0, 12.0, 102.0])
    assert line.slope == pytest.approx(0.001)
    assert line.intercept == pytest.approx(2.0)
    assert line.r2 == pytest.approx(1.0)
    bent = fit(sizes, [1.0, 50.0, 100.0])
    assert bent.r2 < 0.99
    assert bent.deviation > 0.03


def test_numbers_and_picture_are_kept(tmp_path: Path) -> None:
    """With the machine that they are from."""
    machine = {"command": "bench", "at": "now", "commit": "abc", "cpu": "x", "cores": 2, "memory": 2**30}
    machine |= {"load": [0.0], "python": "3", "versions": {}}
    points = [Point(size, 1, size / 100, size / 90, 1.0, Peaks(1, 1, 1, 3), 10, 1.0, 1.0) for size in (1_000, 3_000)]
    keep(points, Line(0.01, 0.0, 1.0, 0.0), machine, tmp_path)
    assert '"commit": "abc"' in (tmp_path / "growth.json").read_text()
    assert "<svg" in (tmp_path / "growth.svg").read_text()
