"""Figures of several runs of one load, as if they had been one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from loadtest.figures import Failed, Figures, Mean, Share, TaskFigures
from loadtest.histogram import Times
from loadtest.percentiles import Percentiles

_K = TypeVar("_K")
_V = TypeVar("_V")


def pooled(several: Sequence[Figures]) -> Figures:
    """Times are merged, counts added, rates are of all their seconds together. At least one."""
    if len(several) == 1:
        return several[0]
    whole_s = sum(one.measured_s for one in several)
    requests = sum(one.requests for one in several)
    answered = sum(one.answered for one in several)

    def rate(of: Callable[[Figures], float]) -> float:
        return sum(of(one) * one.measured_s for one in several) / whole_s if whole_s else 0.0

    judged = all(one.goodput is not None for one in several)
    good = sum((one.good_share or 0.0) * one.requests for one in several)
    return Figures(
        measured_s=whole_s,
        requests=requests,
        answered=answered,
        meant_rate=several[0].meant_rate,
        offered_rate=rate(lambda one: one.offered_rate),
        answered_rate=rate(lambda one: one.answered_rate),
        tokens_in_rate=rate(lambda one: one.tokens_in_rate),
        tokens_out_rate=rate(lambda one: one.tokens_out_rate),
        ttft=_times(one.ttft for one in several),
        gap=_times(one.gap for one in several),
        total=_times(one.total for one in several),
        dispatch=_times(one.dispatch for one in several),
        errors=_errors(several, requests),
        errors_share=1 - answered / requests if requests else None,
        shares=_by_name([one.shares for one in several], _share),
        quality=_by_name([one.quality for one in several], _mean),
        stages=_by_name([one.stages for one in several], _times),
        split=_by_name([one.split for one in several], _times),
        tasks=_by_name([one.tasks for one in several], _task),
        goodput=rate(lambda one: one.goodput or 0.0) if judged else None,
        good_share=good / requests if judged and requests else None,
        in_flight_mean=rate(lambda one: one.in_flight_mean),
        in_flight_most=max(one.in_flight_most for one in several),
        client_cpu=max((one.client_cpu for one in several if one.client_cpu is not None), default=None),
        void=[reason for one in several for reason in one.void],
    )


def _by_name(those: Sequence[Mapping[_K, _V]], joined: Callable[[Sequence[_V]], _V]) -> dict[_K, _V]:
    """Names in the order of the one that has most of them."""
    order = dict.fromkeys(name for one in sorted(those, key=len, reverse=True) for name in one)
    return {name: joined([one[name] for one in those if name in one]) for name in order}


def _times(several: Iterable[Percentiles]) -> Percentiles:
    whole, at_least = Times(), 0
    for one in several:
        whole.merge(one.times)
        at_least += one.at_least
    return Percentiles.of(whole, at_least)


def _share(several: Sequence[Share]) -> Share:
    return Share(sum(one.count for one in several), sum(one.of for one in several))


def _mean(several: Sequence[Mean]) -> Mean:
    count = sum(one.count for one in several)
    return Mean(sum((one.value or 0.0) * one.count for one in several) / count if count else None, count)


def _task(several: Sequence[TaskFigures]) -> TaskFigures:
    return TaskFigures(
        sum(one.requests for one in several),
        sum(one.errors for one in several),
        _times(one.ttft for one in several),
        _times(one.total for one in several),
    )


def _errors(several: Sequence[Figures], requests: int) -> list[Failed]:
    counts: dict[str, int] = {}
    said: dict[str, str] = {}
    for failed in (each for one in several for each in one.errors):
        counts[failed.kind] = counts.get(failed.kind, 0) + failed.count
        said.setdefault(failed.kind, failed.message)
    return [
        Failed(kind, count, count / requests, said[kind])
        for kind, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
