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
            (fixed,) = _whole(kind)
            return Lengths(spec, lambda _: fixed)
        if kind == "uniform":
            least, most = _whole(*rest.split("-"))
            return Lengths(spec, _uniform(least, most))
        if kind == "lognormal":
            middle, sigma = rest.split(",")
            (median,) = _whole(middle)
            return Lengths(spec, _lognormal(median, float(sigma)))
    except ValueError as error:
        raise ConfigurationError(
            f"{option} {spec!r} is no length in tokens ({error}): it should be {_FORMS}"
        ) from error
    raise ConfigurationError(f"{option} {spec!r} is no length in tokens: it should be {_FORMS}")


def _whole(*texts: str) -> list[int]:
    """Raises ValueError."""
    numbers = [int(text) for text in texts]
    if not all(1 <= number <= _MOST for number in numbers):
        raise ValueError(f"lengths go from 1 to {_MOST:,}")
    return numbers


def _uniform(least: int, most: int) -> Callable[[float], int]:
    if most < least:
        raise ValueError(f"{most} is less than {least}")
    return lambda u: least + int(u * (most - least + 1))


def _lognormal(median: int, sigma: float) -> Callable[[float], int]:
    if not 0 <= sigma <= 4:
        raise ValueError("sigma goes from 0 to 4")
    normal = NormalDist()

    def at(u: float) -> int:
        spread = normal.inv_cdf(min(max(u, 1e-12), 1 - 1e-12))
        return max(1, min(CAP * median, round(median * math.exp(sigma * spread))))

    return at
