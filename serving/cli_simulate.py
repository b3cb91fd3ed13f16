"""`anchorage simulate`: what settings cost and how long they keep people waiting, before money is spent."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from serving.cli_options import AsJson, read_settings
from serving.errors import ConfigurationError
from serving.planning import against, knobs, plot
from serving.planning import plan as planning
from serving.planning import study as studies
from serving.planning.count import read_shape
from serving.planning.gpus import catalogue, pick
from serving.planning.setup import Policy, Setup
from serving.planning.source import read_config
from serving.planning.trace import KINDS, Recipe, Trace, make_trace, read_trace, write_trace
from serving.settings import OnCold

_POLICIES: tuple[Policy, ...] = get_args(Policy)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    trace: Annotated[str, typer.Option(help=f"A .csv or .jsonl file, or one of: {', '.join(KINDS)}.")] = "burst",
    rate: Annotated[float, typer.Option(min=1e-6, help="Requests a second of a made trace.")] = 1.0,
    duration: Annotated[str, typer.Option(help="Length of a made trace: 90m, 2h, 1d.")] = "2h",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of its prompts on average.")] = 2048,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of its answers on average.")] = 256,
    save_trace: Annotated[Path | None, typer.Option(help="Write the trace to this .csv or .jsonl file.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help=f"Only this: {', '.join(_POLICIES)}. Repeatable.")] = None,
    model: Annotated[str | None, typer.Option(help="Take the engine's speed from the plan for this model ...")] = None,
    gpu: Annotated[str | None, typer.Option(help="... on this GPU type.")] = None,
    on_cold: Annotated[str | None, typer.Option(help="extractive, wait or reject, while no replica is ready.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE. Repeatable; see --list.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw it: an .svg or .html file.")] = None,
    against_file: Annotated[
        Path | None, typer.Option("--against", help="Compare with a real run: what `anchorage rehearse --json` wrote.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say what can be set, to what it is set, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay requests against the rules of Serve, Ray's autoscaler and the cloud: replicas, nodes, waiting, cost.

    Our scaling rule, Serve's own with its defaults, and a scaler that knows what will come, side by side. Scaling
    settings come from the environment (ANCHORAGE_SCALING__...), delays from their sources (--list).
    """
    if against_file is not None:
        _against(against_file, seed, as_json)
        return
    setup = _setup(model, gpu, on_cold, seed, (prompt_tokens, answer_tokens))
    setup = knobs.turn(setup, set_ or [])
    if list_:
        _list(setup, as_json)
        return
    recipe = Recipe(rate, _seconds(duration), prompt_tokens, answer_tokens)
    requests = _trace(trace, recipe, seed, save_trace)
    setup = setup.model_copy(update={"tick_s": studies.tick_of(requests, setup)})
    outcomes = studies.study(requests, setup, _policies(policy))
    if plot_file is not None:
        plot.draw(outcomes, plot_file)
    if as_json:
        sys.stdout.write(json.dumps(studies.as_json(outcomes, setup)) + "\n")
    else:
        _show(requests, setup, studies.results(outcomes))


def _policies(asked: list[str] | None) -> list[Policy]:
    if wrong := sorted(set(asked or []) - set(_POLICIES)):
        raise ConfigurationError(f"--policy {wrong[0]}: there are {', '.join(_POLICIES)}")
    return [policy for policy in _POLICIES if not asked or policy in asked]


def _seconds(text: str) -> float:
    try:
        value = float(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 366 * 86400:
        raise ConfigurationError(f"--duration {text}: say a number with s, m, h or d")
    return value


def _trace(name: str, recipe: Recipe, seed: int, save: Path | None) -> Trace:
    requests = make_trace(name, recipe, seed) if name in KINDS or "." not in name else read_trace(Path(name))
    if not len(requests):
        raise ConfigurationError("the trace has no requests: a higher --rate or a longer --duration makes some")
    if save is not None:
        try:
            write_trace(requests, save)
        except OSError as error:
            raise ConfigurationError(f"--save-trace {save}: {error}") from error
    return requests


def _setup(model: str | None, gpu: str | None, on_cold: str | None, seed: int, lengths: tuple[int, int]) -> Setup:
    settings = read_settings()
    values: dict[str, Any] = {
        "min_replicas": settings.llm.min_replicas if "min_replicas" in settings.llm.model_fields_set else 0,
        "max_replicas": settings.llm.max_replicas if "max_replicas" in settings.llm.model_fields_set else 4,
        "max_ongoing": settings.llm.max_ongoing_requests,
        "on_cold": on_cold or settings.llm.on_cold,
        "deadline_s": settings.api.deadline_s,
        "drain_s": settings.api.deadline_s + 10,
        "scaling": settings.scaling,
        "seed": seed,
    }
    if on_cold is not None and on_cold not in get_args(OnCold):
        raise ConfigurationError(f"--on-cold {on_cold}: there are {', '.join(get_args(OnCold))}")
    if (model is None) != (gpu is None):
        raise ConfigurationError("--model and --gpu go together: the speed of a model depends on the GPU")
    if model is not None and gpu is not None:
        values |= _planned(model, gpu, lengths, settings.scaling)
    return knobs.made(values)


def _planned(model: str, gpu: str, lengths: tuple[int, int], scaling: Any) -> dict[str, Any]:
    """Engine, GPUs, price and target of one replica as `anchorage plan` has them."""
    shape = read_shape(read_config(model), model)
    prompt, answer = lengths
    wish = planning.Wish(min(shape.context, 2 * (prompt + answer)), concurrency=1, prompt=prompt, answer=answer)
    found, misfits = planning.choices(shape, wish, [pick(catalogue(), gpu)])
    if not found:
        raise ConfigurationError(f"{model} does not fit {gpu}: {misfits[0].reason}")
    choice = found[0]
    if "llm_requests" not in scaling.model_fields_set:
        scaling = scaling.model_copy(update={"llm_requests": float(choice.carried)})
    return {
        "engine": studies.rates_of(choice),
        "gpus": choice.count,
        "nodes": {"gpus": choice.count},
        "usd_gpu_hour": choice.gpu.usd_hour,
        "max_ongoing": choice.sequences,
        "scaling": scaling,
    }


_ROWS = (
    ("answered by the LLM", "llm", "{:,}"),
    ("extractive", "extractive", "{:,}"),
    ("rejected", "rejected", "{:,}"),
    ("failed (deadline)", "failed", "{:,}"),
    ("asked while cold", "cold", "{:,}"),
    ("TTFT p50, s", "ttft_s.p50", "{:.2f}"),
    ("TTFT p95, s", "ttft_s.p95", "{:.2f}"),
    ("TTFT p99, s", "ttft_s.p99", "{:.2f}"),
    ("waiting at most", "waiting_most", "{:,}"),
    ("replicas at most", "replicas_most", "{}"),
    ("nodes at most", "nodes_most", "{}"),
    ("flaps", "flaps", "{}"),
    ("GPU hours", "gpu_hours", "{:.2f}"),
    ("USD", "usd", "{:.2f}"),
    ("against all-knowing", "against_known", "{:.2f}x"),
)


def _show(trace: Trace, setup: Setup, found: Mapping[str, Mapping[str, Any]]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print(
        f"[bold]{trace.name}[/]  {len(trace):,} requests in {trace.end_s / 3600:.2f} h, {setup.min_replicas} to "
        f"{setup.max_replicas} replicas, cold: {setup.on_cold}, a start from zero takes up to "
        f"{setup.longest_start_s:.0f} s"
    )
    table = Table("", *found, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for title, name, form in _ROWS:
        cells = [_figure(figures, name) for figures in found.values()]
        if any(cell is not None for cell in cells):
            table.add_row(title, *("-" if cell is None else form.format(cell) for cell in cells))
    out.print(table)
    out.print(
        "[dim]serve: Ray Serve's rule with its defaults. known: knows what will come, pays the same start-up. flaps: "
        "turns within ten minutes. --list: every delay and its source.[/]"
    )


def _figure(figures: Mapping[str, Any], name: str) -> Any:
    first, _, rest = name.partition(".")
    return figures[first][rest] if rest else figures[first]


def _list(setup: Setup, as_json: bool) -> None:
    rows = list(knobs.knobs(setup))
    if as_json:
        sys.stdout.write(json.dumps({name: {"value": value, "about": about} for name, value, about in rows}) + "\n")
        return
    table = Table("name", "value", "what it is", box=None, pad_edge=False, header_style="bold")
    for name, value, about in rows:
        table.add_row(name, "none" if value is None else str(value), about)
    Console(highlight=False).print(table)


def _against(path: Path, seed: int, as_json: bool) -> None:
    found = against.compare(against.read_run(path), seed)
    if as_json:
        sys.stdout.write(json.dumps(found.as_json()) + "\n")
        return
    out = Console(highlight=False, soft_wrap=True)
    table = Table("seconds after its cause", "real", "simulated", "of", "off", box=None, pad_edge=False)
    for moment in found.moments:
        cells = [f"{value:.1f}" if value is not None else "-" for value in (moment.real_s, moment.simulated_s)]
        spread = f"{moment.spread_s[0]:.1f}-{moment.spread_s[1]:.1f}" if moment.spread_s else ""
        table.add_row(moment.name, *cells, spread, f"{moment.error:.0%}" if moment.error is not None else "")
    out.print(table)
    for name, (real, ours) in found.counts.items():
        if real or ours:
            out.print(f"{name}: {real} real, {ours} simulated")
    out.print(f"replicas serving at most: {found.most_ready[0]} real, {found.most_ready[1]} simulated")
    figures = found.as_json()
    if figures["error_median"] is not None:
        out.print(
            f"[bold]off by {figures['error_median']:.0%} ({figures['off_s_median']:.1f} s) on the median, "
            f"{figures['error_most']:.0%} at most[/]; {figures['within']} of {figures['compared']} times lie in the "
            "range that the unknown clocks of the controllers leave"
        )
    for name in found.not_simulated:
        out.print(
            f"[yellow]the run had a {name.replace('_', ' ')}, which is not simulated: later times differ by it[/]"
        )
