"""What a rebuild or a switch did, for people and for scripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ingestion.report import Failure, Stage
from serving.index.catalog_models import Build, Recipe


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """`switch`: let readers read the new build at the end. `force`: also when documents are missing in it. `again`: a
    new build even where the collection is made by this recipe. `wait_s`: how long other writers are waited for.
    """

    switch: bool = True
    force: bool = False
    again: bool = False
    wait_s: float = 300.0


@dataclass(slots=True)
class RebuildReport:
    """`build` is the one that was made or brought up to date, `previous` the one that readers read before.

    `obstacles` are the reasons for which readers were not switched to it, or were only with `force`. `failures` are
    documents that are not in it. `passes` counts the looks at all documents, `written` the rows, of which `embedded`
    needed the model.
    """

    collection: str
    build: str
    previous: str
    recipe: Recipe
    switched: bool = False
    already: bool = False
    generation: int = 0
    documents: int = 0
    chunks: int = 0
    passes: int = 0
    written: int = 0
    embedded: int = 0
    verified: int = 0
    obstacles: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: Counter[Stage] = field(default_factory=Counter)
    total_s: float = 0.0

    def holds(self, build: Build) -> None:
        """What the build has now."""
        self.generation, self.documents, self.chunks = build.generation, build.documents, build.chunks

    def as_json(self) -> dict[str, Any]:
        """For `--json`. The names are part of the command's contract."""
        return {
            "collection": self.collection,
            "build": self.build,
            "previous": self.previous,
            "model": self.recipe.model,
            "dimension": self.recipe.dimension,
            "chunk_tokens": self.recipe.chunk_tokens,
            "switched": self.switched,
            "already": self.already,
            "obstacles": self.obstacles,
            "failures": [{"path": failure.path, "reason": failure.reason} for failure in self.failures],
            "generation": self.generation,
            "documents": self.documents,
            "chunks": self.chunks,
            "passes": self.passes,
            "chunks_written": self.written,
            "chunks_embedded": self.embedded,
            "chunks_verified": self.verified,
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()} | {"total": self.total_s},
        }
