"""The page of a study, from what its parts say."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtest.report.causes import errors, quality, stages
from loadtest.report.curves import curves
from loadtest.report.headline import allowed, headline
from loadtest.report.levels import Held, Level, answer, held, label, levels, slo_of
from loadtest.report.parts import MARKS, Folded, Section
from loadtest.report.plot import LOOKS, Plot
from loadtest.report.rates import against_rate, level_table
from loadtest.report.runs import client, cost, run_table, tasks, times
from loadtest.report.setting import WORDS, began_at, section
from loadtest.report.tiles import objectives, tiles
from loadtest.report.timeline import COLUMNS, events, timeline, unchanged
from loadtest.run import Run, Study
from loadtest.slo import Slo

_HERE = Path(__file__).parent
#: Panels of many runs are folded away, and coarser.
_COARSE = COLUMNS // 2


def page(study: Study) -> str:
    """HTML that needs no network and runs no script. Raises ConfigurationError for an SLO that is none."""
    slo = slo_of(study.slo)
    runs = held(study, slo)
    those = levels(study, slo, runs)
    of = answer(study, those)
    style = (_HERE / "style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            style=style,
            about=_about(study),
            headline=headline(study, those, of),
            asked=", ".join(_asked(slo)),
            tiles=tiles(of, study.cost) if of and of.figures.requests else [],
            tiles_of=_tiles_of(of, len(those)),
            sections=list(_sections(study, slo, runs, those, of)),
            words=WORDS,
            marks=MARKS,
            numbers=itertools.count(1),
        )
    )


@cache
def _environment() -> Environment:
    """Whatever servers and models are called or say is written as text."""
    templates = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["next"] = next
    return templates


def _about(study: Study) -> str:
    target = study.target.get("url")
    model = study.settings.get("model") or study.target.get("model")
    began = began_at(study)
    parts = ("Load test", f"of {target}" if target else "", f"model {model}" if model else "", began)
    return " · ".join(filter(None, (" ".join(filter(None, parts[:2])), *parts[2:])))


def _tiles_of(of: Level | None, many: int) -> str:
    if of is None:
        return ""
    if of.void:
        return "What was measured, by a client that was the limit:"
    return f"At {of.label}:" if many > 1 else "What was measured:"


def _sections(
    study: Study, slo: Slo | None, runs: Sequence[Held], those: Sequence[Level], of: Level | None
) -> Iterator[Section]:
    if of is None or not any(level.figures.requests for level in those):
        yield section(study)
        return
    found = study.found or {}
    shown, bounds = _shown(those, of, found.get("above")), _bounds(slo)
    if plots := against_rate(those, found.get("rate"), bounds):
        yield Section("As the load grows", _signs(those), plots)
    if table := objectives(shown):
        yield Section("What the SLO asks", tables=[table])
    if len(study.runs) == 1:
        yield _course(study.runs[0], bounds)
    yield Section("How the times are spread", plots=_curves(shown, bounds), tables=[times(shown)])
    yield stages(those)
    yield errors(those, study.runs)
    yield quality(those)
    if study.cost:
        yield cost(study.cost)
    more = [table for table in (tasks(those),) if table]
    if len(study.runs) > 1:
        yield Section("Run by run", folded=[_folded(at, run, bounds) for at, run in enumerate(study.runs)])
        more.append(run_table(runs))
    yield Section("All figures", tables=[level_table(those), *more])
    yield client(study.runs)
    yield section(study)


def _signs(those: Sequence[Level]) -> list[str]:
    found = {level.sign for level in those}
    said = {
        "unsure": "Hollow marks: the runs of that level do not agree with each other, or with those of other levels.",
        "void": "Crosses: void, the client was the limit.",
    }
    return [text for sign, text in said.items() if sign in found]


def _shown(those: Sequence[Level], of: Level, above: float | None) -> list[Level]:
    """The answer, the level that failed above it, and the ends: as many as can be told apart in one plot."""
    first = [level for level in those if level is of or (above is not None and level.rate == above)]
    rest = [level for level in (*those[-1:], *those[:1]) if level not in first and not level.void]
    among = [*first, *rest][:LOOKS]
    return [level for level in those if level in among]


def _asked(slo: Slo | None) -> list[str]:
    return [f"{one.metric.title} {allowed(one.metric, one.bound)}" for one in slo.objectives] if slo else []


def _bounds(slo: Slo | None) -> dict[str, tuple[float, str]]:
    """By what is bounded; of several bounds on one thing the first."""
    bounds: dict[str, tuple[float, str]] = {}
    for one in slo.objectives if slo else ():
        bounds.setdefault(one.metric.what, (one.bound, f"SLO: {one.metric.title} {allowed(one.metric, one.bound)}"))
    return bounds


def _curves(shown: Sequence[Level], bounds: Mapping[str, tuple[float, str]]) -> list[Plot]:
    """Of one level what resembles each other in one plot; of several levels one plot for each."""
    if len(shown) == 1:
        of = shown[0].figures
        plots = [curves("TTFT and total", [("TTFT", of.ttft), ("total", of.total)]), curves("Gaps", [("gap", of.gap)])]
    else:
        plots = [
            curves("TTFT", [(level.label, level.figures.ttft) for level in shown], bounds.get("ttft")),
            curves("Gaps", [(level.label, level.figures.gap) for level in shown], bounds.get("gap")),
            curves("Whole answer", [(level.label, level.figures.total) for level in shown], bounds.get("total")),
        ]
    return [plot for plot in plots if plot]


def _course(run: Run, bounds: Mapping[str, tuple[float, str]]) -> Section:
    tables = [table] if (table := events(run)) else []
    return Section(
        "Second by second", unchanged(run), plots=timeline(run, bounds.get("ttft")), tables=tables, tall=True
    )


def _folded(at: int, run: Run, bounds: Mapping[str, tuple[float, str]]) -> Folded:
    void = " · void" if run.void else ""
    plots = timeline(run, bounds.get("ttft"), _COARSE)
    table = events(run, f"What happened meanwhile in run {at + 1}")
    return Folded(f"Run {at + 1}: {label(run)}{void}, second by second", plots, [table] if table else [])
