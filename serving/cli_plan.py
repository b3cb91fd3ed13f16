"""`anchorage plan`: what a model needs, before a GPU is rented."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.cli_next import program
from serving.cli_options import AsJson
from serving.errors import ConfigurationError
from serving.planning import plan as planning
from serving.planning.count import read_shape
from serving.planning.gpus import GIB, catalogue, pick
from serving.planning.memory import WIDTHS, weight_bytes
from serving.planning.shape import Shape
from serving.planning.source import read_config

#: Longest request where nobody says, tokens: question, passages and answer have room, and the KV cache is not wasted.
_CONTEXT = 8192


def register(app: typer.Typer) -> None:
    app.command()(plan)


def plan(
    model: Annotated[str, typer.Option(help="Folder with a config.json, or a Hugging Face id.")],
    gpu: Annotated[list[str] | None, typer.Option(help="Only this GPU type. Repeatable.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of the longest request. Default: 8192.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers at a time.")] = 32,
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a typical prompt.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of a typical answer.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="Plan with weights so quantized, e.g. fp8, awq.")] = None,
    kv_dtype: Annotated[str, typer.Option("--kv-dtype", help="auto, bfloat16, fp8 ...")] = "auto",
    max_replicas: Annotated[int, typer.Option(min=1, help="Replicas that may share the answers.")] = 1,
    price: Annotated[list[str] | None, typer.Option(help="TYPE=USD an hour for one GPU. Repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which GPUs a model needs, how many, with which settings, how fast and for how much, from its config.json.

    Memory follows vLLM's own accounting; speeds are the bounds of bandwidth and arithmetic, and what to expect of them.
    Prices are assumptions: give yours. Exit code 1 when nothing fits.
    """
    shape = planning.with_quantization(read_shape(read_config(model), model), quantization)
    gpus = catalogue(_prices(price or []))
    asked = [pick(gpus, name) for name in gpu] if gpu else list(gpus.values())
    length = context or min(_CONTEXT, shape.context)
    wish = planning.Wish(
        context=length,
        concurrency=concurrency,
        prompt=prompt_tokens or length // 4,
        answer=answer_tokens or min(256, length // 8 or 1),
        max_replicas=max_replicas,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    found, misfits = planning.choices(shape, wish, asked)
    if as_json:
        sys.stdout.write(json.dumps(_json(shape, wish, found, misfits)) + "\n")
    else:
        _show(shape, wish, found, misfits)
    raise typer.Exit(0 if found else 1)


def _prices(given: list[str]) -> dict[str, float]:
    prices = {}
    for item in given:
        name, _, usd = item.partition("=")
        try:
            prices[name] = float(usd)
        except ValueError:
            raise ConfigurationError(f"--price {item}: say TYPE=USD, for example L4=0.70") from None
        if prices[name] <= 0:
            raise ConfigurationError(f"--price {item}: a price is above 0")
    return prices


def _model(shape: Shape, wish: planning.Wish) -> dict[str, Any]:
    width = WIDTHS.get(wish.dtype, 2.0)
    return {
        "name": shape.name,
        "family": shape.family,
        "parameters": shape.parameters,
        "active_parameters": shape.active,
        "weight_bytes": int(weight_bytes(shape, width)),
        "quantization": shape.quantization.method if shape.quantization else None,
        "kv_bytes_token": int(shape.kv_bytes(planning.kv_width(shape, wish))),
        "windows": sorted({kind.window for kind in shape.attention if kind.window}),
        "context": shape.context,
        "notes": list(shape.notes),
    }


def _json(
    shape: Shape, wish: planning.Wish, found: list[planning.Choice], misfits: list[planning.Misfit]
) -> dict[str, Any]:
    return {
        "model": _model(shape, wish),
        "wish": {**vars(wish)},
        "choices": [{**planning.as_json(choice), "deploy": _deploy(choice)} for choice in found],
        "misfits": [{"gpu": misfit.gpu.name, "reason": misfit.reason} for misfit in misfits],
    }


def _deploy(choice: planning.Choice) -> str:
    wish = choice.wish
    words = ["anchorage", "deploy", "--model", choice.model, "--gpus", str(choice.count)]
    words += ["--gpu", choice.gpu.name]
    words += ["--max-replicas", str(wish.max_replicas)]
    words += ["--set", f"llm.engine_args={json.dumps(choice.engine_args)}"]
    words += ["--set", f"llm.max_ongoing_requests={choice.sequences}"]
    words += ["--set", f"scaling.llm_requests={choice.carried}"]
    return shlex.join(words)


def _show(shape: Shape, wish: planning.Wish, found: list[planning.Choice], misfits: list[planning.Misfit]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    model = _model(shape, wish)
    active = f" ({shape.active / 1e9:.2f} B a token)" if shape.experts else ""
    out.print(
        f"[bold]{escape(shape.name)}[/]  {shape.family}, {shape.parameters / 1e9:.2f} B parameters{active}, "
        f"weights {model['weight_bytes'] / GIB:.1f} GiB"
        f"{' ' + model['quantization'] if model['quantization'] else ''}, "
        f"KV cache {model['kv_bytes_token'] / 1024:.0f} KiB a token, made for {shape.context:,} tokens"
    )
    out.print(
        f"for {wish.concurrency} answers at a time of {wish.context:,} tokens at most, typically "
        f"{wish.prompt:,} + {wish.answer:,}, on up to {wish.max_replicas} "
        f"replica{'s' if wish.max_replicas > 1 else ''}"
    )
    for note in shape.notes:
        out.print(f"[dim]{note}[/]")
    if found:
        out.print()
        out.print(_table(found))
        out.print(_footnotes(found[0]), style="dim")
        out.print(f"\nbest: {found[0].count} x {found[0].gpu.name} a replica. engine_args:")
        out.print(f"  {escape(json.dumps(found[0].engine_args))}")
        out.print(f"  {escape(_deploy(found[0]).replace('anchorage', program(), 1))}")
        if Path(shape.name).expanduser().exists():
            out.print("[dim]The folder is on this machine: name one that every GPU pod can read, or a hub's id.[/]")
    for misfit in misfits:
        out.print(f"[dim]not {misfit.gpu.name}: {misfit.reason}[/]")
    if not found:
        out.print(
            "[yellow]nothing fits:[/] more --max-replicas, a smaller --context or --concurrency, "
            "--kv-dtype fp8, or --quantization fp8 or awq"
        )


def _table(found: list[planning.Choice]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("GPU", "USD/h", "KV GiB", "answers", "TTFT ms", "ms/token", "tokens/s", "USD/M"):
        table.add_column(name, justify="left" if name == "GPU" else "right", no_wrap=True)
    for choice in found:
        row = planning.as_json(choice)
        table.add_row(
            f"{choice.count} x {choice.gpu.name}",
            f"{choice.usd_hour:.2f}",
            f"{choice.memory.kv * choice.count / GIB:.0f}",
            str(choice.fits_at_once),
            f"{row['first_token_expected_s'] * 1e3:.0f} ({row['first_token_bound_s'] * 1e3:.0f})",
            f"{row['step_expected_s'] * 1e3:.1f} ({row['step_bound_s'] * 1e3:.1f})",
            f"{row['output_expected_tokens_s']:,.0f}",
            f"{choice.usd_million:.2f}",
        )
    return table


def _footnotes(best: planning.Choice) -> str:
    return (
        f"GPUs and USD an hour of one replica. answers: of {best.wish.context:,} tokens at once. TTFT of an idle "
        f"engine, and time a token with {best.batch} answers at a time: expected (and least possible). tokens/s: of "
        "answers, one busy replica. USD/M: for a million of these. Prices are assumptions: see --json, override with "
        "--price."
    )
