"""Ctrl-C, SIGTERM and a closed terminal: each ends the work in order, once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

#: SIGHUP comes when the terminal is closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ending:
    """The first ending signal cancels the work and calls `stopping`; later ones change nothing.

    The clean-up that the cancellation starts is never cut short: half a clean-up leaves processes behind.
    """

    def __init__(self, stopping: Callable[[], None]) -> None:
        self._stopping = stopping
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Returns when the work has ended, whichever way; its own errors pass through."""
        self._task = asyncio.create_task(work)
        self.arm()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._stopped:
                raise
        finally:
            for number in ENDING:
                # Not back to the default: what is left to do after the work is little, and must be done.
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    def arm(self) -> None:
        """Take the signals. Again after Ray's start: it puts a handler over ours that ends the process."""
        for number in ENDING:
            asyncio.get_running_loop().add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        if self._stopped or self._task is None:
            return
        self._stopped = True
        self._stopping()
        self._task.cancel()
