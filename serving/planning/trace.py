"""Requests over time: made by a rule and a seed, or read from a file."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import ConfigurationError

_FIELDS = ("t_s", "prompt_tokens", "answer_tokens")


@dataclass(frozen=True)
class Trace:
    """Requests by time: seconds since the first moment, tokens of prompt and answer. Parallel tuples.

    `on_cold`: what each wants while no replica is ready; empty where all want the same.
    """

    name: str
    times: tuple[float, ...]
    prompts: tuple[int, ...]
    answers: tuple[int, ...]
    on_cold: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times)

    @property
    def end_s(self) -> float:
        return self.times[-1] if self.times else 0.0


@dataclass(frozen=True)
class Recipe:
    """What a made trace looks like. `rate`: requests a second on average (of `step`: before it, of `burst`: during
    it). Lengths are spread log-normally about their means.
    """

    rate: float = 1.0
    duration_s: float = 3600.0
    prompt: int = 2048
    answer: int = 256
    spread: float = 0.4


def make_trace(kind: str, recipe: Recipe, seed: int) -> Trace:
    """Raises ConfigurationError for a kind that there is not."""
    if kind not in KINDS:
        raise ConfigurationError(f"trace {kind!r} is no file, and none of: {', '.join(KINDS)}")
    draw = random.Random(f"{seed}:{kind}")
    rate_of, most = KINDS[kind](recipe, draw)
    times = tuple(_arrivals(rate_of, most, recipe.duration_s, draw))
    prompts = tuple(_length(recipe.prompt, recipe.spread, draw) for _ in times)
    answers = tuple(_length(recipe.answer, recipe.spread, draw) for _ in times)
    return Trace(kind, times, prompts, answers)


def _arrivals(
    rate_of: Callable[[float], float], most: float, duration_s: float, draw: random.Random
) -> Iterator[float]:
    """A Poisson process of a changing rate, by thinning (Lewis and Shedler, 1979)."""
    now = 0.0
    if most <= 0:
        return
    while True:
        now += draw.expovariate(most)
        if now >= duration_s:
            return
        if draw.random() * most < rate_of(now):
            yield now


def _length(mean: int, spread: float, draw: random.Random) -> int:
    """Log-normal with this mean."""
    return max(1, round(mean * math.exp(draw.gauss(0.0, spread) - spread * spread / 2)))


_Rate = tuple[Callable[[float], float], float]


def _burst(recipe: Recipe, _: random.Random) -> _Rate:
    """Nothing, then `rate` for the second quarter of the time, then nothing: 0, N, 0."""
    begin, end = recipe.duration_s / 4, recipe.duration_s / 2
    return lambda now: recipe.rate if begin <= now < end else 0.0, recipe.rate


def _step(recipe: Recipe, _: random.Random) -> _Rate:
    """`rate`, and four times as much from the middle on."""
    return lambda now: recipe.rate * (4 if now >= recipe.duration_s / 2 else 1), 4 * recipe.rate


def _daily(recipe: Recipe, _: random.Random) -> _Rate:
    """Night and day: next to nothing at 3:00, most at 15:00, `rate` on average over whole days."""

    def rate_of(now: float) -> float:
        day = 0.5 - 0.5 * math.cos(2 * math.pi * (now / 86400 - 3 / 24))
        return recipe.rate * (0.02 + 0.98 * day**2 / 0.375)

    return rate_of, recipe.rate * (0.02 + 0.98 / 0.375)


def _noisy(recipe: Recipe, draw: random.Random) -> _Rate:
    """`rate` with weather: each half minute another level, from a quarter to nearly twice as much."""
    levels = [draw.uniform(0.25, 1.75) for _ in range(int(recipe.duration_s / 30) + 1)]
    return lambda now: recipe.rate * levels[int(now / 30)], 1.75 * recipe.rate


def _steady(recipe: Recipe, _: random.Random) -> _Rate:
    return lambda now: recipe.rate, recipe.rate


KINDS: Mapping[str, Callable[[Recipe, random.Random], _Rate]] = {
    "burst": _burst,
    "step": _step,
    "daily": _daily,
    "noisy": _noisy,
    "steady": _steady,
}


def read_trace(path: Path) -> Trace:
    """CSV with a header, or JSON lines, with `t_s`, `prompt_tokens`, `answer_tokens`.

    Raises ConfigurationError that names the line.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"trace {path} cannot be read: {error}") from error
    rows = [_row(path, number, row) for number, row in _rows(path, text)]
    return trace_of(path.name, rows)


def trace_of(name: str, rows: Sequence[tuple[float, int, int]], on_cold: Sequence[str] = ()) -> Trace:
    """From (time, prompt tokens, answer tokens) in any order. Raises ConfigurationError if there are none."""
    if not rows:
        raise ConfigurationError(f"trace {name} has no requests")
    order = sorted(range(len(rows)), key=lambda place: rows[place])
    times, prompts, answers = zip(*(rows[place] for place in order), strict=True)
    return Trace(name, times, prompts, answers, tuple(on_cold[place] for place in order) if on_cold else ())


def _rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".csv":
        yield from enumerate(csv.DictReader(text.splitlines()), start=2)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ConfigurationError(f"trace {path}, line {number}: no JSON ({error})") from error


def _row(path: Path, number: int, row: Mapping[str, Any]) -> tuple[float, int, int]:
    try:
        at, prompt, answer = float(row["t_s"]), int(row["prompt_tokens"]), int(row["answer_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"trace {path}, line {number}: {', '.join(_FIELDS)} are needed in each, as numbers"
        ) from error
    if not (math.isfinite(at) and at >= 0 and prompt >= 1 and answer >= 1):
        raise ConfigurationError(f"trace {path}, line {number}: t_s from 0, tokens from 1")
    return at, prompt, answer


def write_trace(trace: Trace, path: Path) -> None:
    """CSV for `.csv`, else JSON lines: what `read_trace` reads."""
    rows = zip(trace.times, trace.prompts, trace.answers, strict=True)
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(_FIELDS)
            writer.writerows((repr(at), prompt, answer) for at, prompt, answer in rows)
        else:
            file.writelines(json.dumps(dict(zip(_FIELDS, row, strict=True))) + "\n" for row in rows)
