"""What a process of a run is told to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Of the load: `index` of `of`, for so long (None: until it is ended). `in_s`: it begins so long after it was told.

    `model`, `salt`: the same for all.
    """

    index: int
    of: int
    in_s: float
    duration_s: float | None
    model: str
    salt: str
