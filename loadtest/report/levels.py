"""A study by level of load: the runs of one load together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.figures import Figures, figures
from loadtest.metrics import Metric
from loadtest.pooled import pooled
from loadtest.report.parts import Cell, Sign
from loadtest.report.words import number, plural
from loadtest.run import Run, Study
from loadtest.slo import Judged, Slo, Verdict, judge

#: Arrivals (`loadtest.arrivals`) whose mean rate is not the rate at any moment.
_CHANGING = ("ramp", "steps", "trace")


@dataclass(frozen=True)
class Held:
    """A run and what came of it. `number`: from 0, in the study; `verdict` None: no SLO was given."""

    number: int
    run: Run
    figures: Figures
    verdict: Verdict | None


@dataclass(frozen=True)
class Level:
    """`met` None: no SLO was given; `grew`: why its line of waiting requests is said to grow, else empty."""

    label: str
    rate: float | None
    runs: Sequence[Held]
    figures: Figures
    judged: Sequence[tuple[Metric, Judged]]
    grew: str
    met: bool | None
    void: bool
    #: It does not fit what the sweep found: it was missed at a lower rate, or kept at a higher one.
    against: bool = False

    @property
    def changing(self) -> str:
        """The load as it was asked for, where it was not the same all the time."""
        arrivals = str(self.runs[0].run.load.get("arrivals") or "")
        return arrivals if arrivals.partition(":")[0] in _CHANGING else ""

    @property
    def kept(self) -> int:
        """How many of its runs met the SLO alone."""
        return sum(one.verdict.met for one in self.runs if one.verdict)

    @property
    def unsure(self) -> bool:
        """Its runs do not agree with each other, or with those of other levels."""
        return self.met is not None and not self.void and (self.against or 0 < self.kept < len(self.runs))

    @property
    def sign(self) -> str:
        """Of its dots in a plot."""
        return "void" if self.void else "unsure" if self.unsure else ""

    @property
    def doubt(self) -> str:
        if self.void:
            return " (void)"
        if self.against:
            return " (unsure: other levels say otherwise)"
        return f" (unsure: {self.kept} of {plural(len(self.runs), 'run')} kept the SLO)" if self.unsure else ""

    @property
    def cell(self) -> Cell:
        if self.void:
            return Cell("void", "void")
        if self.met is None:
            return Cell("none given", "unknown")
        sign: Sign = "good" if self.met else "bad"
        kept = "" if len(self.runs) == 1 else f" ({self.kept} of {len(self.runs)} runs)"
        return Cell(("kept" if self.met else "not kept") + kept, sign)


def held(study: Study, slo: Slo | None) -> list[Held]:
    found = [(run, figures(run, slo)) for run in study.runs]
    return [Held(at, run, of, judge(slo, run, of) if slo else None) for at, (run, of) in enumerate(found)]


def levels(study: Study, slo: Slo | None, runs: Sequence[Held]) -> list[Level]:
    """Of a sweep, as it found them; otherwise by what was asked for. By rate, ascending."""
    found = [_level(slo, [runs[at] for at in numbers], met, void) for numbers, met, void in _groups(study)]
    found = [replace(level, against=_against(study, level)) for level in found]
    return sorted(found, key=lambda level: (level.rate is None, level.rate or 0.0, level.label))


def _against(study: Study, level: Level) -> bool:
    found = study.found or {}
    highest, above = found.get("rate"), found.get("above")
    if level.rate is None or level.void:
        return False
    missed = highest is not None and level.rate < highest and level.met is False
    return missed or (above is not None and level.rate > above and level.met is True)


def label(run: Run) -> str:
    """`8/s`, `16 users`."""
    if run.rate is not None:
        return f"{number(run.rate)}/s"
    users = run.load.get("users")
    return plural(users, "user") if isinstance(users, int) else "one load"


def _groups(study: Study) -> Iterator[tuple[list[int], bool | None, bool]]:
    """(numbers of runs, whether a sweep found that they met the SLO, void)."""
    told = (study.found or {}).get("levels", ())
    for one in told:
        yield one["runs"], one["met"], one["void"]
    among = {number for one in told for number in one["runs"]}
    loads: dict[str, list[int]] = {}
    for at, run in enumerate(study.runs):
        if at not in among:
            loads.setdefault(json.dumps(run.load, sort_keys=True, default=str), []).append(at)
    for numbers in loads.values():
        yield numbers, None, all(study.runs[at].void for at in numbers)


def _level(slo: Slo | None, runs: Sequence[Held], met: bool | None, void: bool) -> Level:
    """Void runs are left out of a level that has others. `met` None: no sweep has judged it, its figures do."""
    used = [one for one in runs if not one.run.void] or list(runs)
    first, whole = used[0], pooled([one.figures for one in used])
    verdicts = [one.verdict for one in used if one.verdict]
    grew = [verdict.steady.why for verdict in verdicts if verdict.steady.grows]
    why = grew[0] if 2 * len(grew) >= len(used) else ""
    judged: list[tuple[Metric, Judged]] = []
    if slo:
        together = judge(slo, first.run, whole).objectives
        judged = [(one.metric, result) for one, result in zip(slo.objectives, together, strict=True)]
        if met is None:
            counts = [result.met for _, result in judged if result.met is not None]
            met = bool(counts) and all(counts) and not why
    return Level(label(first.run), first.run.rate, used, whole, judged, why, met if slo else None, void)


def answer(study: Study, those: Sequence[Level]) -> Level | None:
    """The level that the study is about: that of the rate found, else the lowest that was tried."""
    rate = (study.found or {}).get("rate")
    if rate is None:
        return next((level for level in those if not level.void), those[0] if those else None)
    return min(those, key=lambda level: abs((level.rate or 0.0) - rate), default=None)


def slo_of(data: Mapping[str, Any]) -> Slo | None:
    return Slo.of(data, "the result's slo") if data else None
