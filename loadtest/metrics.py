"""What can be said of a run by one number: the names that an SLO may bound and that two runs are compared by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from loadtest.figures import QUALITY, Figures

Better: TypeAlias = Literal["lower", "higher"]
Unit: TypeAlias = Literal["s", "share", "1/s"]

#: Times of which percentiles are known, and what people call them.
TIMES = {
    "ttft": "TTFT",
    "gap": "gap",
    "total": "total",
    "search": "search",
    "upload": "upload",
    "dispatch": "dispatch delay",
}
_SHARES = {
    "errors": "errors",
    "truncated": "truncated",
    "cold": "cold",
    "extractive": "extractive",
    "no_context": "no context",
    "resumed": "resumed",
}
_QUALITY = {
    "source_recall": "source recall",
    "answer_match": "answer match",
    "citations_valid": "valid citations",
    "cited": "cited",
}
_RATES = {
    "goodput": "goodput",
    "answered_rate": "answers/s",
    "tokens_out_rate": "tokens/s",
}
_TIME = re.compile(rf"({'|'.join(TIMES)})_p(\d{{1,5}})_s")


@dataclass(frozen=True)
class Metric:
    """`what`: the times, share, mean or rate; `percent`: of times."""

    name: str
    title: str
    what: str
    better: Better
    unit: Unit
    percent: float | None = None


def metric(name: str) -> Metric | None:
    """By its name: `ttft_p95_s`, `gap_p999_s` (99.9 %), `errors`, `source_recall`, `goodput` …; None for others."""
    if found := _TIME.fullmatch(name):
        what, digits = found.groups()
        percent = percent_of(digits)
        return None if percent is None else Metric(name, f"{TIMES[what]} p{percent:g}", what, "lower", "s", percent)
    if name in _SHARES:
        return Metric(name, _SHARES[name], name, "lower", "share")
    if name in _QUALITY:
        return Metric(name, _QUALITY[name], name, "higher", "share")
    return Metric(name, _RATES[name], name, "higher", "1/s") if name in _RATES else None


def percent_of(digits: str) -> float | None:
    """95: 95; 999: 99.9; 100: 100, the longest. Leading zeros mean nothing."""
    if digits == "100":
        return 100.0
    if digits.startswith("0"):
        return None
    return float(f"{digits[:2]}.{digits[2:] or 0}")


#: The names without percentiles.
NAMES = (*_SHARES, *_QUALITY, *_RATES)


def spelled() -> str:
    """All names, for people."""
    return f"{', '.join(f'{what}_p95_s' for what in TIMES)} (any percentile: p50, p999 for 99.9 %), {', '.join(NAMES)}"


def value(of: Metric, figures: Figures) -> float | None:
    """None: nothing was measured that it could be made of; for goodput: no SLO was given."""
    if of.unit == "s":
        if of.what in ("search", "upload"):
            task = next((those for name, those in figures.tasks.items() if name == of.what), None)
            return task.total.at(of.percent or 0.0) if task else None
        times = {
            "ttft": figures.ttft,
            "gap": figures.gap,
            "total": figures.total,
            "dispatch": figures.dispatch,
        }
        return times[of.what].at(of.percent or 0.0)
    if of.what == "errors":
        return figures.errors_share
    if of.what in figures.shares:
        return figures.shares[of.what].value
    if of.what in QUALITY:
        return figures.quality[of.what].value
    rates = {
        "goodput": figures.goodput,
        "answered_rate": figures.answered_rate,
        "tokens_out_rate": figures.tokens_out_rate,
    }
    return rates[of.what]
