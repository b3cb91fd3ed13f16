"""A run second by second, with what happened on the serving side meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from loadtest.client_limit import CPU_LIMIT
from loadtest.report.parts import Cell, Table
from loadtest.report.plot import LOOKS, Axis, Bar, Line, Plot, exact, linear
from loadtest.report.words import UNKNOWN, count, listed, number, plural, seconds, share, span
from loadtest.run import Run, Sample
from loadtest.scaling import around
from loadtest.series import Series, series

#: So many columns can be told apart.
COLUMNS = 240
_MOST_EVENTS = 60
_MOST_DEPLOYMENTS = 4


def timeline(run: Run, bound: tuple[float, str] | None = None, columns: int = COLUMNS) -> list[Plot]:
    """Panels over the same time. `bound`: of the TTFT. Empty for a run without requests."""
    if not run.records:
        return []
    course = series(run)
    width = max(1, -(-len(course) // columns))
    x = exact("seconds from the start", 0, max(len(course), run.duration_s), number)
    return [_framed(plot, run, x, not at) for at, plot in enumerate(_panels(course, run, x, width, bound))]


def events(run: Run, caption: str = "What happened meanwhile") -> Table | None:
    """Numbered as the marks in the panels."""
    if not run.events:
        return None
    rows = [
        [
            Cell(str(at + 1)),
            Cell(f"{number(_at(event))} s"),
            Cell(str(event.get("what", UNKNOWN)), prose=True),
            Cell(str(event.get("detail", "")), prose=True),
        ]
        for at, event in enumerate(run.events[:_MOST_EVENTS])
    ]
    more = len(run.events) - len(rows)
    note = " ".join(filter(None, (around(run).said(), f"{plural(more, 'more event')} in result.json." if more else "")))
    return Table(caption, ["Number", "At", "What", "Detail"], rows, note)


def changing(run: Run) -> list[str]:
    """Deployments whose replicas, there or wanted, were not the same all the time."""
    return [name for name in _deployments(run) if len(_counts(run, name)) > 1]


def unchanged(run: Run) -> list[str]:
    """A sentence for the others, where there are any."""
    still = [
        f"{name} {count(_counts(run, name).pop()[0])}" for name in _deployments(run) if len(_counts(run, name)) == 1
    ]
    return [f"Replicas that stayed the same all the time: {listed(still)}."] if still else []


def _deployments(run: Run) -> list[str]:
    return list(dict.fromkeys(name for sample in run.samples for name in (*sample.by_deployment, *sample.wanted)))


def _counts(run: Run, name: str) -> set[tuple[int | None, int | None]]:
    return {(_count("by_deployment", name, sample), _count("wanted", name, sample)) for sample in run.samples}


def _framed(plot: Plot, run: Run, x: Axis, named: bool) -> Plot:
    """With the warm-up, the time after the last arrival and the events."""
    shades = [(0.0, run.warmup_s, "warm-up")] if run.warmup_s else []
    if x.high - run.duration_s > 1:
        shades.append((run.duration_s, x.high, "no new requests"))
    marks = [(_at(event), str(index + 1)) for index, event in enumerate(run.events[:_MOST_EVENTS])]
    return replace(plot, shades=[(begin, end, text if named else "") for begin, end, text in shades], marks=marks)


def _at(event: Mapping[str, object]) -> float:
    at = event.get("t_s")
    return float(at) if isinstance(at, int | float) else 0.0


def _panels(course: Series, run: Run, x: Axis, width: int, bound: tuple[float, str] | None) -> Iterator[Plot]:
    per = "per second" if width == 1 else f"per second, by {span(width)}"
    came, went = _columns(course.arrivals, width, _mean), _columns(course.answers, width, _mean)
    yield _lines(
        "Arrivals and answers", x, linear(per, _known(came, went), number), ("meant to start", came), ("answered", went)
    )
    flying = _columns(course.in_flight, width, _mean)
    yield _lines("Requests in flight", x, linear("", _known(flying), number), ("in flight", flying))
    first = _columns(course.ttft_p95, width, _highest)
    y = linear("", [*_known(first), *([1.2 * bound[0]] if bound else [])], seconds)
    title = "TTFT p95 of those meant to start in a second" + ("" if width == 1 else f", worst of {span(width)}")
    if _known(first):
        yield replace(_lines(title, x, y, ("TTFT p95", first)), bound=bound)
    if any(map(any, course.errors.values())):
        yield _errors(course, x, width)
    busy = _columns(course.client_cpu, width, _highest)
    if _known(busy):
        panel = _lines(
            "CPU of the busiest client process", x, linear("of a core", [*_known(busy), 1.0], share), ("CPU", busy)
        )
        yield replace(panel, bound=(CPU_LIMIT, f"above {share(CPU_LIMIT)} on average the run is void"))
    yield from _serving(run, x)


def _lines(title: str, x: Axis, y: Axis, *lines: tuple[str, Sequence[tuple[float, float | None]]]) -> Plot:
    said = " ".join(f"{label}: {_range(points, y)}." for label, points in lines)
    return Plot(title, x, y, said, lines=[Line(label, look, points) for look, (label, points) in enumerate(lines)])


def _range(points: Sequence[tuple[float, float | None]], y: Axis) -> str:
    known = _known(points)
    if not known:
        return UNKNOWN
    at = next(at for at, value in points if value == max(known))
    return f"{number(min(known))} to {number(max(known))} {y.label}, most at {number(at)} s"


def _errors(course: Series, x: Axis, width: int) -> Plot:
    kinds = [kind for kind, counts in course.errors.items() if any(counts)]
    columns = [_columns(course.errors[kind], width, sum) for kind in kinds]
    bars, tops = [], []
    for row in zip(*columns, strict=True):
        top = 0.0
        for look, (at, value) in enumerate(row):
            if value:
                title = f"{plural(int(value), kinds[look])} at {number(at)} s"
                bars.append(Bar(at - width / 2, at + width / 2, top, top + value, look % LOOKS, title))
                top += value
        tops.append(top)
    said = ", ".join(f"{kind} {sum(course.errors[kind]):,}" for kind in kinds)
    y = linear("errors" if width == 1 else f"errors in {span(width)}", tops, number, whole=True)
    keys = [(kind, look % LOOKS) for look, kind in enumerate(kinds)]
    return Plot("Errors, by the moment they happened", x, y, f"{said}.", bars=bars, keys=keys)


def _serving(run: Run, x: Axis) -> Iterator[Plot]:
    """What was seen of replicas and nodes."""
    for name in changing(run)[:_MOST_DEPLOYMENTS]:
        serving = _seen(run.samples, partial(_count, "by_deployment", name))
        wanted = _seen(run.samples, partial(_count, "wanted", name))
        yield from _stepped(f"Replicas of {name}", x, [("serving", serving), ("wanted", wanted)])
    nodes = [
        ("GPU nodes up", _seen(run.samples, lambda one: one.gpu_nodes)),
        ("GPUs up", _seen(run.samples, lambda one: one.gpus)),
    ]
    yield from _stepped("GPU nodes", x, nodes)


def _count(kind: str, name: str, sample: Sample) -> int | None:
    counts: Mapping[str, int] = getattr(sample, kind)
    return counts.get(name)


def _seen(samples: Iterable[Sample], of: Callable[[Sample], int | None]) -> list[tuple[float, float | None]]:
    return [(sample.t_s, of(sample)) for sample in samples]


def _stepped(title: str, x: Axis, lines: Iterable[tuple[str, list[tuple[float, float | None]]]]) -> Iterator[Plot]:
    known = [(label, points) for label, points in lines if _known(points)]
    if known:
        y = linear("", [value for _, points in known for value in _known(points)], number, whole=True, ticks=3)
        plot = _lines(title, x, y, *known)
        yield replace(plot, lines=[replace(line, steps=True) for line in plot.lines])


def _columns(
    values: Sequence[float | None], width: int, joined: Callable[[list[float]], float]
) -> list[tuple[float, float | None]]:
    """(middle, value) of every `width` seconds; None where nothing is known."""
    found: list[tuple[float, float | None]] = []
    for begin in range(0, len(values), width):
        part = [value for value in values[begin : begin + width] if value is not None]
        found.append((begin + width / 2, joined(part) if part else None))
    return found


def _known(*lines: Iterable[tuple[float, float | None]]) -> list[float]:
    return [value for line in lines for _, value in line if value is not None]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _highest(values: list[float]) -> float:
    return max(values)
