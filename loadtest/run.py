"""What a load test found, as data: a `Run` is one load held for a while, a `Study` the runs of one command.

A study is one JSON file. Records are kept as columns; gaps as histograms, one for the requests that were meant to start
in the same window of time, so that figures can be made for any part of a run, and resampled.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from loadtest.histogram import Times
from loadtest.record import Record
from serving.errors import ConfigurationError

SCHEMA = 1
_COLUMNS = tuple(each.name for each in dataclasses.fields(Record) if each.name != "gaps_s")
#: Windows of gaps, seconds.
WINDOW_S = 1.0
#: So many windows are ready to count; those that nothing came to for longest are folded. Or an hour would take 700 MB.
_MOST_OPEN = 100


@dataclass
class Client:
    """A process that made load, as it saw itself. `lag_s`: how late its event loop was, looked at all the time."""

    name: str
    #: Of one core, over the measured part; by second of the run.
    cpu_share: float = 0.0
    cpu_by_second: list[float] = field(default_factory=list)
    lag_s: Times = field(default_factory=Times)


@dataclass
class Sample:
    """What the serving side was like at a moment, where somebody could see it. None: not known.

    `by_deployment`: replicas that serve. `gpus`: of the nodes that are up, whether or not they are used.
    """

    t_s: float
    by_deployment: Mapping[str, int] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)
    gpu_nodes: int | None = None
    gpus: int | None = None


@dataclass
class Run:
    """One load, held from 0 to `duration_s`; what was meant to start before `warmup_s` is not part of its figures.

    `load`: what was asked for, {"kind": "open", "arrivals": "poisson:8", "rate": 8.0} or {"kind": "closed",
    "users": 16, "rate": None}; `rate` is in requests a second, of the load as it was meant.
    `void`: why the run says nothing about the server, because the client was the limit; empty for a good run.
    """

    load: Mapping[str, Any]
    duration_s: float
    warmup_s: float = 0.0
    started_at: str = ""
    records: list[Record] = field(default_factory=list)
    #: By window of `WINDOW_S` of the requests' intended starts.
    gaps: dict[int, Times] = field(default_factory=dict)
    clients: list[Client] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    #: What is worth to know at a moment: {"t_s": 12.5, "what": "replica lost", "detail": "…"}.
    events: list[Mapping[str, Any]] = field(default_factory=list)
    void: list[str] = field(default_factory=list)
    _open: OrderedDict[int, Times] = field(default_factory=OrderedDict, repr=False, compare=False)

    @property
    def rate(self) -> float | None:
        """Requests a second that were meant to start; None for a closed loop."""
        rate = self.load.get("rate")
        return None if rate is None else float(rate)

    @property
    def began(self) -> float:
        """Seconds since 1970, by the clock of whoever made the load."""
        return datetime.fromisoformat(self.started_at).timestamp()

    def add(self, record: Record) -> None:
        """Takes the record and counts its gaps; `gaps_s` is emptied."""
        if record.gaps_s:
            self._window(int(record.at_s // WINDOW_S)).add_all(record.gaps_s)
            record.gaps_s = []
        self.records.append(record)

    def _window(self, number: int) -> Times:
        times = self.gaps.get(number)
        if times is None:
            times = self.gaps[number] = Times()
        self._open[number] = times
        self._open.move_to_end(number)
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)[1].fold()
        return times

    def measured(self) -> list[Record]:
        """Those that were meant to start after the warm-up, by intended start."""
        found = [one for one in self.records if self.warmup_s <= one.at_s < self.duration_s]
        return sorted(found, key=lambda one: one.at_s)

    def measured_gaps(self) -> Times:
        """Of the same requests; and of any that started in the window in which the run was ended, but after that."""
        whole = Times()
        for window, times in self.gaps.items():
            if self.warmup_s <= window * WINDOW_S < self.duration_s:
                whole.merge(times)
        return whole

    def as_json(self) -> dict[str, Any]:
        return {
            "load": dict(self.load),
            "duration_s": self.duration_s,
            "warmup_s": self.warmup_s,
            "started_at": self.started_at,
            "records": {name: [getattr(one, name) for one in self.records] for name in _COLUMNS},
            "gaps": {str(window): times.encoded() for window, times in sorted(self.gaps.items())},
            "clients": [{**vars(one), "lag_s": one.lag_s.encoded()} for one in self.clients],
            "samples": [vars(one) for one in self.samples],
            "events": [dict(one) for one in self.events],
            "void": self.void,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        columns = data["records"]
        rows = zip(*(columns[name] for name in _COLUMNS), strict=True)
        return cls(
            load=data["load"],
            duration_s=data["duration_s"],
            warmup_s=data["warmup_s"],
            started_at=data["started_at"],
            records=[Record(**dict(zip(_COLUMNS, row, strict=True))) for row in rows],
            gaps={int(window): Times.decoded(text) for window, text in data["gaps"].items()},
            clients=[Client(**{**one, "lag_s": Times.decoded(one["lag_s"])}) for one in data["clients"]],
            samples=[Sample(**one) for one in data["samples"]],
            events=list(data["events"]),
            void=list(data["void"]),
        )


@dataclass
class Study:
    """The runs of one command, with all that is needed to believe them.

    `settings`: what was asked (questions file, seed, lengths, model, …); `machine`: of the client, with commit and
    command (`loadtest.machine.describe`); `target`: what the server says of itself; `slo`: the objectives as given;
    `found`: what a sweep concludes (`loadtest.sweep`); `cost`: what GPUs cost (`loadtest.cost`).
    """

    runs: list[Run]
    kind: str = "run"
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    slo: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None

    def save(self, path: Path) -> None:
        """Whole or not at all. Raises ConfigurationError where it cannot be written."""
        rest = {name: value for name, value in vars(self).items() if name != "runs"}
        data = {"schema": SCHEMA, **rest, "runs": [run.as_json() for run in self.runs]}
        part = path.with_name(f"{path.name}.part")
        try:
            part.write_text(json.dumps(data), "utf-8")
            part.replace(path)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """A file, or the folder of `result.json`. Raises ConfigurationError where there is none, or it is no study."""
        path = path / "result.json" if path.is_dir() else path
        try:
            data = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        except ValueError as error:
            raise ConfigurationError(f"{path} is not the result of a load test: {error}") from error
        return cls.from_json(data, str(path))

    @classmethod
    def from_json(cls, data: Any, where: str) -> Self:
        """Raises ConfigurationError; `where` says of what."""
        found = data.get("schema") if isinstance(data, dict) else None
        if found != SCHEMA:
            raise ConfigurationError(f"{where} is not the result of a load test (schema {found!r}, not {SCHEMA})")
        try:
            runs = [Run.from_json(run) for run in data["runs"]]
            names = [each.name for each in dataclasses.fields(cls) if each.name != "runs"]
            return cls(runs=runs, **{name: data[name] for name in names})
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{where} is damaged: {type(error).__name__}: {error}") from error
