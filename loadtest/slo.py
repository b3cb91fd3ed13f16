"""Objectives (slo.toml), and whether a run met them."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from loadtest.figures import ASKING, STREAMING, Figures, figures
from loadtest.metrics import NAMES, TIMES, Metric, metric, value
from loadtest.record import Record
from loadtest.run import Run
from loadtest.steadiness import Steadiness, steady
from serving.errors import ConfigurationError

_DEFAULT = Path(__file__).with_name("slo.toml")


@dataclass(frozen=True)
class Objective:
    """`name`: as in the file."""

    name: str
    metric: Metric
    bound: float

    def holds(self, measured: float) -> bool:
        return measured <= self.bound if self.metric.better == "lower" else measured >= self.bound


@dataclass(frozen=True)
class Judged:
    """`met` None: the load had no request that could tell, `why` says which; it does not count."""

    name: str
    title: str
    bound: float
    value: float | None
    met: bool | None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """`met`: every objective that counts, at least one, and the line did not grow (see `loadtest.steadiness`).

    `void`: why the run says nothing about the server; then nobody should act on `met`. `why`: a sentence for
    everything that was not met.
    """

    objectives: Sequence[Judged]
    steady: Steadiness
    goodput: float
    good_share: float | None
    met: bool
    void: Sequence[str]
    why: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Slo:
    objectives: Sequence[Objective]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ConfigurationError that names the file and the key."""
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not TOML: {error}") from error
        return cls.of(data, str(path))

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str) -> Self:
        """Of keys and bounds, as `as_json` gives them. Raises ConfigurationError; `where` says of what."""
        if not data:
            raise ConfigurationError(f"{where} names no objective: for example `ttft_p95_s = 2.0`")
        return cls([_objective(key, bound, where) for key, bound in data.items()])

    @classmethod
    def default(cls) -> Self:
        """What is shipped: `slo.toml` of this folder."""
        return cls.read(_DEFAULT)

    def as_json(self) -> dict[str, float]:
        """As `Study.slo` keeps it."""
        return {one.name: one.bound for one in self.objectives}

    def good(self, record: Record) -> bool:
        """No error, and its own times within the bounds.

        Of several bounds on percentiles of one thing an answer has to keep the widest: `ttft_p50_s = 1` lets half of
        them take longer. For its gaps it is this answer's own p99.
        """
        if not record.ok:
            return False
        own = {
            "ttft": record.ttft_s if record.task in STREAMING else None,
            "gap": record.gap_p99_s,
            "total": record.total_s if record.task in ASKING else None,
            "search": record.total_s if record.task == "search" else None,
            "upload": record.total_s if record.task == "upload" else None,
        }
        if record.task in STREAMING and own["ttft"] is None:
            return False
        return all(own_s <= self._widest(what) for what, own_s in own.items() if own_s is not None)

    def _widest(self, what: str) -> float:
        bounds = [one.bound for one in self.objectives if one.metric.what == what]
        return max(bounds, default=math.inf)


def judge(slo: Slo, run: Run, found: Figures | None = None) -> Verdict:
    """`found`: the figures of the run with this SLO, where they are made already.

    Not measured counts as not met, except where the load had no request that could tell: no stream for TTFT and gaps,
    no question asked for shares of answers, none with a known source or answer for those means (told by: no answer has
    the figure), no citations from a server that never has any, no search or upload for theirs. Where nothing at all
    was answered, no objective is met.
    """
    found = found or figures(run, slo)
    judged = [_judged(one, found, run) for one in slo.objectives]
    growth = steady(run)
    why = [f"{one.title}: {one.why}" for one in judged if one.met is False]
    if growth.grows:
        why.append(growth.why)
    counts = [one.met for one in judged if one.met is not None]
    return Verdict(
        objectives=judged,
        steady=growth,
        goodput=found.goodput or 0.0,
        good_share=found.good_share,
        met=bool(counts) and all(counts) and not growth.grows,
        void=tuple(run.void),
        why=why,
    )


def _judged(one: Objective, found: Figures, run: Run) -> Judged:
    measured = value(one.metric, found)
    if measured is None or not found.answered:
        could = not found.answered or _could_tell(one.metric, found, run)
        reason = _nothing(one.metric, found) if could else "the load had no request that could tell"
        return Judged(one.name, one.metric.title, one.bound, measured, False if could else None, reason)
    met = one.holds(measured)
    sign = "<=" if one.metric.better == "lower" else ">="
    why = "" if met else f"{shown(one.metric, measured)}, not {sign} {shown(one.metric, one.bound)}"
    return Judged(one.name, one.metric.title, one.bound, measured, met, why)


def shown(of: Metric, number: float) -> str:
    """For people: 250 ms, 2.5 s, 0.1 %, 7.50/s."""
    if of.unit == "share":
        return f"{100 * number:.3g} %"
    if of.unit == "1/s":
        return f"{number:.2f}/s"
    return f"{1000 * number:.3g} ms" if number < 1 else f"{number:.2f} s"


def _nothing(of: Metric, found: Figures) -> str:
    if not found.requests:
        return "no request was meant to start in the measured part"
    if not found.answered:
        return f"none of {found.requests} requests was answered"
    return "every answer came in one piece" if of.what == "gap" else "no answer has it"


def _could_tell(of: Metric, found: Figures, run: Run) -> bool:
    """Whether requests were made that this metric is about. There are answers."""
    if of.what in ("ttft", "gap"):
        return any(task in found.tasks for task in STREAMING)
    if of.what in ("search", "upload"):
        return of.what in found.tasks
    if of.what in ("citations_valid", "cited"):
        return any(one.citations is not None and one.outcome == "answered" for one in run.measured())
    if of.what in ("source_recall", "answer_match"):
        return False
    return any(task in found.tasks for task in ASKING)


def _objective(key: str, bound: object, where: str) -> Objective:
    found = _metric_of(key)
    if found is None:
        raise ConfigurationError(f"{where}: there is no objective {key!r}. {_hint(key)}")
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        raise ConfigurationError(f"{where}: {key} must be a number, not {bound!r}")
    if found.unit == "share" and not 0 <= bound <= 1:
        raise ConfigurationError(f"{where}: {key} is a share between 0 and 1 (1 % is 0.01), not {bound:g}")
    if found.unit != "share" and bound <= 0:
        unit = "seconds" if found.unit == "s" else "a rate per second"
        raise ConfigurationError(f"{where}: {key} is {unit} above 0, not {bound:g}")
    return Objective(key, found, float(bound))


def _metric_of(key: str) -> Metric | None:
    """Times are bounded from above; of the others the end of the name says it, and must be the side that is worse."""
    if (found := metric(key)) is not None:
        return found if found.unit == "s" else None
    name, _, side = key.rpartition("_")
    found = metric(name)
    wanted = "max" if found and found.better == "lower" else "min"
    return found if found and found.unit != "s" and side == wanted else None


def _allowed() -> list[str]:
    names = [f"{name}_{'max' if (found := metric(name)) and found.better == 'lower' else 'min'}" for name in NAMES]
    return [*(f"{what}_p95_s" for what in TIMES), *names]


def _hint(key: str) -> str:
    """The closest name, and all of them."""
    allowed = _allowed()
    near = difflib.get_close_matches(key, [*allowed, *(f"{what}_p{n}_s" for what in TIMES for n in (50, 90, 99))], n=1)
    unit = " Times are in seconds." if key.endswith("_ms") else ""
    asked = f"Did you mean {near[0]}?" if near else ""
    return f"{asked}{unit} There are: {', '.join(allowed)} (any percentile: p50, p99, p999 for 99.9 %)".strip()
