"""Following folders: one look after each burst of changes. The only importer of `watchfiles`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from serving.errors import SourceError

#: Changes that come within this time of each other are ingested together, milliseconds.
_TOGETHER_MS = 1_600
#: Files are looked at again after their modification times can be trusted (see `Found.fingerprint`), milliseconds.
_SETTLED_MS = 400


def watched(sources: Sequence[str]) -> list[Path]:
    """The folders and files that these sources name. Raises SourceError for anything else."""
    paths = [Path(source).expanduser() for source in sources]
    for source, path in zip(sources, paths, strict=True):
        if not path.exists():
            raise SourceError(f"{source!r} cannot be watched: --watch follows folders and files of this machine.")
    return paths


async def changes(paths: Sequence[Path]) -> AsyncIterator[None]:
    """Yields after each burst of changes below these paths, until it is cancelled."""
    from watchfiles import awatch

    async for _ in awatch(*paths, debounce=_TOGETHER_MS, step=_SETTLED_MS, recursive=True, raise_interrupt=False):
        yield
