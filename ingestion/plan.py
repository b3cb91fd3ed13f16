"""Pure: what must happen to a document's rows so that the snapshot being written shows exactly the wanted chunks.

Readers see the published snapshot P all the while, and the run writes S > P. A row that both show stays; one that only
P shows is retired (`died = S`); one that only S shows is written (`born = S`). What an earlier run of S left behind
that died before it published is put right on the way: planning twice, or after any interruption, ends in the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.index.types import FOREVER, Chunk, StoredKey, content_digest, row_key


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps by kind, as row keys; `write` are chunks to embed. `before` counts the rows that readers see now.

    `touched`: the snapshot being written differs from the published one, by this plan or by an unfinished run.
    """

    write: tuple[Chunk, ...]
    retire: tuple[str, ...]
    delete: tuple[str, ...]
    revive: tuple[str, ...]
    before: int
    touched: bool

    @property
    def steps(self) -> bool:
        """Whether the store must be changed."""
        return bool(self.write or self.retire or self.delete or self.revive)


def plan(build: str, wanted: Sequence[Chunk], rows: Sequence[StoredKey], snapshot: int) -> Plan:
    """Steps towards `wanted` (none: the document goes away) in `snapshot`, from all the document's rows."""
    missing = {chunk.id: chunk for chunk in wanted}
    retire: list[str] = []
    stale: list[str] = []
    revive: list[str] = []
    before = 0
    touched = False
    for row in sorted(rows, key=lambda row: row.born):
        if row.died < snapshot:
            continue  # kept for a while, for whoever goes back to an older generation
        chunk = missing.get(row.chunk_id)
        same = chunk is not None and row.digest == content_digest(chunk)
        if row.born < snapshot:
            before += 1
            if same:
                del missing[row.chunk_id]
                if row.died != FOREVER:
                    revive.append(row.key)
                continue
            touched = True
            if row.died == FOREVER:
                retire.append(row.key)
        elif same and row.died == FOREVER:
            del missing[row.chunk_id]
            touched = True
        else:
            stale.append(row.key)
    overwritten = {row_key(build, chunk_id, snapshot) for chunk_id in missing}
    delete = tuple(key for key in stale if key not in overwritten)
    return Plan(tuple(missing.values()), tuple(retire), delete, tuple(revive), before, touched=touched or bool(missing))


def undo(rows: Sequence[StoredKey], snapshot: int) -> Plan:
    """Steps back to what readers of the published generation see, when a document's new state cannot be had."""
    live = [row for row in rows if row.born < snapshot <= row.died]
    revive = tuple(row.key for row in live if row.died != FOREVER)
    delete = tuple(row.key for row in rows if row.born >= snapshot)
    return Plan((), (), delete, revive, len(live), touched=False)
