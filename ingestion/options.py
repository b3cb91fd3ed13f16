"""How a run was asked to go."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`sync`: True removes every document that has vanished from the sources, False none; None removes them unless so
    many have vanished that something else may be wrong. `wait_s`: how long another run on the collection is waited for.
    """

    sync: bool | None = None
    dry_run: bool = False
    retry_failed: bool = False
    wait_s: float = 0.0


PLAIN = Options()
