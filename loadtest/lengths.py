"""How many tokens: a number, or a distribution. Pure.

64                   always 64
uniform:32-256       each from 32 to 256 as often
lognormal:128,0.5    log-normal with median 128 and sigma 0.5 (of the logarithm), at most 8 times the median
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

from serving.errors import ConfigurationError

#: Of a log-normal, how many medians at most: one answer without end would be most of a short run.
CAP = 8
#: A length above this is a mistake in the command line.
_MOST = 10_000_000
_MOST_SIGMA = 4
_FORMS = "64, uniform:32-256 or lognormal:128,0.5"


@dataclass(frozen=True)
class Lengths:
    """`at(u)`: the length, in tokens, below which a share `u` of all lengths lies; u is from 0 to 1, without the 1."""

    spec: str
    at: Callable[[float], int] = field(repr=False)


def lengths(spec: str, option: str) -> Lengths:
    """Raises ConfigurationError that names the option and the spec, and says what it should be."""
    kind, colon, rest = spec.strip().partition(":")
    try:
        if not colon:
            return Lengths(spec, _fixed(kind))
        if kind == "uniform":
            return Lengths(spec, _uniform(*rest.split("-")))
        if kind == "lognormal":
            return Lengths(spec, _lognormal(*rest.split(",")))
    except _Wrong as error:
        raise ConfigurationError(f"{option} {spec!r}: {error}; it should be {_FORMS}") from error
    raise ConfigurationError(f"{option} {spec!r} is no length in tokens; it should be {_FORMS}")


class _Wrong(ValueError):
    """Says what is wrong with a spec."""


def _tokens(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= _MOST:
        raise _Wrong(f"{text.strip()!r} is no whole number of tokens from 1 to {_MOST:,}")
    return int(text)


def _fixed(text: str) -> Callable[[float], int]:
    tokens = _tokens(text)
    return lambda _: tokens


def _uniform(*parts: str) -> Callable[[float], int]:
    if len(parts) != 2:
        raise _Wrong("the least and the most tokens are wanted")
    least, most = map(_tokens, parts)
    if most < least:
        raise _Wrong(f"{most} is less than {least}")
    return lambda u: least + int(u * (most - least + 1))


def _lognormal(*parts: str) -> Callable[[float], int]:
    if len(parts) != 2:
        raise _Wrong("a median and a sigma are wanted")
    median = _tokens(parts[0])
    try:
        sigma = float(parts[1])
    except ValueError:
        sigma = math.nan
    if not 0 <= sigma <= _MOST_SIGMA:
        raise _Wrong(f"sigma {parts[1].strip()!r} is no number from 0 to {_MOST_SIGMA}")
    normal = NormalDist()

    def at(u: float) -> int:
        spread = normal.inv_cdf(min(max(u, 1e-12), 1 - 1e-12))
        return max(1, min(CAP * median, round(median * math.exp(sigma * spread))))

    return at
