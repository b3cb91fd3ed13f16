"""Why it took so long, and what went wrong: stages of the TTFT, errors, quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from loadtest.figures import QUALITY, Failed, Figures, Mean, Share, failed
from loadtest.percentiles import Percentiles
from loadtest.record import Record
from loadtest.report.levels import Level
from loadtest.report.parts import Cell, Section, Table, cells
from loadtest.report.plot import LOOKS, Bar, Plot, exact, names
from loadtest.report.words import UNKNOWN, count, plural, seconds, share
from loadtest.run import Run

_STAGES = {
    "client": "client",
    "edge": "network and edge",
    "embed": "embed",
    "search": "search",
    "rerank": "rerank",
    "prompt": "prompt",
    "engine": "engine",
}
#: Of a bar, at least so much for each letter that is written in it.
_LETTER = 0.008
_QUALITY = {
    "source_recall": "source recall",
    "answer_match": "answer match",
    "citations_valid": "valid citations",
    "cited": "has a citation",
}
_SHARES = {
    "truncated": "truncated",
    "no_context": "found nothing",
    "extractive": "extractive",
    "cold": "came while no LLM was ready",
    "resumed": "resumed by another replica",
    "cold_collection": "of cold collections",
}


def stages(levels: Sequence[Level]) -> Section:
    """A bar for each level: of the mean TTFT, because only means of parts add up to the whole."""
    title = "Where the time to first token goes"
    known = [level for level in levels if level.figures.split]
    if not known:
        return Section(title, [f"{UNKNOWN.capitalize()}: the server does not say how long its stages took."])
    order = _order(known)
    keys = [(_STAGES.get(name, name), look % LOOKS) for look, name in enumerate(order)]
    rows = [f"{level.label}: {seconds(_whole(level.figures.split))}" for level in known]
    bars = [bar for row, level in enumerate(reversed(known)) for bar in _bars(level, row, order)]
    said = "; ".join(f"{level.label}: {_slowest(level.figures.split)}" for level in known)
    plot = Plot(
        "Mean TTFT, and its share by stage",
        exact("share of the mean TTFT", 0.0, 1.0, share),
        names(rows),
        f"The longest stage at each level. {said}.",
        bars=bars,
        keys=keys,
        rows=rows,
        note="engine: from the prompt to its first token, with its queue. network and edge: all outside of the "
        "pipeline, the server's own queue included. client: until the request was on its way.",
    )
    return Section(title, plots=[plot], tables=[_stage_table(known, order)], tall=True)


def _order(levels: Sequence[Level]) -> list[str]:
    longest = max((list(level.figures.split) for level in levels), key=len)
    rest = {name: None for level in levels for name in level.figures.split if name not in longest}
    return [*longest, *rest]


def _bars(level: Level, row: int, order: Sequence[str]) -> list[Bar]:
    means, whole = _means(level.figures.split), _whole(level.figures.split)
    found, left = [], 0.0
    for look, name in enumerate(order):
        part = means.get(name, 0.0) / whole if whole else 0.0
        said = f"{_STAGES.get(name, name)} {seconds(means.get(name))}"
        text = said if part > _LETTER * len(said) else ""
        found.append(Bar(left, left + part, row - 0.36, row + 0.36, look % LOOKS, f"{level.label}: {said}", text))
        left += part
    return found


def _means(split: Mapping[str, Percentiles]) -> dict[str, float]:
    """Over all answers: one that did not pass a stage spent no time there."""
    answers = max(part.count for part in split.values())
    return {name: (part.mean or 0.0) * part.count / answers for name, part in split.items()}


def _whole(split: Mapping[str, Percentiles]) -> float:
    return sum(_means(split).values())


def _slowest(split: Mapping[str, Percentiles]) -> str:
    name, part = max(split.items(), key=lambda item: item[1].mean or 0.0)
    return f"{_STAGES.get(name, name)}, {seconds(part.mean)}"


def _stage_table(levels: Sequence[Level], order: Sequence[str]) -> Table:
    rows = [
        cells(level.label, *(_both(level.figures.split.get(name)) for name in order), _both(level.figures.ttft))
        for level in levels
    ]
    head = ["Level", *(_STAGES.get(name, name) for name in order), "TTFT"]
    return Table("Stages of the TTFT, p50 and p95", head, rows, "Percentiles of parts do not add up to the whole's.")


def _both(times: Percentiles | None) -> str:
    return f"{seconds(times.p50)} / {seconds(times.p95)}" if times and times.count else UNKNOWN


def errors(levels: Sequence[Level], runs: Sequence[Run]) -> Section:
    requests = sum(level.figures.requests for level in levels)
    rows = [row for level in levels for row in _failed(level.label, level.figures.errors)]
    early = [row for at, run in enumerate(runs) for row in _failed(f"run {at + 1}", failed(_of_warmup(run)))]
    said = [] if rows else [f"None: all {plural(requests, 'request')} of the measured part were answered."]
    head = ["Kind", "Requests", "Share", "What was said, most often"]
    tables = [Table("Errors by kind", ["Level", *head], rows)] if rows else []
    if early:
        tables.append(Table("Errors of the warm-up, which do not count", ["Run", *head], early))
    return Section("Errors", said, tables=tables)


def _failed(label: str, errors: Sequence[Failed]) -> Iterator[list[Cell]]:
    for one in errors:
        yield [
            *cells(label, one.kind, count(one.count), share(one.share)),
            Cell(one.message or "nothing was said", prose=True),
        ]


def _of_warmup(run: Run) -> list[Record]:
    return [one for one in run.records if one.at_s < run.warmup_s]


def quality(levels: Sequence[Level]) -> Section:
    rows = [[Cell(level.label), *(_mean(level.figures.quality[name]) for name in QUALITY)] for level in levels]
    told = any(mean.count for level in levels for mean in level.figures.quality.values())
    said = [] if told else ["Not known: no question had a known source or answer, and no answer had citations."]
    table = Table(
        "Quality of the answers by level",
        ["Level", *(_QUALITY[name] for name in QUALITY)],
        rows,
        "In brackets: of how many answers it is known.",
    )
    kinds = ["Level", *_SHARES.values()]
    rest = [cells(level.label, *(_share(level.figures, name) for name in _SHARES)) for level in levels]
    return Section("How good the answers were", said, tables=[table, Table("Kinds of answers", kinds, rest)])


def _mean(mean: Mean) -> Cell:
    return Cell(UNKNOWN if mean.value is None else f"{share(mean.value)} ({mean.count:,})")


def _share(of: Figures, name: str) -> str:
    found: Share | None = of.shares.get(name)
    return UNKNOWN if found is None else share(found.value)
