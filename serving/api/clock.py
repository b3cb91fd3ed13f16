"""How long a request may take: the server's limit, or less where the caller says so."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Header

from serving.api.trace import Trace

Timeout = Annotated[
    float | None,
    Header(
        alias="X-Request-Timeout-Seconds",
        gt=0,
        allow_inf_nan=False,
        description="Give up after so many seconds; the server's own limit still counts.",
    ),
]


def deadline_of(trace: Trace, timeout_s: float | None, longest_s: float) -> float:
    """On the event loop's clock, counted from the request's arrival."""
    return trace.arrived + (longest_s if timeout_s is None else min(timeout_s, longest_s))


def left_s(deadline: float) -> float:
    """Seconds until `deadline`; never negative."""
    return max(0.0, deadline - asyncio.get_running_loop().time())
