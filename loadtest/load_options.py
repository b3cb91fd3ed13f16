"""The options of `anchorage loadtest run` and `sweep`, and locust's arguments made of them.

Each is called as in locust (`loadtest.locust_options`); where one has no value, locust's own stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from serving.cli_options import AsJson

LOAD, _ASKED, _PATIENCE, OUTPUT = "The load", "What is asked", "How long users wait", "Output"


def option(panel: str, text: str, *names: str, **bounds: Any) -> Any:
    """Of typer, in the panel of `--help`."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **bounds)


Url: TypeAlias = Annotated[str, typer.Argument(help="The server, such as http://localhost:8000.")]
ArrivalsSpec: TypeAlias = Annotated[
    str | None,
    option(
        LOAD,
        "Open loop, requests a second: poisson:8, constant:8, burst:8,20, ramp:1-20, steps:2,4,8, trace:FILE,x2.",
        "--arrivals",
    ),
]
Users: TypeAlias = Annotated[
    int | None, option(LOAD, "Closed loop instead: users who wait for their answer before they ask again.", min=1)
]
EveryS: TypeAlias = Annotated[
    float | None, option(LOAD, "Closed loop: each user asks once in so many seconds; default 5.", "--every-s", min=0)
]


@dataclass(frozen=True)
class Lasting:
    """How long a load is held, and by which luck."""

    duration: Annotated[int, option(LOAD, "Seconds of load, warm-up included.", "--duration", min=2)] = 60
    warmup_s: Annotated[
        int | None,
        option(LOAD, "Whole seconds at the start that do not count; default: a tenth.", "--warmup-s", min=0),
    ] = None
    seed: Annotated[int, option(LOAD, "Of everything that is drawn.")] = 1

    @property
    def warm_s(self) -> int:
        """A tenth of it, at least a second, unless it was given. Raises typer.BadParameter."""
        if self.warmup_s is None:
            return max(1, self.duration // 10)
        if self.warmup_s >= self.duration:
            raise typer.BadParameter(f"--warmup-s {self.warmup_s} leaves nothing of --duration {self.duration}")
        return self.warmup_s


@dataclass(frozen=True)
class Result:
    """How it is judged, and where what was found goes."""

    slo: Annotated[
        Path | None,
        option(OUTPUT, "Objectives, slo.toml; default: p95 TTFT 2 s, …", "--slo", exists=True, dir_okay=False),
    ] = None
    out: Annotated[
        Path | None,
        option(
            OUTPUT, "Folder for result.json and report.html; default: loadtest-results/TIME.", "--out", file_okay=False
        ),
    ] = None
    as_json: AsJson = False


@dataclass(frozen=True)
class Asked:
    """What is asked, and how patiently: options that go to locust under their own names."""

    model: Annotated[str | None, option(_ASKED, "Default: the first that the server lists.")] = None
    questions: Annotated[
        Path | None,
        option(_ASKED, 'JSON lines, {"question": …}; default: 80 about the handbook.', exists=True, dir_okay=False),
    ] = None
    mix: Annotated[
        str | None, option(_ASKED, "Tasks by weight: stream=8,ask=1,turn=1,search=1,upload=1; default: stream.")
    ] = None
    prompt_tokens: Annotated[
        str | None, option(_ASKED, "64, uniform:32-256 or lognormal:128,0.5; default: as the questions are.")
    ] = None
    answer_tokens: Annotated[str | None, option(_ASKED, "Longest answer, alike; default: 256.")] = None
    ignore_eos: Annotated[
        bool, option(_ASKED, "All answers as long as they may be (vLLM's ignore_eos).", "--ignore-eos")
    ] = False
    turns: Annotated[int | None, option(_ASKED, "Questions of a conversation; default: 3.", min=1)] = None
    zipf: Annotated[float | None, option(_ASKED, "Popularity of questions by Zipf's law; 0: all alike.", min=0)] = None
    unique: Annotated[bool, option(_ASKED, "No two prompts alike: nothing comes from a prefix cache.", "--unique")] = (
        False
    )
    collections: Annotated[str | None, option(_ASKED, "By comma; default: the server's.")] = None
    cold_collections: Annotated[str | None, option(_ASKED, "That nobody else asks, by comma.")] = None
    cold_share: Annotated[
        float | None, option(_ASKED, "Share of the requests that go to the cold ones.", min=0, max=1)
    ] = None
    plain: Annotated[bool, option(_ASKED, "Another OpenAI-compatible server: send nothing of our own.", "--plain")] = (
        False
    )
    on_cold: Annotated[
        Literal["wait", "extractive", "reject"] | None, option(_ASKED, "What is wanted while no LLM is ready.")
    ] = None
    connect_s: Annotated[float | None, option(_PATIENCE, "For a connection; default 10.", "--connect-s", min=0.001)] = (
        None
    )
    stall_s: Annotated[float | None, option(_PATIENCE, "Without a byte; default 60.", "--stall-s", min=0.001)] = None
    timeout_s: Annotated[
        float | None, option(_PATIENCE, "For a whole request; default 360.", "--timeout-s", min=0.001)
    ] = None

    def given(self) -> dict[str, Any]:
        """Those that have a value."""
        return {name: value for name, value in vars(self).items() if value is not None and value is not False}


def arguments(
    url: str, options: Mapping[str, Any], load: Mapping[str, Any], *, duration_s: int, warmup_s: int, seed: int
) -> list[str]:
    """For `python -m loadtest.locustfile`. `load`: {"arrivals": SPEC} or {"users": N}."""
    named = {
        "host": url,
        "run_time": f"{duration_s}s",
        "warmup_s": warmup_s,
        "seed": seed,
        **options,
        **load,
    }
    if "users" in load:
        # All at once: how they come is not what is measured.
        named["spawn_rate"] = load["users"]
    return [
        f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
        for name, value in named.items()
    ]
