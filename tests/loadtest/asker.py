"""Performs asks as locust's process would, on gevent, and prints the records.

`python -m tests.loadtest.asker` reads a JSON list of asks: {"target": {…}, "limits": {…}, "ask": {…}, "times": 1, "apart": true,
"kill_s": null}. All start at once; `apart: false`: one after the other, on one `Exchange`. Prints a JSON list per ask.
"""

from gevent import monkey

monkey.patch_all()

import dataclasses  # noqa: E402 - after the patch, as in locust
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from loadtest.exchange import Exchange  # noqa: E402
from loadtest.target import Limits, Target  # noqa: E402
from loadtest.workload import Ask  # noqa: E402


def _ask(data: dict[str, Any]) -> Ask:
    turns = tuple(map(_ask, data.pop("turns", ())))
    return Ask(**{"number": 0, "task": "stream", "text": "Why?", **data}, turns=turns)


def _performed(job: dict[str, Any]) -> list[dict[str, Any]]:
    exchange = Exchange(Target(**job["target"], limits=Limits(**job["limits"])))
    ask, times, records = _ask(job["ask"]), job["times"], []

    def one() -> None:
        for record in exchange.perform(ask, clock(), clock):
            records.append(dataclasses.asdict(record))

    if job["apart"]:
        asking = [gevent.spawn(one) for _ in range(times)]
        if job["kill_s"] is not None:
            gevent.sleep(job["kill_s"])
            gevent.killall(asking)
        gevent.joinall(asking, raise_error=True)
    else:
        for _ in range(times):
            one()
            gevent.sleep(job.get("pause_s", 0))
    exchange.close()
    return records


started = time.perf_counter()


def clock() -> float:
    return time.perf_counter() - started


if __name__ == "__main__":
    jobs = [gevent.spawn(_performed, job) for job in json.load(sys.stdin)]
    gevent.joinall(jobs, raise_error=True)
    print(json.dumps([job.value for job in jobs]))
