"""Plots as data for `plot.j2`. Places are shares of the plot's area, so that it can be drawn as wide as there is room
for, with letters of one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

#: Units of the area of lines, each way.
_AREA = 1000
#: Looks of lines and bars: each has a colour, a dash, a mark and a pattern of its own (`style.css`, `page.html.j2`).
LOOKS = 6
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_NINES = ((0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %"))

_HEADROOM = 1.15
#: Largest by smallest value from which they are drawn in decades.
_DECADES = 30

#: A value that is drawn across a plot, and what is written on it.
Bound = tuple[float, str] | None
Write = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """`place` puts a value on a line; what lies outside of the ends is drawn at the end."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    place: Callable[[float], float] = float

    def at(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        low, high = self.place(self.low), self.place(self.high)
        return min(1.0, max(0.0, (self.place(max(value, self.low)) - low) / (high - low)))


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    title: str
    #: One of "", "unsure", "void".
    sign: str = ""


@dataclass(frozen=True)
class Line:
    """None breaks it: nothing is known there."""

    label: str
    look: int
    points: Sequence[tuple[float, float | None]]
    steps: bool = False
    dots: Sequence[Dot] = ()


@dataclass(frozen=True)
class Bar:
    left: float
    right: float
    bottom: float
    top: float
    look: int
    title: str
    text: str = ""


@dataclass(frozen=True)
class Plot:
    """`said`: what it shows, in words, for those who cannot see it. `bound`, `marks`: lines across it, with a text;
    `shades`: from, to, text. `keys`: label and look of what `bars` show."""

    title: str
    x: Axis
    y: Axis
    said: str
    note: str = ""
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    keys: Sequence[tuple[str, int]] = ()
    bound: Bound = None
    marks: Sequence[tuple[float, str]] = ()
    shades: Sequence[tuple[float, float, str]] = ()
    #: Rows of bars have their names at the left.
    rows: Sequence[str] = field(default_factory=list)

    def across(self, value: float) -> str:
        return f"{100 * self.x.at(value):.2f}%"

    def down(self, value: float) -> str:
        return f"{100 * (1 - self.y.at(value)):.2f}%"

    def wide(self, left: float, right: float) -> str:
        return f"{100 * (self.x.at(right) - self.x.at(left)):.2f}%"

    def tall(self, bottom: float, top: float) -> str:
        return f"{100 * (self.y.at(top) - self.y.at(bottom)):.2f}%"

    def path(self, line: Line) -> str:
        """Of the area of lines, where y goes down."""
        return "".join(self._strokes(line))

    def _strokes(self, line: Line) -> Iterator[str]:
        pen, before = "M", 0.0
        for x, y in line.points:
            if y is None:
                pen = "M"
                continue
            right, down = _AREA * self.x.at(x), _AREA * (1 - self.y.at(y))
            if line.steps and pen == "L":
                yield f"L{right:.0f} {before:.0f}"
            yield f"{pen}{right:.0f} {down:.0f}"
            pen, before = "L", down

    def late(self, value: float) -> bool:
        """Whether a text there has more room to its left."""
        return self.x.at(value) > 0.6


def linear(label: str, values: Iterable[float | None], write: Write, whole: bool = False, ticks: int = 5) -> Axis:
    """From 0 to a round number that is not below any of the values. `whole`: of what is counted."""
    highest = max((value for value in values if value is not None), default=0.0)
    step = _nice((highest if highest > 0 else 1.0) / ticks)
    if whole:
        step = float(max(1, math.ceil(step)))
    at = [step * number for number in range(max(1, math.ceil(highest / step - 1e-9)) + 1)]
    return Axis(label, 0.0, at[-1], [(value, write(value)) for value in at])


def exact(label: str, low: float, high: float, write: Write, ticks: int = 6) -> Axis:
    """From `low` to `high`, with round numbers between them."""
    step = _nice((high - low) / ticks)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Axis(label, low, high, [(step * at, write(step * at)) for at in range(first, last + 1)])


def logarithmic(label: str, values: Iterable[float | None], write: Write) -> Axis:
    """Over all values above 0, in decades."""
    known = [value for value in values if value is not None and value > 0] or [1.0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    high = max(high, low + 1)
    parts = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [part * 10.0**decade for decade in range(low, high) for part in parts]
    return Axis(label, 10.0**low, 10.0**high, [(at, write(at)) for at in [*ticks, 10.0**high]], math.log10)


def fitting(
    label: str, values: Iterable[float | None], write: Write, bound: Bound = None, decades: bool = True
) -> Axis:
    """Linear from 0 where that shows all of them, in decades where the smaller ones would lie on the floor.

    `bound` is always in sight, and not on the edge. Not `decades`: values may be 0, which has no place there.
    """
    known = [value for value in values if value is not None and value > 0]
    most = [*known, _HEADROOM * bound[0]] if bound else known
    if decades and known and max(known) > _DECADES * min(known):
        return logarithmic(f"{label}, log scale".lstrip(", "), most, write)
    return linear(label, most, write)


def nines(label: str, count: int) -> Axis:
    """Shares up to the last that `count` values can tell, each nine as wide as the one before it."""
    high = 1 - 1 / max(count, 10)
    ticks = [tick for tick in _NINES if tick[0] <= high + 1e-9]
    return Axis(label, 0.0, high, ticks, _nine)


def names(labels: Sequence[str]) -> Axis:
    """One place for each, the first at the high end, from n - 0.5 to n + 0.5."""
    last = len(labels) - 1
    return Axis("", -0.5, last + 0.5, [(last - at, label) for at, label in enumerate(labels)])


def _nine(value: float) -> float:
    return -math.log10(1 - min(value, 1 - 1e-9))


def _nice(step: float) -> float:
    decade = 10.0 ** math.floor(math.log10(step))
    return next(decade * one for one in _NICE if decade * one >= step * (1 - 1e-9))
