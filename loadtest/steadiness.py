"""Did the server keep up, or was there a line that grew, and the run merely too short to show it in its times?"""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect_right
from dataclasses import dataclass

from loadtest.run import Run

_PARTS = 20
#: Student's t with 19 degrees of freedom: exceeded by chance once in a hundred times (any table of it).
_CHANCE_T = 2.539
#: Less than this share of the arrivals is no growth that anybody needs to hear of.
_LEAST = 0.01
#: Loads that are the same all the time. Where the load itself rises, a line that grows says nothing.
_LEVEL = ("constant", "poisson", "burst")
#: Of the measured part; the start of a run, when there is no line yet, may take so much of it.
_START = 0.25


@dataclass(frozen=True)
class Steadiness:
    """`grows` None: cannot be told, `why` says why. `left_share`: of the arrivals, what was added to the line."""

    grows: bool | None
    left_share: float | None
    why: str


def steady(run: Run) -> Steadiness:
    """Whether the requests in flight became more, over the measured part, than chance would have it.

    The measured part is cut into 20 equal parts; what each adds to the requests in flight is compared with 0 by
    Student's t, one-sided, at 1 %. That takes the line for a random walk, the worst that a load just at the capacity
    can do: below it the changes of neighbouring parts undo each other, and false alarms are rarer than 1 %. The mean
    change of a random walk is its last value minus its first, so nothing is lost by looking at the line only there.
    What grows by less than 1 % of the arrivals is let pass. On made queues (tests/loadtest/made.py, capacity 13 a
    second, 200 runs each) it said "grows" at 0.8 and 0.95 of the capacity never, at 1.0 in 2 % of the runs; at 1.2 in
    95 % of runs of a minute; at 1.05 in 12 % of runs of one minute, 57 % of five and all of twenty: an excess of e is
    found once there are about 18 / e^2 arrivals.

    Not looked at: closed loops, and loads that change.
    """
    name = str(run.load.get("arrivals", "")).partition(":")[0]
    if run.load.get("kind") != "open" or name not in _LEVEL:
        return Steadiness(None, None, "only of an open loop whose load stays the same can it be told")
    since_s = _settled_s(run)
    part_s = (run.duration_s - since_s) / _PARTS
    begun = sorted(one.at_s for one in run.records)
    over = sorted(one.ended_s for one in run.records)
    edges = [since_s + part_s * number for number in range(_PARTS + 1)]
    lines = [bisect_right(begun, edge) - bisect_right(over, edge) for edge in edges]
    arrivals = bisect_right(begun, edges[-1]) - bisect_right(begun, edges[0])
    if arrivals < 2 * _PARTS:
        return Steadiness(None, None, f"{arrivals} requests are too few to tell whether the line grows")
    changes = [after - before for before, after in itertools.pairwise(lines)]
    error = statistics.stdev(changes) / math.sqrt(_PARTS)
    left = (lines[-1] - lines[0]) / arrivals
    grows = left > _LEAST and statistics.mean(changes) > _CHANCE_T * error
    if not grows:
        return Steadiness(False, left, "the line did not grow more than chance would have it")
    return Steadiness(
        True,
        left,
        f"the line grew from {lines[0]} to {lines[-1]} requests while {arrivals} came: the load is beyond what the "
        "server can do, and a longer run would show longer times",
    )


def _settled_s(run: Run) -> float:
    """When the first requests are over: until then the line fills, whatever the load."""
    first = [one.total_s for one in run.measured() if one.at_s < run.warmup_s + (run.duration_s - run.warmup_s) / 20]
    longest = max(first, default=0.0)
    return run.warmup_s + min(longest, _START * (run.duration_s - run.warmup_s))
