"""Performs asks as locust's process does, on gevent, and prints the records.

`python -m tests.loadtest.asker` reads a JSON list of jobs, which all start at once: {"target": {…}, "limits": {…},
"ask": {…}, "times": 3, "kill_s": null, "freeze_s": null, "pause_s": null, "ready_s": null}. The asks of a job share an
`Exchange`; they start together, or with `pause_s` one after the other, so long after the end of the one before.
`kill_s`: after that they are killed; `freeze_s`: so long the process does nothing once all are sent. With `ready_s`
first the target must be ready, say its model, and what it is (`said` in the records). Prints a JSON list per job: the
records, or what was wrong with the target.
"""

from gevent import monkey

monkey.patch_all()

import dataclasses  # noqa: E402 - after the patch, as in locust
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from typing import Any  # noqa: E402
from unittest.mock import patch  # noqa: E402

import gevent  # noqa: E402

from loadtest.exchange import Exchange  # noqa: E402
from loadtest.target import Limits, Target  # noqa: E402
from loadtest.transfer import Transfer  # noqa: E402
from loadtest.workload import Ask  # noqa: E402
from serving.errors import AnchorageError  # noqa: E402


def _ask(data: dict[str, Any]) -> Ask:
    turns = tuple(_ask(turn) for turn in data.pop("turns", ()))
    return Ask(**{"number": 0, "task": "stream", "text": "Why?", **data}, turns=turns)


@contextmanager
def _counted() -> Iterator[list[Transfer]]:
    """The requests that were written from now on: a transfer writes before it waits."""
    sent: list[Transfer] = []
    run = Transfer.run

    def counted(transfer: Transfer, *limits: float) -> None:
        sent.append(transfer)
        run(transfer, *limits)

    with patch.object(Transfer, "run", counted):
        yield sent


def _performed(job: dict[str, Any], clock: Callable[[], float]) -> list[dict[str, Any]]:
    exchange = Exchange(Target(**job["target"], limits=Limits(**job["limits"])))
    ask, records, said = _ask(job["ask"]), [], None
    if job["ready_s"] is not None:
        try:
            exchange.wait_ready(job["ready_s"])
            exchange.choose_model()
            said = exchange.said()
        except AnchorageError as error:
            return [{"raised": type(error).__name__, "message": str(error)}]

    def one() -> None:
        for record in exchange.perform(ask, clock(), clock):
            records.append(dataclasses.asdict(record) | {"said": said})  # noqa: PERF401 - the one before a kill, too

    if job["pause_s"] is None:
        with _counted() as sent:
            asking = [gevent.spawn(one) for _ in range(job["times"])]
            while job["freeze_s"] is not None and len(sent) < job["times"]:
                gevent.sleep(0.01)
        if job["freeze_s"] is not None:
            monkey.get_original("time", "sleep")(job["freeze_s"])
        if job["kill_s"] is not None:
            gevent.sleep(job["kill_s"])
            gevent.killall(asking)
        gevent.joinall(asking, raise_error=True)
    else:
        for _ in range(job["times"]):
            one()
            gevent.sleep(job["pause_s"])
    exchange.close()
    return records


def main() -> None:
    started = time.perf_counter()
    jobs = [gevent.spawn(_performed, job, lambda: time.perf_counter() - started) for job in json.load(sys.stdin)]
    gevent.joinall(jobs, raise_error=True)
    print(json.dumps([job.value for job in jobs]))


if __name__ == "__main__":
    main()
