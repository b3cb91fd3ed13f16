"""Worker threads with two lanes: what is urgent goes before bulk work, and also in the middle of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

from serving.errors import EmbedderUnavailable

Result = TypeVar("Result")
#: What a piece of work calls whenever it can be held up for a moment.
Pause: TypeAlias = Callable[[], None]
_Waiting: TypeAlias = tuple["Future[Any]", Callable[[Pause], Any]]


class Lanes:
    """Runs work in `threads` threads, each of which first calls `begin`.

    Urgent work need not wait for a free thread: a thread with bulk work does it at the next pause of that work. So it
    waits as long as the longest stretch between two pauses, and no two threads compete for a core.
    """

    def __init__(self, threads: int, begin: Callable[[], None]) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="embedder", initializer=begin)
        self._urgent: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()

    def submit(self, work: Callable[[Pause], Result], *, bulk: bool) -> Future[Result]:
        """First come, first served within a lane. Work that is cancelled before its turn is left out.

        Raises EmbedderUnavailable after `close`.
        """
        done: Future[Result] = Future()
        (self._bulk if bulk else self._urgent).append((done, work))
        try:
            self._threads.submit(self._turn)
        except RuntimeError as error:
            raise EmbedderUnavailable("The embedder is closed.") from error
        return done

    def close(self) -> None:
        """What runs is finished, what waits is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for lane in (self._urgent, self._bulk):
            while waiting := _first(lane):
                waiting[0].cancel()

    def _turn(self) -> None:
        """There is one turn for each piece of work; what was done in a pause leaves a turn with nothing to do."""
        if waiting := _first(self._urgent):
            _carry_out(waiting, _go_on)
        elif waiting := _first(self._bulk):
            _carry_out(waiting, self._pause)

    def _pause(self) -> None:
        while waiting := _first(self._urgent):
            _carry_out(waiting, _go_on)


def _go_on() -> None:
    """The pause of urgent work: nothing is more urgent."""


def _first(lane: deque[_Waiting]) -> _Waiting | None:
    try:
        return lane.popleft()
    except IndexError:
        return None


def _carry_out(waiting: _Waiting, pause: Pause) -> None:
    done, work = waiting
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(work(pause))
    except BaseException as error:  # noqa: BLE001 - the thread's edge: whoever waits for the result gets the error
        done.set_exception(error)
