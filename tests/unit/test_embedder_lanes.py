"""Two lanes of work in a few threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from serving.errors import EmbedderUnavailable
from serving.index.embedder_lanes import Lanes, Pause

_TIMEOUT_S = 20


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    built = Lanes(1, lambda: None)
    yield built
    built.close()


class Bulk:
    """Bulk work with one pause in the middle, at which it waits to be told to go on."""

    def __init__(self, lanes: Lanes, log: list[str], name: str = "bulk") -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._log, self._name = log, name
        self.done: Future[None] = lanes.submit(self._work, bulk=True)

    def _work(self, pause: Pause) -> None:
        self._log.append(f"{self._name} begins")
        self.begun.set()
        assert self.go.wait(_TIMEOUT_S)
        pause()
        self._log.append(f"{self._name} ends")


def _say(log: list[str], name: str, pause: Pause) -> None:
    log.append(name)


def test_urgent_work_is_done_in_the_middle_of_bulk_work(lanes: Lanes) -> None:
    """At its next pause, in the order of arrival, and before bulk work that came earlier but waits."""
    log: list[str] = []
    first = Bulk(lanes, log)
    assert first.begun.wait(_TIMEOUT_S)
    second = Bulk(lanes, log, "more")
    second.go.set()
    urgent = [lanes.submit(partial(_say, log, name), bulk=False) for name in ("one", "two")]
    first.go.set()
    for done in (*urgent, first.done, second.done):
        done.result(_TIMEOUT_S)
    assert log == ["bulk begins", "one", "two", "bulk ends", "more begins", "more ends"]


def test_an_error_reaches_its_caller_and_nobody_else(lanes: Lanes) -> None:
    """Also when it happens in the middle of other work."""
    log: list[str] = []
    bulk = Bulk(lanes, log)
    assert bulk.begun.wait(_TIMEOUT_S)
    wrong = lanes.submit(lambda _: 1 // 0, bulk=False)
    bulk.go.set()
    with pytest.raises(ZeroDivisionError):
        wrong.result(_TIMEOUT_S)
    bulk.done.result(_TIMEOUT_S)
    assert log == ["bulk begins", "bulk ends"]
    assert lanes.submit(lambda _: 7, bulk=False).result(_TIMEOUT_S) == 7


def test_cancelled_work_is_not_begun(lanes: Lanes) -> None:
    """Of either lane, while the work before it goes on."""
    log: list[str] = []
    bulk = Bulk(lanes, log)
    assert bulk.begun.wait(_TIMEOUT_S)
    waiting = [lanes.submit(lambda _: log.append("never"), bulk=kind) for kind in (True, False)]
    assert all(future.cancel() for future in waiting)
    bulk.go.set()
    bulk.done.result(_TIMEOUT_S)
    assert lanes.submit(lambda _: 7, bulk=True).result(_TIMEOUT_S) == 7
    assert log == ["bulk begins", "bulk ends"]


def test_closing_finishes_what_runs_and_cancels_what_waits() -> None:
    """And refuses what comes after."""
    lanes, log = Lanes(1, lambda: None), list[str]()
    bulk = Bulk(lanes, log)
    assert bulk.begun.wait(_TIMEOUT_S)
    waiting = lanes.submit(lambda _: None, bulk=True)
    lanes.close()
    assert waiting.cancelled()
    bulk.go.set()
    bulk.done.result(_TIMEOUT_S)
    with pytest.raises(EmbedderUnavailable, match="closed"):
        lanes.submit(lambda _: None, bulk=False)
