"""`anchorage loadtest sweep`: the highest rate that keeps the objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from loadtest import cli_on_cluster, load_options
from loadtest.extra import check_installed
from serving.cli_options import AsJson

_SEARCH = "The search"

Pattern = Annotated[
    str,
    typer.Option(
        "--arrivals",
        help="Kind of arrivals: poisson, constant, or burst:20 (so many at once).",
        rich_help_panel=_SEARCH,
    ),
]
From = Annotated[
    float | None,
    typer.Option(
        "--from", help="Requests a second to begin with; default: by a guess.", min=0.001, rich_help_panel=_SEARCH
    ),
]
To = Annotated[float | None, typer.Option("--to", help="Nothing above it.", min=0.001, rich_help_panel=_SEARCH)]
Within = Annotated[
    float,
    typer.Option("--within", help="As near as this share, 0.05 is 5 %.", min=0.005, max=0.5, rich_help_panel=_SEARCH),
]
Repeats = Annotated[
    int, typer.Option(help="Runs of a level that is too close to tell.", min=1, rich_help_panel=_SEARCH)
]
MaxMinutes = Annotated[
    float,
    typer.Option("--max-minutes", help="Ends with the best that is known then.", min=0.1, rich_help_panel=_SEARCH),
]


def sweep(
    url: load_options.Url,
    arrivals: Pattern = "poisson",
    start: From = None,
    to: To = None,
    within: Within = 0.05,
    repeats: Repeats = 4,
    max_minutes: MaxMinutes = 30.0,
    duration: load_options.DurationS = 60,
    warmup_s: load_options.WarmupS = None,
    seed: load_options.Seed = 1,
    workers: load_options.Processes = None,
    model: load_options.Model = None,
    questions: load_options.Questions = None,
    mix: load_options.Mix = None,
    prompt_tokens: load_options.PromptTokens = None,
    answer_tokens: load_options.AnswerTokens = None,
    ignore_eos: load_options.IgnoreEos = False,
    turns: load_options.Turns = None,
    zipf: load_options.Zipf = None,
    unique: load_options.Unique = False,
    collections: load_options.Collections = None,
    cold_collections: load_options.ColdCollections = None,
    cold_share: load_options.ColdShare = None,
    plain: load_options.Plain = False,
    on_cold: load_options.OnCold = None,
    connect_s: load_options.ConnectS = None,
    stall_s: load_options.StallS = None,
    timeout_s: load_options.TimeoutS = None,
    slo: load_options.SloFile = None,
    out: load_options.Out = None,
    as_json: AsJson = False,
    on_cluster: cli_on_cluster.OnCluster = False,
    cluster: cli_on_cluster.WithCluster = False,
    namespace: cli_on_cluster.Namespace = "anchorage",
    context: cli_on_cluster.Context = None,
    kubeconfig: cli_on_cluster.Kubeconfig = None,
    image: cli_on_cluster.Image = "",
    keep: cli_on_cluster.Keep = False,
    gpu: load_options.Gpu = "",
    gpu_price: load_options.GpuPrice = None,
) -> None:
    """Find the highest rate that keeps the objectives, with few runs: `sweep http://localhost:8000`.

    Each level is held for --duration seconds; levels near the answer are repeated with other seeds, and the answer is
    held again with fresh ones. Between levels the server comes to rest. Ended early (Ctrl-C, --max-minutes), it says
    what it knows, and how surely.
    """
    given = locals()
    check_installed()
    raise typer.Exit(_swept(given))


def _swept(given: Mapping[str, Any]) -> int:
    """The exit code. Raises AnchorageError, typer.BadParameter."""
    from rich.markup import escape

    from loadtest import cli_study, sweeping
    from loadtest.live import LiveView
    from loadtest.result_table import found_line
    from loadtest.running import ending_signals, unbroken

    plan, objectives = _plan(given), cli_study.slo_of(given["slo"])
    live = LiveView()
    loading = cli_study.loading_of(given, live)
    work = sweeping.Sweeping(plan, objectives, loading)
    interrupted = False
    with ending_signals(), loading.watched() as seen:
        try:
            loading.check()
            work.run()
        except KeyboardInterrupt:
            interrupted, work.ended = True, "it was ended by hand"
    found = work.found()
    if found is None or work.first is None:
        live.say("ended; nothing was kept")
        return cli_study.INTERRUPTED
    with unbroken():
        study = work.study
        study.slo, study.found, study.settings = objectives.as_json(), found.as_json(), sweeping.settings(plan)
        files = cli_study.kept(loading.finished(study, work.first, seen), given["out"])
    live.say(found_line(found))
    live.say(f"report: {escape(str(files[1]))}")
    if given["as_json"]:
        cli_study.say_json({"found": found.as_json()}, files)
    if interrupted:
        return cli_study.INTERRUPTED
    if found.limited:
        return cli_study.VOID
    return 1 if found.rate is None else 0 if found.sure else cli_study.UNSURE


def _plan(given: Mapping[str, Any]) -> Any:
    """A `loadtest.sweeping.Plan`. Raises typer.BadParameter."""
    from loadtest.arrivals import parse
    from loadtest.cli_study import warmup_of
    from loadtest.sweeping import Plan
    from serving.errors import ConfigurationError

    kind, _, size = given["arrivals"].partition(":")
    pattern = f"{kind}:{{rate}},{size}" if size else f"{kind}:{{rate}}"
    if kind not in ("poisson", "constant", "burst"):
        raise typer.BadParameter(
            f"--arrivals {given['arrivals']}: poisson, constant or burst:20; the sweep sets the rate"
        )
    try:
        parse(pattern.format(rate=1))
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    start, to, duration_s = given["start"], given["to"], given["duration"]
    if start is not None and to is not None and start > to:
        raise typer.BadParameter(f"--from {start:g} is above --to {to:g}")
    return Plan(
        arrivals=pattern,
        duration_s=duration_s,
        warmup_s=warmup_of(duration_s, given["warmup_s"]),
        seed=given["seed"],
        budget_s=60 * given["max_minutes"],
        within=given["within"],
        repeats=given["repeats"],
        start=start,
        highest=to if to is not None else float("inf"),
    )
