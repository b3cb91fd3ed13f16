"""Who does the reading and parsing of a run: this process (`here`), or a cluster (`distributed.py`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from ingestion.parts import Parts
from ingestion.report import IngestReport
from ingestion.sandbox import ParserPool
from ingestion.task import Reader, Work
from serving.index.catalog_models import Recipe, Run
from serving.settings import Settings


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the work is for. `dry`: nothing is written, so nothing need be embedded."""

    settings: Settings
    parts: Parts
    run: Run
    recipe: Recipe
    report: IngestReport
    dry: bool = False


OpenWork: TypeAlias = Callable[[Assignment], AbstractAsyncContextManager[Work]]


@asynccontextmanager
async def here(assignment: Assignment) -> AsyncIterator[Work]:
    """Threads and parser processes of this machine, for as long as the block runs."""
    settings = assignment.settings.ingestion
    async with ParserPool(settings, assignment.recipe.model) as pool:
        yield reader(assignment, pool)


def reader(assignment: Assignment, pool: ParserPool) -> Reader:
    """Work by this pool."""
    return Reader(
        pool,
        assignment.recipe,
        assignment.report,
        assignment.settings.ingestion,
        collection=assignment.run.collection,
        tenant=assignment.settings.index.tenant,
    )
