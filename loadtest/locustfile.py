"""People who ask, one question after the other, and read each answer as it streams. For locust, over HTTP.

    locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000 --users 16 --spawn-rate 4 --run-time 2m
    python -m loadtest.locustfile ...        # the same, where the package is installed

Of the figures, `first token` (TTFT) is the time to the first text of an answer, `answer` the time to its end. A stream
that ends without `[DONE]`, or with an error event, is a failure; locust's exit code is 1 if there was one.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant_pacing, events, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS

_QUESTIONS = Path(__file__).parent / "questions" / "kubernetes.jsonl"
_PATH = "/v1/chat/completions"
_END = "[DONE]"


class Broken(Exception):
    """A stream that was no whole answer; the message says why."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator] # locust is untyped
def options(parser: Any) -> None:
    """What a run can be told. The API key comes from ANCHORAGE_API_KEY alone: a command line is no place for it."""
    parser.add_argument("--model", default="", help="Model to ask; default: the first that the server lists.")
    parser.add_argument("--questions", default=str(_QUESTIONS), help='JSON lines, each {"question": ...}.')
    parser.add_argument("--max-tokens", type=int, default=256, help="Longest answer, tokens.")
    parser.add_argument("--every-s", type=float, default=5.0, help="Each user asks once in so many seconds.")
    parser.add_argument("--answers", type=int, default=0, help="Stop after so many; 0: when the time is over.")
    parser.add_argument("--ready-s", type=float, default=300.0, help="How long to wait for a server that starts.")
    parser.add_argument("--seed", type=int, default=1, help="Of the order of the questions.")


class Asker(FastHttpUser):  # type: ignore[misc] # locust is untyped
    """One person."""

    network_timeout = 360.0
    connection_timeout = 10.0
    _numbers = itertools.count()
    _asked = itertools.count(1)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._options = environment.parsed_options
        self._questions = _questions(Path(self._options.questions))
        self._random = random.Random(1000 * self._options.seed + next(self._numbers))
        self._model = self._options.model
        key = os.environ.get("ANCHORAGE_API_KEY")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def wait_time(self) -> float:
        """So that a slow server is asked as often as a fast one."""
        return float(constant_pacing(self._options.every_s)(self))

    def on_start(self) -> None:
        """Wait until the server is ready, and learn what can be asked."""
        deadline = time.monotonic() + self._options.ready_s
        while not self._ready():
            if time.monotonic() > deadline:
                self._end()
                raise Broken(f"{self.host} was not ready within {self._options.ready_s:g} s")
            time.sleep(1)
        if not self._model:
            self._model = self.client.get("/v1/models", headers=self._headers).json()["data"][0]["id"]

    def _ready(self) -> bool:
        with self.client.get("/readyz", catch_response=True) as reply:
            reply.success()
            return bool(reply.status_code == 200)

    @task  # type: ignore[untyped-decorator] # locust is untyped
    def ask(self) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": self._random.choice(self._questions)}],
            "max_tokens": self._options.max_tokens,
            "stream": True,
        }
        started = time.perf_counter()
        with self.client.post(
            _PATH, json=body, headers=self._headers, name="answer", stream=True, catch_response=True
        ) as reply:
            try:
                if reply.status_code != 200:
                    raise Broken(f"HTTP {reply.status_code}")
                self._read(reply, started)
            except (Broken, *FAILURE_EXCEPTIONS) as error:
                reply.failure(str(error) or type(error).__name__)
            finally:
                reply.release()
                reply.request_meta["response_time"] = 1000 * (time.perf_counter() - started)
        if next(self._asked) == self._options.answers:
            self._end()

    def _end(self) -> None:
        # By another greenlet: this one is ended, too.
        gevent.spawn(self.environment.runner.quit)

    def _read(self, reply: Any, started: float) -> None:
        """All of the stream. Raises Broken."""
        first = True
        for event in _stream(reply.stream):
            if event == _END:
                return
            data = json.loads(event)
            if "error" in data:
                raise Broken(f"the stream broke off: {data['error'].get('code')}")
            if first and any(choice["delta"].get("content") for choice in data["choices"]):
                first = False
                self._first_token(1000 * (time.perf_counter() - started))
        raise Broken(f"the stream was cut: no {_END}")

    def _first_token(self, milliseconds: float) -> None:
        self.environment.events.request.fire(
            request_type="TTFT",
            name="first token",
            response_time=milliseconds,
            response_length=0,
            exception=None,
            context={},
        )


def _stream(source: Any) -> Iterator[str]:
    """The data of server-sent events as they come; comments and other lines are left out."""
    while block := source.readline(b"\n\n"):
        for line in bytes(block).decode().splitlines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")


def _questions(path: Path) -> list[str]:
    found = [json.loads(line)["question"] for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not found:
        raise Broken(f"{path} has no questions")
    return found


if __name__ == "__main__":
    # Another process: locust imports this file again, and would register everything twice.
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", __file__, *sys.argv[1:]])
