"""Pure: what passes between the driver of a run and its workers on the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ingestion.report import Stage
from ingestion.task import Result, Task
from serving.errors import AnchorageError
from serving.index.catalog_models import Recipe
from serving.settings import Settings

Step: TypeAlias = Literal["parse", "embed"]


@dataclass(frozen=True, slots=True)
class Make:
    """All that a worker must know of the run."""

    settings: Settings
    recipe: Recipe
    collection: str
    #: Whether the index holds anything whose vectors could be used again.
    reuse: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Documents that travel together: their tasks by number."""

    number: int
    tasks: Mapping[int, Task]


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a page. `stored` are the digests whose vectors the index has, `error` what stops the run."""

    page: int
    results: Mapping[int, Result]
    stored: frozenset[str] = frozenset()
    embedded: int = 0
    seconds: Mapping[Stage, float] | None = None
    error: AnchorageError | None = None


@dataclass(frozen=True, slots=True)
class NextPages:
    """Asked by the feed: pages from number `first` on, pickled; empty bytes for those that are done, None at the end.

    A feed that was killed begins again with page 0.
    """

    first: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Asked before a page, and before each document of one whose worker died. The answer is an Attempt."""

    step: Step
    page: int
    document: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """`go`: the result is still wanted. `careful`: a worker died over this page. `deaths`: over this document."""

    go: bool
    careful: bool = False
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """Asked after parsing: the digests of what is embedded already of these documents (uri to content hash)."""

    content: Mapping[str, str]


Question: TypeAlias = NextPages | Begin | Stored
