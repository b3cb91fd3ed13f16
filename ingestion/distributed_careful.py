"""A worker that dies loses its page, which another one does again: document by document, to find out what kills them.

Workers may also die of what is not in a document (their machine goes, somebody kills them), so the one that was being
worked on has several chances. Then it fails alone, and the others of its page are done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from ingestion.distributed_desk import ask
from ingestion.distributed_words import Attempt, Begin, Step
from ingestion.task import Bad

_Given = TypeVar("_Given")
_Done = TypeVar("_Done")

#: Deaths over one document after which it fails; there was one more, at the first attempt at its page.
MAX_DEATHS = 2
#: No document has this number: whatever happens from now on is the fault of none.
NOBODY = -1


class Careful:
    """The work of one step on one page."""

    def __init__(self, desk: Any, step: Step, page: int) -> None:
        self._desk = desk
        self._step: Step = step
        self._page = page

    async def done(
        self, documents: Mapping[int, _Given], do: Callable[[Mapping[int, _Given]], Awaitable[Mapping[int, _Done]]]
    ) -> dict[int, _Done | Bad]:
        """What `do` makes of the documents. Fewer than those when the run was stopped."""
        attempt = await self._begin(None)
        if not attempt.go:
            return {}
        if not attempt.careful:
            return dict(await do(documents))
        results: dict[int, _Done | Bad] = {}
        for number, document in documents.items():
            attempt = await self._begin(number)
            if not attempt.go:
                break
            if attempt.deaths >= MAX_DEATHS:
                results[number] = Bad(_obituary(self._step, attempt.deaths + 1), "")
            else:
                results |= await do({number: document})
        await self._begin(NOBODY)
        return results

    async def _begin(self, document: int | None) -> Attempt:
        attempt: Attempt = await asyncio.to_thread(ask, self._desk, Begin(self._step, self._page, document))
        return attempt


def _obituary(step: Step, deaths: int) -> str:
    doing = {"parse": "reading and parsing", "embed": "embedding"}[step]
    return f"{deaths} workers of the cluster died while {doing} it: they may lack memory"
