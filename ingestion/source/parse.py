"""SOURCE arguments to sources: which kind each one is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ingestion.source.items import Source
from ingestion.source.local import LocalSource, local_source
from ingestion.source.patterns import Patterns, patterns
from serving.settings import IngestionSettings


def parse_sources(
    texts: Sequence[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    suffixes: Collection[str],
    settings: IngestionSettings | None = None,
) -> list[Source]:
    """Arguments to sources; one inside another is dropped. `suffixes` holds whole names of files without one, too.

    Raises SourceError for what can never be read: a path that is not there, a kind of store that is not installed.
    """
    wanted = patterns(include, exclude)
    sources = [_parse(text, wanted, suffixes, settings or IngestionSettings()) for text in texts]
    return _outermost(sources, wanted)


def vanished(sources: Sequence[Source], uri: str, source: str) -> bool:
    """Whether a document recorded with `source` is known to be gone: wherever it would be found, it is not."""
    covering = [one for one in sources if one.covers(uri, source)]
    return bool(covering) and all(one.gone(uri) for one in covering)


def _parse(text: str, wanted: Patterns, suffixes: Collection[str], settings: IngestionSettings) -> Source:
    return local_source(text, suffixes, wanted)


def _outermost(sources: Sequence[Source], wanted: Patterns) -> list[Source]:
    """Without repetitions, and without what lies in another one. Patterns mean something else for each root."""
    kept: dict[str, Source] = {}
    whole = [one for one in sources if isinstance(one, LocalSource) and one.pattern is None]
    for source in sources:
        inner = isinstance(source, LocalSource) and any(other.root in source.root.parents for other in whole)
        if not inner or wanted:
            kept.setdefault(f"{source.prefix} {source.text if source.selective else ''}", source)
    return list(kept.values())
