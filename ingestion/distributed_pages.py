"""The driver's side of the pages: made of what waits, kept until they are done, with what went wrong with each."""

from __future__ import annotations

import asyncio
import pickle
from collections import defaultdict, deque
from dataclasses import dataclass, field

from ingestion.distributed_words import Attempt, Begin, Done, Page, Step
from ingestion.task import Result, Task
from serving.errors import AnchorageError

#: Documents of a page, at most, and bytes of their files after which it is full.
PAGE_DOCUMENTS = 32
_PAGE_BYTES = 4_000_000


@dataclass(slots=True)
class _Deaths:
    """Of one step of one page: how often it was begun, what was under work last, and over which document it ended."""

    begun: int = 0
    under_work: int | None = None
    documents: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class Pages:
    """`workers` share what waits: few documents make small pages."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._count = 0
        self._waiting: deque[tuple[int, Task]] = deque()
        self._results: dict[int, asyncio.Future[Result]] = {}
        #: Every page there was: pickled, or empty bytes once it is done.
        self._pages: list[bytes] = []
        self._deaths: dict[tuple[Step, int], _Deaths] = {}
        self._changed = asyncio.Event()
        self._ended = False
        self._error: AnchorageError | None = None

    def add(self, task: Task) -> asyncio.Future[Result]:
        """A document to do, and what will become of it."""
        self._count += 1
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self._error is not None:
            result.set_exception(self._error)
            return result
        self._results[self._count] = result
        self._waiting.append((self._count, task))
        self._changed.set()
        return result

    def end(self, error: AnchorageError | None = None) -> None:
        """No page comes after those there are; with an error, nobody waits for these either."""
        self._ended = True
        self._changed.set()
        if error is None:
            return
        self._error = self._error or error
        for result in self._results.values():
            if not result.done():
                result.set_exception(self._error)
                result.exception()  # whoever waited for it may be gone
        self._results.clear()
        self._waiting.clear()

    async def told(self, first: int) -> list[bytes] | None:
        """Pages from this number on, at least one. Waits for documents; None at the end."""
        while first >= len(self._pages):
            if self._waiting:
                self._pages.append(self._made())
            elif self._ended:
                return None
            else:
                self._changed.clear()
                await self._changed.wait()
        pages: list[bytes] = []
        for number in range(first, len(self._pages)):
            pages.append(self._pages[number])
            if pages[-1]:
                break
        return pages

    def begun(self, begin: Begin) -> Attempt:
        """Whether the work is wanted, and what is known of earlier attempts at it."""
        if not self._results or not self._pages[begin.page]:
            return Attempt(go=False)
        deaths = self._deaths.setdefault((begin.step, begin.page), _Deaths())
        if begin.document is not None:
            deaths.under_work = begin.document
            return Attempt(True, True, deaths.documents[begin.document])
        if deaths.under_work is not None:
            deaths.documents[deaths.under_work] += 1
        deaths.under_work = None
        deaths.begun += 1
        return Attempt(True, careful=deaths.begun > 1)

    def done(self, done: Done) -> bool:
        """Hands the results over. False: they are known already."""
        if not self._pages[done.page]:
            return False
        self._pages[done.page] = b""
        for step in ("parse", "embed"):
            self._deaths.pop((step, done.page), None)
        for number, result in done.results.items():
            waiting = self._results.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(result)
        return True

    def _made(self) -> bytes:
        limit = min(PAGE_DOCUMENTS, 1 + len(self._waiting) // self._workers)
        tasks: dict[int, Task] = {}
        size = 0
        while self._waiting and len(tasks) < limit and size < _PAGE_BYTES:
            number, task = self._waiting.popleft()
            tasks[number] = task
            size += task.found.size
        return pickle.dumps(Page(len(self._pages), tasks), pickle.HIGHEST_PROTOCOL)
