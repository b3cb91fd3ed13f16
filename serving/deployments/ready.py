"""What tells a pod's readiness probe that a replica in it serves: a file, named for the replica's process."""

from __future__ import annotations

import os
from pathlib import Path


class ReadyFile:
    """One replica's file in a folder that the probe looks into; without a folder there is none.

    A process that is killed leaves its file behind: the probe asks whether the process is there.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / str(os.getpid()) if folder else None

    def write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
