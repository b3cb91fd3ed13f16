"""Cuts a text that is too long at the best boundaries it has. The only importer of `semchunk`."""

from __future__ import annotations

from collections.abc import Callable


def split(text: str, size: int, weigh: Callable[[str], int]) -> list[tuple[int, int]]:
    """Spans [start, end) of parts that weigh at most `size`, in order; only white space lies between them.

    Cuts at blank lines before line ends before sentences before clauses before words before characters.
    """
    from semchunk import chunk

    # Without `memoize`: semchunk would keep every text it has ever weighed.
    _, spans = chunk(text, size, weigh, memoize=False, offsets=True)
    return [(start, end) for start, end in spans]
