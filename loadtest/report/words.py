"""Figures as people read them. What is not known is said to be so: it is never 0."""

from __future__ import annotations

UNKNOWN = "not known"
_MOST_DIGITS = 12


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits, and a comma between thousands."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):,.{_MOST_DIGITS}f}".rstrip("0").rstrip(".")


def seconds(value: float | None, digits: int = 3) -> str:
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 s"
    if abs(value) < 0.0001:
        return f"{number(1e6 * value, digits)} µs"
    if abs(value) < 0.9995:
        return f"{number(1000 * value, digits)} ms"
    return f"{number(value, digits)} s"


def priced(value: float | None, currency: object) -> str:
    return UNKNOWN if value is None else f"{number(value)} {currency or ''}".strip()


def share(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{number(100 * value, digits)} %"


def per_second(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{number(value, digits)}/s"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def plural(many: int, noun: str) -> str:
    return f"{many:,} {noun}" + ("" if many == 1 else "s")


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def span(value: float) -> str:
    """A length of time as people say it: 90 s, 5 min, 2 h."""
    if value < 120:
        return f"{number(value)} s"
    return f"{number(value / 60)} min" if value < 7200 else f"{number(value / 3600)} h"
