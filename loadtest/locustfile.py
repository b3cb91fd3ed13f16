"""People who ask, and requests that come by schedule. For locust, over HTTP.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000 --users 16 --spawn-rate 4 --run-time 2m
    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000 --arrivals poisson:8 --run-time 2m
    python -m loadtest.locustfile ...        # the same, where the package is installed

Without `--arrivals` a closed loop: so many users, each of whom waits for his answer. With it an open loop: requests
start at their moments, whatever became of those before. Of the figures in locust's tables `first token` (TTFT) is the
time to the first text of an answer, `answer` the time to its end, both from when the request was meant to start.
`--result FILE` keeps everything.

Exit codes: 0 all was answered, 1 there were errors, 2 the options are wrong, 4 void: the load tester was the limit.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from locust import events

from loadtest import locust_options
from loadtest.session import Session
from loadtest.users import Asker, Converser, Searcher, StreamingAsker, Uploader

__all__ = ["Asker", "Converser", "Searcher", "StreamingAsker", "Uploader"]


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # locust is untyped
def options(parser: Any) -> None:
    locust_options.add(parser)


@events.init.add_listener  # type: ignore[untyped-decorator] # locust is untyped
def prepare(environment: Any, **_: Any) -> None:
    Session(environment)


if __name__ == "__main__":
    # Another process: locust imports this file again, and would register everything twice.
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", __file__, *sys.argv[1:]])
