"""The options of `anchorage loadtest run` and `sweep`, and locust's arguments made of them.

Each is called as in locust (`loadtest.locust_options`); where one has no value, locust's own stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from loadtest.target import Target
from serving.errors import ConfigurationError

_LOAD, _ASKED, _PATIENCE, _OUTPUT = "The load", "What is asked", "How long users wait", "Output"


def _option(panel: str, text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **bounds)


Url: TypeAlias = Annotated[str, typer.Argument(help="The server, such as http://localhost:8000.")]
ArrivalsSpec: TypeAlias = Annotated[
    str | None,
    _option(
        _LOAD,
        "Open loop, requests a second: poisson:8, constant:8, burst:8,20, ramp:1-20, steps:2,4,8, trace:FILE,x2.",
        "--arrivals",
    ),
]
Users: TypeAlias = Annotated[
    int | None, _option(_LOAD, "Closed loop instead: users who wait for their answer before they ask again.", min=1)
]
EveryS: TypeAlias = Annotated[
    float | None, _option(_LOAD, "Closed loop: each user asks once in so many seconds; default 5.", "--every-s", min=0)
]
DurationS: TypeAlias = Annotated[int, _option(_LOAD, "Seconds of load, warm-up included.", "--duration", min=2)]
WarmupS: TypeAlias = Annotated[
    int | None,
    _option(_LOAD, "Whole seconds at the start that do not count; default: a tenth.", "--warmup-s", min=0),
]
Seed: TypeAlias = Annotated[int, _option(_LOAD, "Of everything that is drawn.")]
Processes: TypeAlias = Annotated[
    int | None,
    _option(
        _LOAD,
        "Processes that ask, with a core each; default 1. With --on-cluster: pods; default 2.",
        "--workers",
        min=1,
        max=1000,
    ),
]

Model: TypeAlias = Annotated[str | None, _option(_ASKED, "Default: the first that the server lists.")]
Questions: TypeAlias = Annotated[
    Path | None,
    _option(_ASKED, 'JSON lines, {"question": …}; default: 80 about the handbook.', exists=True, dir_okay=False),
]
Mix: TypeAlias = Annotated[
    str | None, _option(_ASKED, "Tasks by weight: stream=8,ask=1,turn=1,search=1,upload=1; default: stream.")
]
PromptTokens: TypeAlias = Annotated[
    str | None, _option(_ASKED, "64, uniform:32-256 or lognormal:128,0.5; default: as the questions are.")
]
AnswerTokens: TypeAlias = Annotated[str | None, _option(_ASKED, "Longest answer, alike; default: 256.")]
IgnoreEos: TypeAlias = Annotated[
    bool, _option(_ASKED, "All answers as long as they may be (vLLM's ignore_eos).", "--ignore-eos")
]
Turns: TypeAlias = Annotated[int | None, _option(_ASKED, "Questions of a conversation; default: 3.", min=1)]
Zipf: TypeAlias = Annotated[
    float | None, _option(_ASKED, "Popularity of questions by Zipf's law; 0: all alike.", min=0)
]
Unique: TypeAlias = Annotated[
    bool, _option(_ASKED, "No two prompts alike: nothing comes from a prefix cache.", "--unique")
]
Collections: TypeAlias = Annotated[str | None, _option(_ASKED, "By comma; default: the server's.")]
ColdCollections: TypeAlias = Annotated[str | None, _option(_ASKED, "That nobody else asks, by comma.")]
ColdShare: TypeAlias = Annotated[
    float | None, _option(_ASKED, "Share of the requests that go to the cold ones.", min=0, max=1)
]
Plain: TypeAlias = Annotated[
    bool, _option(_ASKED, "Another OpenAI-compatible server: send nothing of our own.", "--plain")
]
OnCold: TypeAlias = Annotated[
    Literal["wait", "extractive", "reject"] | None, _option(_ASKED, "What is wanted while no LLM is ready.")
]

ConnectS: TypeAlias = Annotated[
    float | None, _option(_PATIENCE, "For a connection; default 10.", "--connect-s", min=0.001)
]
StallS: TypeAlias = Annotated[float | None, _option(_PATIENCE, "Without a byte; default 60.", "--stall-s", min=0.001)]
TimeoutS: TypeAlias = Annotated[
    float | None, _option(_PATIENCE, "For a whole request; default 360.", "--timeout-s", min=0.001)
]

SloFile: TypeAlias = Annotated[
    Path | None,
    _option(_OUTPUT, "Objectives, slo.toml; default: p95 TTFT 2 s, …", "--slo", exists=True, dir_okay=False),
]
Out: TypeAlias = Annotated[
    Path | None,
    _option(
        _OUTPUT, "Folder for result.json and report.html; default: loadtest-results/TIME.", "--out", file_okay=False
    ),
]

Gpu: TypeAlias = Annotated[
    str, _option(_OUTPUT, "Type of the cluster's GPUs, for the cost; default: as its nodes say.")
]
GpuPrice: TypeAlias = Annotated[
    float | None, _option(_OUTPUT, "USD for an hour of one GPU; default: the list price.", "--gpu-price", min=0)
]

#: What goes to locust under its own name.
_PASSED = (
    "every_s",
    "model",
    "questions",
    "mix",
    "prompt_tokens",
    "answer_tokens",
    "turns",
    "zipf",
    "unique",
    "collections",
    "cold_collections",
    "cold_share",
    "plain",
    "on_cold",
    "ignore_eos",
    "connect_s",
    "stall_s",
    "timeout_s",
)


def passed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's values, those that locust is told and that were given."""
    values = {name: given.get(name) for name in _PASSED}
    return {name: value for name, value in values.items() if value is not None and value is not False}


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


def target_of(url: str, model: str | None, api_key: str, plain: bool) -> Target:
    """Raises typer.BadParameter for an address that is none."""
    try:
        return Target(url, model or "", api_key, plain)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
