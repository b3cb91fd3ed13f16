"""Two studies, load by load: what differs, and by more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from loadtest import bootstrap
from loadtest.figures import figures
from loadtest.metrics import Metric, metric, value
from loadtest.pooled import pooled
from loadtest.run import Run, Study
from loadtest.slo import Slo
from loadtest.steadiness import steady
from loadtest.windows import Windows
from serving.errors import ConfigurationError

#: Whatever is worse here fails a gate, unless other metrics are named.
GATE = ("ttft_p95_s", "gap_p99_s", "errors", "source_recall", "goodput")
SHOWN = (
    "ttft_p50_s",
    "ttft_p95_s",
    "ttft_p99_s",
    "gap_p50_s",
    "gap_p99_s",
    "total_p95_s",
    "errors",
    "goodput",
    "answered_rate",
    "tokens_out_rate",
    "truncated",
    "source_recall",
    "answer_match",
    "citations_valid",
    "cited",
)
_CHANCE = 0.05
#: Nobody feels less than a millisecond.
_FELT_S = 0.001
#: Settings that make two studies no less comparable; how long the runs were is told by themselves.
_FREE_SETTINGS = ("seed", "salt", "workers", "duration_s")
_MACHINE = ("cpu", "cores", "memory")

Word: TypeAlias = Literal["better", "worse", "no difference seen", "too little data", "gone"]


@dataclass(frozen=True)
class Row:
    """`low` to `high`: where b - a lies, at 95 %; `chance`: that one as large is seen where nothing differs.

    `word` is by this interval alone: of twenty metrics one differs by chance. `gone`: a has it and b has not.
    """

    name: str
    title: str
    unit: str
    a: float | None
    b: float | None
    low: float | None
    high: float | None
    chance: float | None
    word: Word

    @property
    def relative(self) -> float | None:
        """(b - a) / a."""
        return None if self.a is None or self.b is None or not self.a else (self.b - self.a) / self.a


@dataclass(frozen=True)
class Level:
    """`gated` False: the line of a grew there, so its times say how long the run was; `notes` say so."""

    load: str
    runs: tuple[int, int]
    rows: Sequence[Row]
    gated: bool
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """`warnings`: what makes the two less comparable. `failed`: a sentence for each gated metric that is worse.

    `judged`: how many gated pairs of load and metric there was enough data for; `unjudged`: titles of gated metrics
    for which there was not, at any load. `rates`: of two sweeps, what they found, as sentences.
    """

    warnings: Sequence[str]
    levels: Sequence[Level]
    failed: Sequence[str]
    judged: int
    unjudged: Sequence[str] = ()
    gate: Sequence[str] = GATE
    rates: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    a: Study,
    b: Study,
    *,
    gate: Sequence[str] = GATE,
    shown: Sequence[str] = SHOWN,
    tolerance: float = 0.05,
    allow_void: bool = False,
    seed: int = 0,
) -> Comparison:
    """Raises ConfigurationError where no load of one is a load of the other, or what is, is void.

    A gated metric fails where b is worse by more than `tolerance` of a (times: and a millisecond), and by more than
    chance. As many metrics and loads are tested at once, one of them would be "worse" by chance quite often: Holm's
    step-down procedure (1979) keeps the probability of any false alarm at 5 %.
    """
    slo = _slo_of(a)
    warnings = list(_warnings(a, b))
    pairs = list(_pairs(a, b, allow_void, warnings))
    if not pairs:
        raise ConfigurationError(_none_in_common(a, b))
    names = (*shown, *(name for name in gate if name not in shown))
    levels = [_level(load, ours, theirs, names, slo, seed) for load, ours, theirs in pairs]
    tested = [(level, row) for level in levels if level.gated for row in level.rows if row.name in gate]
    failed = [
        _sentence(level, row)
        for level, row in tested
        if row.word == "gone" or (_beyond(row, tolerance) and row.chance is not None and _holm(row, tested))
    ]
    told = [row.name for _, row in tested if row.chance is not None or row.word == "gone"]
    unjudged = list(dict.fromkeys(row.title for _, row in tested if row.name not in told))
    return Comparison(warnings, levels, failed, len(told), unjudged, tuple(gate), _rates(a, b))


def _slo_of(study: Study) -> Slo:
    return Slo.of(study.slo, "slo of the first study") if study.slo else Slo.default()


def _holm(row: Row, tested: Sequence[tuple[Level, Row]]) -> bool:
    """Whether it is among those that Holm's procedure rejects."""
    chances = sorted(other.chance for _, other in tested if other.chance is not None)
    for rank, chance in enumerate(chances):
        if chance > _CHANCE / (len(chances) - rank):
            return False
        if chance == row.chance:
            return True
    return False


def _beyond(row: Row, tolerance: float) -> bool:
    found = metric(row.name)
    if row.a is None or row.b is None or found is None:
        return False
    worse = row.b - row.a if found.better == "lower" else row.a - row.b
    return worse > max(tolerance * abs(row.a), _FELT_S if found.unit == "s" else 0.0)


def _sentence(level: Level, row: Row) -> str:
    if row.word == "gone":
        return f"{row.title} at {level.load}: nothing in B to measure it by"
    change = f" ({row.relative:+.0%})" if row.relative is not None else ""
    return f"{row.title} at {level.load}: worse{change}, chance {row.chance:.2g}"


def _pairs(
    a: Study, b: Study, allow_void: bool, warnings: list[str]
) -> Iterator[tuple[str, Sequence[Run], Sequence[Run]]]:
    """The loads that both have. Void runs are left out, and that is said."""
    ours, theirs = _by_load(a), _by_load(b)
    for load in ours:
        if load not in theirs:
            warnings.append(f"{load} is only in A")
            continue
        good = [[run for run in runs if allow_void or not run.void] for runs in (ours[load], theirs[load])]
        for name, kept, runs in zip("AB", good, (ours[load], theirs[load]), strict=True):
            if len(kept) < len(runs):
                warnings.append(f"{load}: {len(runs) - len(kept)} of {len(runs)} runs of {name} are void, left out")
        if allow_void and any(run.void for runs in good for run in runs):
            warnings.append(f"{load}: there are void runs in it: what differs may be the client")
        if good[0] and good[1]:
            lengths = {(run.duration_s, run.warmup_s) for runs in good for run in runs}
            if len(lengths) > 1:
                warnings.append(f"{load}: the runs are not equally long ({_lengths(lengths)})")
            yield load, good[0], good[1]
    warnings.extend(f"{load} is only in B" for load in theirs if load not in ours)


def _lengths(lengths: set[tuple[float, float]]) -> str:
    return ", ".join(f"{whole:g} s, {warm:g} of them warm-up" for whole, warm in sorted(lengths))


def _by_load(study: Study) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in study.runs:
        if run.load.get("kind") == "open":
            load = str(run.load.get("arrivals") or f"{run.rate:g}/s")
        else:
            load = f"{run.load.get('users')} users"
        found.setdefault(load, []).append(run)
    return found


def _none_in_common(a: Study, b: Study) -> str:
    ours, theirs = (", ".join(_by_load(study)) or "no run" for study in (a, b))
    if set(_by_load(a)) & set(_by_load(b)):
        return "every run of a load that both have is void: the client was the limit. --allow-void compares them"
    said = "".join(f". {sentence}" for sentence in _rates(a, b))
    return f"A and B have no load in common: {ours} against {theirs}{said}"


def _rates(a: Study, b: Study) -> list[str]:
    """What sweeps found. It is not gated: how sure a sweep is, is its own affair."""
    if a.found is None or b.found is None:
        return []
    return [
        f"{name} keeps its objectives up to {found['rate']:g}/s" + ("" if found.get("sure") else ", not surely")
        if found.get("rate")
        else f"{name} keeps its objectives at no rate that was tried"
        for name, found in (("A", a.found), ("B", b.found))
    ]


def _warnings(a: Study, b: Study) -> Iterator[str]:
    for what, ours, theirs in (
        ("setting", a.settings, b.settings),
        ("machine", _some(a.machine), _some(b.machine)),
        ("objective", a.slo, b.slo),
    ):
        for name in sorted({*ours, *theirs} - {*_FREE_SETTINGS}):
            if ours.get(name) != theirs.get(name):
                yield f"{what} {name} differs: {_short(ours.get(name))} against {_short(theirs.get(name))}"
    if a.slo != b.slo:
        yield "goodput is counted by the objectives of A"


def _some(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Memory in whole GiB: machines of one kind differ by less."""
    found = {name: machine.get(name) for name in _MACHINE}
    if isinstance(found["memory"], int | float):
        found["memory"] = f"{found['memory'] / 2**30:.0f} GiB"
    return found


def _short(what: object) -> str:
    text = "nothing" if what is None else str(what)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _level(load: str, a: Sequence[Run], b: Sequence[Run], names: Sequence[str], slo: Slo, seed: int) -> Level:
    both = Windows([*a, *b], slo)
    ours, theirs = _values(a, names, slo), _values(b, names, slo)
    rows = [
        _row(found, ours[name], theirs[name], bootstrap.difference(found, both, len(a), seed=seed))
        for name in names
        if (found := metric(name)) and (ours[name] is not None or theirs[name] is not None)
    ]
    grew = [any(steady(run).grows for run in runs) for runs in (a, b)]
    sides = [name for name, so in zip("AB", grew, strict=True) if so]
    notes = [f"the line of {name} grew: its times depend on how long the run was" for name in sides]
    return Level(load, (len(a), len(b)), rows, not grew[0], notes)


def _values(runs: Sequence[Run], names: Sequence[str], slo: Slo) -> dict[str, float | None]:
    """As everybody else shows them; of several runs, those of all their requests."""
    whole = pooled([figures(run, slo) for run in runs])
    return {name: value(of, whole) for name in names if (of := metric(name))}


def _row(of: Metric, a: float | None, b: float | None, found: bootstrap.Difference | None) -> Row:
    if a is not None and b is None:
        return Row(of.name, of.title, of.unit, a, b, None, None, None, "gone")
    if found is None or a is None or b is None:
        return Row(of.name, of.title, of.unit, a, b, None, None, None, "too little data")
    return Row(of.name, of.title, of.unit, a, b, found.low, found.high, found.chance, _word(of, found))


def _word(of: Metric, found: bootstrap.Difference) -> Word:
    if found.low <= 0 <= found.high:
        return "no difference seen"
    return "worse" if (found.low > 0) == (of.better == "lower") else "better"
