"""What the processes of a run report, gathered into one `Run`: the same as if one process had made it all. Pure.

A report carries records with every gap of theirs, raw, so that histograms are made in one place and nothing is rounded
twice. Reports are sent as the run goes on, numbered, and the last one says that it is the last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.client_limit import limits
from loadtest.record import Record
from loadtest.run import Client, Run

_FIELDS = tuple(each.name for each in dataclasses.fields(Record))
#: Records of one message, at most: a worker that has more sends several.
MOST_RECORDS = 200


@dataclass(frozen=True)
class Report:
    """Of one process since its last one. `in_flight`: what it waits for now; `cpu`, `lags`: see `ClientWatch.taken`."""

    name: str
    number: int
    records: Sequence[Record] = ()
    cpu: Sequence[float] = ()
    lags: Sequence[float] = ()
    in_flight: int = 0
    last: bool = False

    def packed(self) -> dict[str, Any]:
        """Of what every message format knows."""
        rows = [[getattr(record, name) for name in _FIELDS] for record in self.records]
        return {**vars(self), "records": rows, "cpu": list(self.cpu), "lags": list(self.lags)}

    @classmethod
    def unpacked(cls, data: Mapping[str, Any]) -> Report:
        rows = [Record(**dict(zip(_FIELDS, row, strict=True))) for row in data["records"]]
        return cls(**{**data, "records": rows})


@dataclass
class _Part:
    client: Client
    reports: int = 0
    in_flight: int = 0
    heard_s: float = 0.0
    over: bool = False
    lost: bool = False


@dataclass
class Gathering:
    """`run` is complete once `is_complete`; `finish` settles it."""

    run: Run
    _parts: dict[str, _Part] = field(default_factory=dict)

    def expect(self, nodes: Iterable[str]) -> None:
        """Who will report."""
        for node in nodes:
            self._parts[node] = _Part(Client(node))

    def take(self, node: str, report: Report, t_s: float = 0.0) -> None:
        """`t_s`: when it came."""
        part = self._parts[node]
        part.heard_s = max(0.0, round(t_s, 3))
        if report.number != part.reports:
            self.run.void.append(f"{part.reports - report.number:+d} reports of {report.name}: records are missing")
        part.reports = report.number + 1
        part.client.name = report.name
        part.client.cpu_by_second += report.cpu
        part.client.lag_s.add_all(report.lags)
        for record in report.records:
            self.run.add(record)
        part.in_flight = report.in_flight
        part.over = part.over or report.last

    def join(self, node: str, t_s: float) -> None:
        """A process came after the start, and locust gave it users of a closed loop: they ask nothing."""
        self.run.events.append({"t_s": max(0.0, round(t_s, 3)), "what": "load tester joined", "detail": node})
        self.run.void.append(
            f"{node} joined {t_s:.0f} s after the start: the users that locust gave to it asked nothing"
        )

    def lose(self, node: str) -> None:
        """A process is gone, and what it had not reported with it."""
        part = self._parts[node]
        if part.over or part.lost:
            return
        part.lost = True
        part.in_flight = 0
        self._miss(part, "lost", "was last heard of")

    def leave(self, node: str) -> None:
        """A process reported its last before the run was over."""
        self._miss(self._parts[node], "left", "left")

    def _miss(self, part: _Part, what: str, did: str) -> None:
        name, heard_s = part.client.name, part.heard_s
        self.run.events.append({"t_s": heard_s, "what": f"load tester {what}", "detail": name})
        self.run.void.append(f"{name}, which made a part of the load, {did} {heard_s:.0f} s after the start")

    @property
    def awaited(self) -> list[str]:
        """Who has not reported the last."""
        return [node for node, part in self._parts.items() if not part.over and not part.lost]

    @property
    def in_flight(self) -> int:
        return sum(part.in_flight for part in self._parts.values())

    def finish(self, held_s: float) -> Run:
        """The load was held so long."""
        run = self.run
        run.duration_s = held_s
        for node in self.awaited:
            self.lose(node)
        run.clients = [part.client for part in self._parts.values()]
        for client in run.clients:
            client.cpu_share = _mean(client.cpu_by_second[int(run.warmup_s) : max(1, int(held_s))])
        run.records.sort(key=lambda record: record.at_s)
        run.void += limits(run)
        return run


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else 0.0
