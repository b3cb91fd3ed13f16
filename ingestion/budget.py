"""A bound on what is under way, by weight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """`total` is shared; who asks for more than all of it gets all of it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, weight: int) -> AsyncIterator[None]:
        weight = min(max(weight, 0), self._total)
        async with self._changed:
            await self._changed.wait_for(lambda: self._left >= weight)
            self._left -= weight
        try:
            yield
        finally:
            async with self._changed:
                self._left += weight
                self._changed.notify_all()
