"""When a run says more about its client than about the server. Pure."""

from __future__ import annotations

from statistics import median

from loadtest.histogram import Times
from loadtest.run import Run

#: Of one core. A process of one thread that is busier than this queues its own work: at 70 % the mean wait in an M/D/1
#: queue is already as long as the work itself (0.7 / (2 * 0.3) = 1.17 of it).
CPU_LIMIT = 0.7
#: What the client adds to the times of its users may be so large a part of them (and it is part of every figure, since
#: times count from the intended start).
LATE_SHARE = 0.05
#: Below that nobody can be asked to be: it is what a scheduler does on a machine that also runs the server.
LATE_FLOOR_S = 0.001
_LATE_PERCENTILE = 99.0


def late_limit_s(run: Run) -> float | None:
    """5 % of the median TTFT, or of the median total where nothing streams; 1 ms where that is less.

    None: there is no good answer whose times the client could have made longer.
    """
    good = [one for one in run.measured() if one.ok]
    typical = [one.ttft_s for one in good if one.ttft_s is not None] or [one.total_s for one in good]
    return max(LATE_FLOOR_S, LATE_SHARE * median(typical)) if typical else None


def lateness_s(run: Run) -> float | None:
    """p99 of how late the client was: of its dispatch in an open loop, of its event loop in a closed one.

    In a closed loop a late client asks less, and so hides how late it is from its dispatch. None: nothing was asked.
    """
    if run.load["kind"] == "open":
        return Times.of(one.dispatch_s for one in run.measured()).percentile(_LATE_PERCENTILE)
    found = [late for client in run.clients if (late := client.lag_s.percentile(_LATE_PERCENTILE)) is not None]
    return max(found, default=None)


def limits(run: Run) -> list[str]:
    """Why the run is void, for people; nothing for a good run."""
    reasons = [
        f"the load tester was the limit: {client.name} used {client.cpu_share:.0%} of a core (limit {CPU_LIMIT:.0%}); "
        "use more processes (--processes), or more workers"
        for client in run.clients
        if client.cpu_share > CPU_LIMIT
    ]
    late, limit = lateness_s(run), late_limit_s(run)
    if late is not None and limit is not None and late > limit:
        what = "requests were sent" if run.load["kind"] == "open" else "its event loop was"
        reasons.append(
            f"the load tester was the limit: {what} {1000 * late:.1f} ms late (p99; limit {1000 * limit:.1f} ms); "
            "give it a core of its own, more processes, or less to do (beside the server, precedence: sudo chrt -f 5 …)"
        )
    return reasons
