"""A part that is away is waited for, within bounds: a run of hours outlives a restart of Milvus, and ends cleanly if
the part does not come back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeAlias, TypeVar

from serving.errors import Unavailable

_T = TypeVar("_T")
_P = ParamSpec("_P")
_log = logging.getLogger(__name__)

#: First and longest pause between two attempts, seconds.
_FIRST_S = 0.25
_LONGEST_S = 15.0

#: Called with the error while a part is waited for, and with None when it is there again.
OnWait: TypeAlias = Callable[[Unavailable | None], None]


class Patience:
    """Repeats calls that can be repeated. `seconds`: how long one part may be away before the run gives up."""

    def __init__(self, seconds: float, on_wait: OnWait | None = None) -> None:
        self._seconds = seconds
        self._on_wait = on_wait

    async def call(self, operation: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The call's result. Raises its last Unavailable when the part has been away for too long."""
        pause, deadline = _FIRST_S, 0.0
        while True:
            try:
                result = await operation(*args, **kwargs)
            except Unavailable as error:
                deadline = deadline or time.monotonic() + self._seconds
                if time.monotonic() + pause > deadline:
                    raise
                self._tell(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_S)
            else:
                if deadline:
                    self._tell(None)
                return result

    def _tell(self, error: Unavailable | None) -> None:
        _log.warning("%s; waiting", error) if error else _log.warning("it is there again; going on")
        if self._on_wait:
            self._on_wait(error)
