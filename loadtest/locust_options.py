"""What a run can be told beyond locust's own options, and what it means. Pure; the API key comes from the environment
alone: a command line is no place for it."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtest import arrivals
from loadtest.arrivals import Arrivals
from loadtest.question_file import HANDBOOK
from loadtest.target import Limits, Target
from loadtest.workload import Options
from serving.errors import ConfigurationError

KEY = "ANCHORAGE_API_KEY"
#: Seconds for answers that are under way when the time is over (locust's own default is none).
STOP_TIMEOUT_S = 60.0
#: For a server that starts.
READY_S = 300.0
#: What a result keeps of the options: ours, then what of locust's own makes the load.
_KEPT = (
    *("arrivals", "mix", "every_s", "answers", "warmup_s", "num_users", "spawn_rate", "stop_timeout", "processes"),
    *("questions", "seed", "salt", "zipf", "prompt_tokens", "answer_tokens", "turns", "unique"),
    *("collections", "cold_collections", "cold_share", "model", "plain", "on_cold", "ignore_eos"),
    *("ready_s", "connect_s", "stall_s", "timeout_s"),
)


@dataclass(frozen=True)
class Settings:
    """Of one run. `arrivals`: None for a closed loop. `duration_s`: None until somebody ends it."""

    target: Target
    workload: Options
    arrivals: Arrivals | None
    duration_s: float | None
    warmup_s: int
    every_s: float
    answers: int
    ready_s: float
    users: int
    result: Path | None
    progress: Path | None

    @classmethod
    def of(cls, options: Namespace, host: str | None, duration_s: float | None) -> Settings:
        """Raises ConfigurationError that names the option."""
        if not host:
            raise ConfigurationError("--host is missing: the URL of the server, such as http://localhost:8000")
        for name in ("every_s", "answers", "ready_s", "warmup_s"):
            if getattr(options, name) < 0:
                raise ConfigurationError(f"--{name.replace('_', '-')} must not be below 0")
        return cls(
            target=Target(
                host,
                options.model,
                os.environ.get(KEY, ""),
                options.plain,
                options.on_cold or None,
                Limits(options.connect_s, options.stall_s, options.timeout_s),
                options.ignore_eos,
            ),
            workload=_workload(options),
            arrivals=arrivals.parse(options.arrivals) if options.arrivals else None,
            duration_s=duration_s,
            warmup_s=options.warmup_s,
            every_s=options.every_s,
            answers=options.answers,
            ready_s=options.ready_s,
            users=options.num_users or 1,
            result=Path(options.result) if options.result else None,
            progress=Path(options.progress) if options.progress else None,
        )

    def check(self) -> None:
        """Of whoever keeps the result, and knows how long the run is: a worker does not. Raises ConfigurationError."""
        if self.arrivals and not self.duration_s:
            raise ConfigurationError("--arrivals needs --run-time: a schedule has a length")
        if self.duration_s and self.warmup_s >= self.duration_s:
            raise ConfigurationError(f"--warmup-s {self.warmup_s} leaves nothing of --run-time {self.duration_s:g}s")
        if self.result and not os.access(self.result.parent, os.W_OK):
            raise ConfigurationError(f"--result {self.result} cannot be written: no such folder, or not yours")

    def load(self) -> dict[str, Any]:
        """As `Run.load` has it."""
        if self.arrivals is None:
            return {"kind": "closed", "users": self.users, "every_s": self.every_s, "rate": None}
        rate = self.arrivals.rate(self.duration_s or 1.0)
        return {"kind": "open", "arrivals": self.arrivals.spec, "rate": rate}


def as_kept(options: Namespace) -> dict[str, Any]:
    """For `Study.settings`."""
    return {name: getattr(options, name) for name in _KEPT}


def add(parser: Any) -> None:
    """To locust's parser. What names files or decides which users there are cannot be changed on the web page."""
    group = parser.add_argument_group("Anchorage's load test")
    fixed, add_argument = (partial(_add, group, on_web_page) for on_web_page in (False, True))
    fixed("--arrivals", default="", help="Open loop: constant:R poisson:R burst:R,N ramp:R1-R2 steps:R1,R2 trace:FILE.")
    fixed("--mix", default="stream", help="What users do, by weight: stream=8,ask=1,turn=1,search=1,upload=1.")
    fixed("--questions", default=str(HANDBOOK), help='JSON lines, each {"question": ...}.')
    fixed("--result", default="", help="Write what was measured to this file.")
    fixed("--progress", default="", help="Write a line of JSON to this file each second.")
    add_argument("--model", default="", help="Model to ask; default: the first that the server lists.")
    add_argument("--plain", action="store_true", help="Another OpenAI-compatible server: send nothing of our own.")
    add_argument("--on-cold", default="", help="What is wanted while no LLM is ready: wait, extractive, reject.")
    add_argument("--warmup-s", type=int, default=0, help="Whole seconds at the start that do not count.")
    add_argument("--every-s", type=float, default=5.0, help="Closed loop: each user asks once in so many seconds.")
    add_argument("--answers", type=int, default=0, help="Stop after so many; 0: when the time is over.")
    add_argument("--ready-s", type=float, default=READY_S, help="How long to wait for a server that starts.")
    add_argument("--seed", type=int, default=1, help="Of everything that is drawn.")
    add_argument("--salt", default="", help="Makes unique texts unique; default: another in each run.")
    add_argument("--zipf", type=float, default=0.0, help="Popularity of questions by Zipf's law; 0: all alike.")
    add_argument("--prompt-tokens", default="", help="64, uniform:32-256 or lognormal:128,0.5; default: as they are.")
    add_argument("--answer-tokens", "--max-tokens", default="", help="Longest answer, alike; default: 256.")
    add_argument("--ignore-eos", action="store_true", help="All answers as long as they may be (vLLM's ignore_eos).")
    add_argument("--turns", type=int, default=3, help="Questions of a conversation.")
    add_argument("--collections", default="", help="Asked by turns, by comma; default: the server's.")
    add_argument("--cold-collections", default="", help="Collections that nobody else asks, by comma.")
    add_argument("--cold-share", type=float, default=0.0, help="Share of the requests that go to the cold ones.")
    add_argument("--unique", action="store_true", help="No two prompts alike: nothing comes from a prefix cache.")
    add_argument("--connect-s", type=float, default=10.0, help="Longest time to a connection.")
    add_argument("--stall-s", type=float, default=60.0, help="Longest time without a byte.")
    add_argument("--timeout-s", type=float, default=360.0, help="Longest time for a request.")
    parser.set_defaults(stop_timeout=STOP_TIMEOUT_S)


def _add(group: Any, on_web_page: bool, *names: str, **rest: Any) -> None:
    # What locust's own `add_argument` would do: a group has argparse's.
    action = group.add_argument(*names, **rest)
    action.include_in_web_ui = on_web_page
    action.is_secret = action.is_required = action.is_multiple = False


def _workload(options: Namespace) -> Options:
    return Options(
        questions=Path(options.questions),
        seed=options.seed,
        mix=options.mix,
        zipf=options.zipf,
        prompt_tokens=options.prompt_tokens,
        answer_tokens=options.answer_tokens,
        turns=options.turns,
        collections=names(options.collections),
        cold_collections=names(options.cold_collections),
        cold_share=options.cold_share,
        unique=options.unique,
        salt=options.salt,
    )


def names(text: str) -> tuple[str, ...]:
    """Of a list by comma."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
