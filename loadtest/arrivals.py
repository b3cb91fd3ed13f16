"""When requests start: an open loop's schedule, made by a rule and a seed or read from a trace. Pure.

constant:8       8 a second, evenly spaced
poisson:8        8 a second on average, each independent of the others
burst:8,20       groups of 20 at the same moment, 8 requests a second on average
ramp:1-20        Poisson, at a rate that goes from 1 to 20 a second over the run
steps:2,4,8      Poisson, at these rates in equal parts of the run
trace:FILE,x2    the times (and lengths) of a trace, here twice as fast
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count, islice, repeat, takewhile
from pathlib import Path
from typing import NoReturn, TypeAlias

from serving.errors import ConfigurationError
from serving.planning.trace import Trace, read_trace

#: Ascending moments before `duration_s`, in seconds from the start, of a run so long, drawn by this.
_Times: TypeAlias = Callable[[float, random.Random], Iterator[float]]
_Mean: TypeAlias = Callable[[float], float]


@dataclass(frozen=True)
class Arrivals:
    """A schedule. `spec` is what it was parsed from.

    `lengths`: (prompt tokens, answer tokens) of a trace's requests in their order; empty for all others.
    """

    spec: str
    lengths: Sequence[tuple[int, int]] = field(repr=False)
    _times: _Times = field(repr=False)
    _mean: _Mean = field(repr=False)

    def times(self, duration_s: float, seed: int) -> Iterator[float]:
        """Ascending seconds from the start, all below `duration_s`; the same for the same seed."""
        return self._times(duration_s, random.Random(f"{seed}:arrivals")) if duration_s > 0 else iter(())

    def rate(self, duration_s: float) -> float:
        """Requests a second that are meant, on average over a run so long."""
        return self._mean(duration_s)


def parse(spec: str) -> Arrivals:
    """Raises ConfigurationError that names the spec and says what it should be."""
    kind, colon, rest = spec.strip().partition(":")
    if not colon or kind not in _KINDS:
        _refuse(spec, f"no such kind of arrivals; there are {', '.join(_FORMS.values())}")
    return _KINDS[kind](spec, rest.strip())


def share(times: Iterable[float], index: int, of: int) -> Iterator[tuple[int, float]]:
    """(number among all, time) of every `of`-th from `index` on: what one of `of` workers starts, from 0.

    Together the workers start each number exactly once. The number is what `Workload.ask` takes, so that n workers ask
    what one would.
    """
    return islice(enumerate(times), index, None, of)


def _constant(spec: str, rest: str) -> Arrivals:
    (rate,) = _rates(spec, rest.split(","), 1)

    def times(duration_s: float, _: random.Random) -> Iterator[float]:
        # Multiplied, not added up: no drift.
        return takewhile(lambda at: at < duration_s, (number / rate for number in count()))

    return Arrivals(spec, (), times, lambda _: rate)


def _poisson(spec: str, rest: str) -> Arrivals:
    (rate,) = _rates(spec, rest.split(","), 1)

    def times(duration_s: float, draw: random.Random) -> Iterator[float]:
        return takewhile(lambda at: at < duration_s, (work / rate for work in _unit_poisson(draw)))

    return Arrivals(spec, (), times, lambda _: rate)


def _burst(spec: str, rest: str) -> Arrivals:
    parts = rest.split(",")
    if len(parts) != 2 or not parts[1].strip().isdecimal() or int(parts[1]) < 1:
        _refuse(spec, f"a burst is {_FORMS['burst']}: requests a second on average, and a whole number at once")
    (rate,), size = _rates(spec, parts[:1], 1), int(parts[1])

    def times(duration_s: float, draw: random.Random) -> Iterator[float]:
        for work in _unit_poisson(draw):
            at = work * size / rate
            if at >= duration_s:
                return
            yield from repeat(at, size)

    return Arrivals(spec, (), times, lambda _: rate)


def _ramp(spec: str, rest: str) -> Arrivals:
    first, last = _rates(spec, rest.split("-"), 2)

    def times(duration_s: float, draw: random.Random) -> Iterator[float]:
        slope = (last - first) / duration_s
        for work in _unit_poisson(draw):
            # The moment t until which first * t + slope * t^2 / 2 requests are to be expected: a Poisson process of a
            # changing rate is one of rate 1 on that scale (Cinlar, 1975). This form of the root also stands slope 0.
            square = first * first + 2 * slope * work
            at = 2 * work / (first + math.sqrt(square)) if square >= 0 else duration_s
            if at >= duration_s:
                return
            yield at

    return Arrivals(spec, (), times, lambda _: (first + last) / 2)


def _steps(spec: str, rest: str) -> Arrivals:
    rates = _rates(spec, rest.split(","))

    def times(duration_s: float, draw: random.Random) -> Iterator[float]:
        part = duration_s / len(rates)
        place, done = 0, 0.0  # the part, and what was to be expected before it
        for work in _unit_poisson(draw):
            while place < len(rates) and work >= done + rates[place] * part:
                done += rates[place] * part
                place += 1
            if place == len(rates):
                return
            yield min(place * part + (work - done) / rates[place], math.nextafter(duration_s, 0))

    return Arrivals(spec, (), times, lambda _: sum(rates) / len(rates))


def _trace(spec: str, rest: str) -> Arrivals:
    name, factor = rest, 1.0
    if found := re.fullmatch(r"(.*),\s*x([^,/]*)", rest):
        name = found[1]
        (factor,) = _rates(spec, [found[2]], 1)
    if not name:
        _refuse(spec, f"a trace is {_FORMS['trace']}: a file of times and lengths, and how many times as fast")
    try:
        trace = read_trace(Path(name))
    except ConfigurationError as error:
        _refuse(spec, f"{error}. A trace is CSV or JSON lines; `anchorage simulate --save-trace FILE` makes one")
    return of_trace(trace, factor, spec)


def of_trace(trace: Trace, factor: float = 1.0, spec: str = "") -> Arrivals:
    """The trace's own times, `factor` times as fast. A run that is longer than the trace asks nothing after it."""
    moments = [at / factor for at in trace.times]

    def times(duration_s: float, _: random.Random) -> Iterator[float]:
        return takewhile(lambda at: at < duration_s, moments)

    def mean(duration_s: float) -> float:
        return sum(1 for at in moments if at < duration_s) / duration_s

    return Arrivals(spec or f"trace:{trace.name}", tuple(zip(trace.prompts, trace.answers, strict=True)), times, mean)


def _unit_poisson(draw: random.Random) -> Iterator[float]:
    """A Poisson process of rate 1: sums of exponential gaps. Endless."""
    return accumulate(draw.expovariate(1.0) for _ in count())


def _rates(spec: str, parts: Sequence[str], number: int | None = None) -> list[float]:
    """As many as wanted; one of several may be 0, but not all."""
    form = f"it should be {_FORMS[spec.strip().partition(':')[0]]}"
    if number is not None and len(parts) != number:
        _refuse(spec, f"{number} number{'s' if number > 1 else ''} wanted, {len(parts)} given; {form}")
    rates = []
    for part in parts:
        try:
            rates.append(float(part))
        except ValueError:
            _refuse(spec, f"{part.strip()!r} is no number; {form}")
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates) or not any(rates):
        _refuse(spec, f"{' and '.join(part.strip() for part in parts)} must be above 0, and finite; {form}")
    return rates


def _refuse(spec: str, why: str) -> NoReturn:
    raise ConfigurationError(f"arrivals {spec!r}: {why}")


_FORMS: Mapping[str, str] = {
    "constant": "constant:R",
    "poisson": "poisson:R",
    "burst": "burst:R,N",
    "ramp": "ramp:R1-R2",
    "steps": "steps:R1,R2,…",
    "trace": "trace:FILE[,xF]",
}
_KINDS: Mapping[str, Callable[[str, str], Arrivals]] = {
    "constant": _constant,
    "poisson": _poisson,
    "burst": _burst,
    "ramp": _ramp,
    "steps": _steps,
    "trace": _trace,
}
