"""Errors while replicas and nodes came and went, beside those of all other requests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.record import Record
from loadtest.run import Run

#: Requests that were under way from so long before to so long after an event are near it, seconds.
_BEFORE_S, _AFTER_S = 2.0, 15.0
#: What `loadtest.cluster_watch` calls them.
EVENTS = ("replica gained", "replica lost", "GPU node appeared", "GPU node gone")


@dataclass(frozen=True, slots=True)
class Around:
    """Measured requests that were under way near a scale event, and the others."""

    events: int
    requests: int
    errors: int
    requests_else: int
    errors_else: int

    def said(self) -> str:
        """A sentence; empty where nothing was seen to scale."""
        if not self.events:
            return ""
        return (
            f"Of {self.requests:,} requests that were under way while something scaled {self.errors:,} failed, "
            f"of the other {self.requests_else:,} {self.errors_else:,}."
        )


def around(run: Run) -> Around:
    """Of requests whose life touches the time around a scale event."""
    times = [float(event["t_s"]) for event in run.events if event["what"] in EVENTS]
    measured = run.measured()
    near = [one for one in measured if _near(one, times)]
    failed, failed_near = (sum(not one.ok for one in some) for some in (measured, near))
    return Around(len(times), len(near), failed_near, len(measured) - len(near), failed - failed_near)


def _near(record: Record, times: Sequence[float]) -> bool:
    return any(record.at_s <= at + _AFTER_S and record.ended_s >= at - _BEFORE_S for at in times)
