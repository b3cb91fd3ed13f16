"""What the runs of one level say of the objectives, in the terms of the search (`loadtest.sweep`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from loadtest.bootstrap import interval
from loadtest.figures import figures
from loadtest.metrics import value
from loadtest.run import Run
from loadtest.slo import Judged, Objective, Slo, judge
from loadtest.steadiness import steady
from loadtest.sweep import Outcome, beyond

#: Farther from its bound than this (factor 20) nothing needs to be told apart.
FARTHEST = 3.0
#: How far off a figure of one run may be that is made of too little to resample, as a logarithm: about 30 %.
_VAGUE = 0.3
#: Of a normal distribution, what lies within one standard error.
_ONE_SIGMA = 0.6827


def outcome(slo: Slo, runs: Sequence[Run]) -> Outcome:
    """Of runs of one level, the last one made last; their requests are judged together.

    The binding objective is the one that is least likely to be kept. Objectives of rates (`goodput_min` …) are left
    out: they ask for more load, not for less, and below the rate that they name no load could keep them.
    """
    if runs[-1].void:
        return Outcome(0.0, 0.0, void=True)
    growing = sum(steady(run).grows is True for run in runs) * 2 >= len(runs)
    judged = {one.name: one for run in runs for one in judge(slo, run).objectives if one.met is not None}
    found = [(one, _excess(one, judged[one.name], runs, slo)) for one in searchable(slo) if one.name in judged]
    if not found:
        return Outcome(-FARTHEST, 1.0, growing)
    binding, (excess, spread) = max(found, key=lambda each: beyond(*each[1]))
    return Outcome(excess, spread, growing, binding=binding.metric.title)


def searchable(slo: Slo) -> list[Objective]:
    """Objectives that are harder to keep the higher the load is."""
    return [one for one in slo.objectives if one.metric.unit != "1/s"]


def _excess(one: Objective, judged: Judged, runs: Sequence[Run], slo: Slo) -> tuple[float, float]:
    """log(value / bound), so that above 0 is not kept, and its standard error."""
    if judged.value is None:
        return FARTHEST, _VAGUE
    vague = _VAGUE / math.sqrt(len(runs))
    resampled = interval(one.metric, runs, slo, level=_ONE_SIGMA)
    if resampled is None:
        known = [found for run in runs if (found := value(one.metric, figures(run))) is not None]
        return _distance(one, fmean(known)), vague
    excess = _distance(one, resampled.value)
    if one.metric.unit == "share" and one.metric.better == "lower" and not resampled.value:
        # Of a share of 1 in 1000 a short run cannot show that it is kept; that nothing went wrong is all there is.
        return excess, 1.0
    return excess, abs(_distance(one, resampled.high) - _distance(one, resampled.low)) / 2


def _distance(one: Objective, measured: float) -> float:
    """A share that must be high is looked at by what it lacks: from 0.9 to 0.95 is half of the way to 1."""
    bad, bound = measured, one.bound
    if one.metric.better == "higher":
        bad, bound = 1 - measured, 1 - one.bound
    tiny = math.exp(-FARTHEST) * max(bound, 1e-6)
    return min(FARTHEST, math.log(max(bad, tiny) / max(bound, 1e-6)))
