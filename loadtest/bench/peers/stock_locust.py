"""Stock locust reading streams of chat completions, as its users write it.

`locust -f loadtest/bench/peers/stock_locust.py CLASS --tokens N --found FILE …`: `Measuring` and
`FastMeasuring` fire an event for the first token and for each gap, for locust's own statistics; `Reading` and
`FastReading` only for the first token. What the statistics say, in milliseconds, goes to FILE with the tokens read.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from locust import FastHttpUser, HttpUser, events, task
from locust.env import Environment

from loadtest.bench.fidelity_script import MODEL, QUESTION

_PATH = "/v1/chat/completions"


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--found", default="")


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _keep(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    if options is None or not options.found:
        return
    entries: dict[str, Any] = {
        name: {
            "count": entry.num_requests,
            "p50_ms": entry.get_response_time_percentile(0.50),
            "p90_ms": entry.get_response_time_percentile(0.90),
            "p99_ms": entry.get_response_time_percentile(0.99),
        }
        for (name, _), entry in environment.stats.entries.items()
    }
    entries["tokens"] = sum(vars(user).get("tokens", 0) for user in environment.user_classes)
    Path(options.found).write_text(json.dumps(entries), encoding="utf-8")


def _question(environment: Environment) -> dict[str, Any]:
    assert environment.parsed_options is not None
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": environment.parsed_options.tokens,
        "stream": True,
    }


def _fire(environment: Environment, name: str, seconds: float) -> None:
    environment.events.request.fire(
        request_type="stream", name=name, response_time=1000 * seconds, response_length=0, exception=None, context={}
    )


def _read(environment: Environment, lines: Iterable[bytes], started: float, *, gaps: bool) -> int:
    """Tokens."""
    tokens, last = 0, 0.0
    for line in lines:
        if not line.startswith(b"data: "):
            continue
        now = time.perf_counter()
        data = line[6:]
        if data == b"[DONE]":
            break
        choices = json.loads(data)["choices"]
        if not choices or not choices[0]["delta"].get("content"):
            continue
        if not tokens:
            _fire(environment, "first token", now - started)
        elif gaps:
            _fire(environment, "gap", now - last)
        tokens, last = tokens + 1, now
    return tokens


class Reading(HttpUser):  # type: ignore[misc]
    gaps = False
    tokens = 0

    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        started = time.perf_counter()
        response = self.client.post(_PATH, json=_question(self.environment), stream=True, name="answer")
        tokens = _read(self.environment, response.iter_lines(), started, gaps=self.gaps)
        type(self).tokens += tokens


class Measuring(Reading):
    gaps = True
    tokens = 0


class FastReading(FastHttpUser):  # type: ignore[misc]
    gaps = False
    tokens = 0

    @task  # type: ignore[untyped-decorator]
    def ask(self) -> None:
        started = time.perf_counter()
        lines = self.client.iter_lines(_PATH, "POST", json=_question(self.environment), name="answer")
        tokens = _read(self.environment, (line.encode() for line in lines), started, gaps=self.gaps)
        type(self).tokens += tokens


class FastMeasuring(FastReading):
    gaps = True
    tokens = 0
