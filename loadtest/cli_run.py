"""`anchorage loadtest run`: one load, held for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from loadtest import cli_on_cluster, load_options
from loadtest.extra import check_installed
from serving.cli_options import AsJson

if TYPE_CHECKING:
    from loadtest.figures import Figures


def run(
    url: load_options.Url,
    arrivals: load_options.ArrivalsSpec = None,
    users: load_options.Users = None,
    every_s: load_options.EveryS = None,
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
    """Hold one load and say what its users felt: `run http://localhost:8000 --arrivals poisson:8`.

    All times count from when a user wanted to ask, also when the load tester was late. An open loop (--arrivals) asks
    at its times whatever the server does, as users who know nothing of each other; a closed loop (--users) asks less
    of a server that is slow.
    """
    given = locals()
    check_installed()
    load = _load(arrivals, users)
    raise typer.Exit(_held(given, load))


def _load(arrivals: str | None, users: int | None) -> Mapping[str, Any]:
    """Raises typer.BadParameter."""
    from loadtest.arrivals import parse
    from serving.errors import ConfigurationError

    if (arrivals is None) == (users is None):
        raise typer.BadParameter("say how much: either --arrivals poisson:8 (requests a second) or --users 16")
    if arrivals is None:
        return {"users": users}
    try:
        parse(arrivals)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    return {"arrivals": arrivals}


def _held(given: Mapping[str, Any], load: Mapping[str, Any]) -> int:
    """The exit code. Raises AnchorageError, typer.BadParameter."""
    from rich.markup import escape

    from loadtest import cli_study
    from loadtest.figures import figures
    from loadtest.live import LiveView
    from loadtest.result_table import show_run
    from loadtest.run import Study
    from loadtest.running import Interrupted, ending_signals
    from loadtest.slo import judge

    objectives = cli_study.slo_of(given["slo"])
    live = LiveView()
    loading = cli_study.loading_of(given, live)
    duration_s, warmup_s = given["duration"], cli_study.warmup_of(given["duration"], given["warmup_s"])
    title = load.get("arrivals") or f"{load['users']} users"
    seen, ended = None, False
    try:
        with ending_signals():
            loading.check()
            with loading.watched() as seen:
                made = loading.level(title, load, duration_s=duration_s, warmup_s=warmup_s, seed=given["seed"])
    except Interrupted as early:
        made, ended = early.study, True
    except KeyboardInterrupt:
        live.say("ended; nothing was measured yet")
        return cli_study.INTERRUPTED
    asked = Study(made.runs, slo=objectives.as_json(), settings={"duration_s": duration_s})
    study = loading.finished(asked, made, seen)
    files = cli_study.kept(study, given["out"])
    (held,) = study.runs
    found = figures(held, objectives)
    verdict = judge(objectives, held, found)
    show_run(found, verdict, live.console)
    if undone := _undone(given["mix"] or "stream", load, found):
        live.say(f"[yellow]{undone}[/]")
    live.say(f"report: {escape(str(files[1]))}")
    if given["as_json"]:
        cli_study.say_json({"verdict": verdict.as_json(), "figures": found.as_json()}, files)
    if ended:
        live.say(f"ended after {held.duration_s:.0f} of {duration_s} s")
        return cli_study.INTERRUPTED
    return cli_study.VOID if verdict.void else int(not verdict.met)


def _undone(spec: str, load: Mapping[str, Any], found: Figures) -> str:
    """A sentence, where a part of the mix was not tested."""
    from loadtest.workload import mix

    tasks = ", ".join(task for task in mix(spec) if task not in found.tasks)
    if not tasks or not found.requests:
        return ""
    if "users" in load:
        return f"Nobody did {tasks} (--mix): each user does one thing all the time, and more users would."
    return f"Nobody did {tasks} (--mix): a longer run would."
