"""When a run is void because its client was the limit."""

from __future__ import annotations

import pytest

from loadtest.client_limit import late_limit_s, lateness_s, limits
from loadtest.histogram import Times
from loadtest.record import Record
from loadtest.run import Client, Run


def run(
    kind: str = "open", *, dispatch_s: float = 0.0, ttft_s: float | None = 0.1, cpu: float = 0.1, lag_s: float = 0.0
) -> Run:
    records = [Record("stream", at / 10, dispatch_s, ttft_s, total_s=1.0) for at in range(100)]
    return Run({"kind": kind}, 10.0, records=records, clients=[Client("c", cpu, lag_s=Times.of([lag_s] * 100))])


def test_a_client_that_keeps_up_is_no_reason() -> None:
    """Late by less than 5 % of what its users wait for, at less than 70 % of a core."""
    assert limits(run(dispatch_s=0.0049, cpu=0.69)) == []
    assert limits(run("closed", lag_s=0.0049)) == []


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        (run(dispatch_s=0.0052), "requests were sent 5.2 ms late (p99; limit 5.0 ms)"),
        (run(cpu=0.71), "c used 71% of a core (limit 70%)"),
        (run("closed", lag_s=0.0052), "its event loop was 5.2 ms late"),
        (run(ttft_s=0.001, dispatch_s=0.0011), "limit 1.0 ms"),
        (run(ttft_s=None, dispatch_s=0.06), "limit 50.0 ms"),
    ],
    ids=["late", "busy", "late-loop", "floor", "no-streams"],
)
def test_a_client_that_was_the_limit_is_named(spoiled: Run, reason: str) -> None:
    """With the figure and its limit."""
    (said,) = limits(spoiled)
    assert reason in said


def test_without_a_good_answer_there_is_nothing_to_spoil() -> None:
    """A server that answers with errors alone is what such a run found."""
    failed = run(dispatch_s=1.0)
    for record in failed.records:
        record.error = "refused"
    assert late_limit_s(failed) is None
    assert limits(failed) == []
    assert lateness_s(Run({"kind": "open"}, 1.0)) is None


def test_the_warm_up_does_not_count() -> None:
    """Connections are made then."""
    warmed = run()
    warmed.warmup_s = 1.0
    for record in warmed.records[:10]:
        record.dispatch_s = 1.0
    assert limits(warmed) == []
