"""Ctrl-C, SIGTERM and a closed terminal: each ends the work in order, once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

#: SIGHUP comes when the terminal is closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def until_stopped(work: Coroutine[Any, Any, None], stopping: Callable[[], None]) -> None:
    """Run `work`; the first ending signal cancels it and calls `stopping`, later ones change nothing.

    The clean-up that the cancellation starts is never cut short: half a clean-up leaves processes behind. Returns when
    the work has ended, whichever way; its own errors pass through.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            stopping()
            task.cancel()

    for number in ENDING:
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        for number in ENDING:
            # Not back to the default: what is left to do after the work is little, and must be done.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
