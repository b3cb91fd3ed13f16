"""A run by the second, for a timeline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.figures import first_text_s
from loadtest.percentiles import ranked
from loadtest.run import Run


@dataclass(frozen=True)
class Series:
    """A value for each second of the run, from its start (the warm-up too) until the last answer.

    `arrivals`: requests by their intended start; `answers` and `errors`: by their end; `ttft_p95`: of those that were
    meant to start then, None where none was; `in_flight`: on average over the second; `client_cpu`: of the busiest
    process, None where not looked.
    """

    arrivals: Sequence[int]
    answers: Sequence[int]
    errors: Mapping[str, Sequence[int]]
    ttft_p95: Sequence[float | None]
    in_flight: Sequence[float]
    client_cpu: Sequence[float | None]

    def __len__(self) -> int:
        return len(self.arrivals)


def series(run: Run) -> Series:
    last_s = max((one.ended_s for one in run.records), default=0.0)
    seconds = math.floor(max(run.duration_s, last_s)) + 1
    kinds = sorted({one.error for one in run.records if one.error is not None})
    ttft: list[list[float]] = [[] for _ in range(seconds)]
    for one in run.records:
        if (value := first_text_s(one)) is not None:
            ttft[int(one.at_s)].append(value)
    return Series(
        arrivals=_counted((one.at_s for one in run.records), seconds),
        answers=_counted((one.ended_s for one in run.records if one.ok), seconds),
        errors={kind: _counted((one.ended_s for one in run.records if one.error == kind), seconds) for kind in kinds},
        ttft_p95=[ranked(values, 95) for values in ttft],
        in_flight=_overlapping(((one.at_s, one.ended_s) for one in run.records), seconds),
        client_cpu=_busiest(run, seconds),
    )


def _counted(moments_s: Iterable[float], seconds: int) -> list[int]:
    counts = [0] * seconds
    for moment_s in moments_s:
        counts[int(moment_s)] += 1
    return counts


def _overlapping(spans: Iterable[tuple[float, float]], seconds: int) -> list[float]:
    """Mean over each second of how many there are of (from, to)."""
    changes = [0.0] * (seconds + 1)
    for since_s, until_s in spans:
        for moment_s, sign in ((since_s, 1), (until_s, -1)):
            whole, part = int(moment_s), moment_s % 1
            # In the second in which it begins it counts for what is left of it, in the following ones wholly.
            changes[min(whole, seconds)] += sign * (1 - part)
            changes[min(whole + 1, seconds)] += sign * part
    return [max(0.0, value) for value in itertools.accumulate(changes[:seconds])]


def _busiest(run: Run, seconds: int) -> list[float | None]:
    columns = itertools.zip_longest(*(client.cpu_by_second for client in run.clients))
    busiest: list[float | None] = [max(value for value in column if value is not None) for column in columns]
    return [*busiest, *[None] * seconds][:seconds]
