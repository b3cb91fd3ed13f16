"""`anchorage loadtest run`: one load, held for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from loadtest import cli_on_cluster, load_options
from loadtest.extra import check_installed

if TYPE_CHECKING:
    from loadtest.cli_study import Loading
    from loadtest.figures import Figures
    from loadtest.slo import Slo


def run(
    url: load_options.Url,
    *,
    asked: load_options.Asked,
    where: cli_on_cluster.Where,
    lasting: load_options.Lasting,
    result: load_options.Result,
    arrivals: load_options.ArrivalsSpec = None,
    users: load_options.Users = None,
    every_s: load_options.EveryS = None,
) -> None:
    """Hold one load and say what its users felt: `run http://localhost:8000 --arrivals poisson:8`.

    All times count from when a user wanted to ask, also when the load tester was late. An open loop (--arrivals) asks
    at its times whatever the server does, as users who know nothing of each other; a closed loop (--users) asks less
    of a server that is slow.
    """
    check_installed()
    from loadtest.cli_study import loading_of, slo_of
    from loadtest.live import LiveView

    load = _load(arrivals, users, every_s)
    held = {"duration_s": lasting.duration, "warmup_s": lasting.warm_s, "seed": lasting.seed}
    objectives = slo_of(result.slo)
    loading = loading_of(url, asked, where, LiveView(), seed=lasting.seed, out=result.out)
    raise typer.Exit(_held(load, held, loading, objectives, asked.mix or "stream", result))


def _load(arrivals: str | None, users: int | None, every_s: float | None) -> Mapping[str, Any]:
    """Raises typer.BadParameter."""
    from loadtest.arrivals import parse
    from serving.errors import ConfigurationError

    if (arrivals is None) == (users is None):
        raise typer.BadParameter("say how much: either --arrivals poisson:8 (requests a second) or --users 16")
    if arrivals is None:
        return {"users": users} if every_s is None else {"users": users, "every_s": every_s}
    if every_s is not None:
        raise typer.BadParameter("--every-s is for --users: with --arrivals the schedule says when somebody asks")
    try:
        parse(arrivals)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    return {"arrivals": arrivals}


def _held(
    load: Mapping[str, Any],
    held: Mapping[str, int],
    loading: Loading,
    objectives: Slo,
    mix: str,
    result: load_options.Result,
) -> int:
    """The exit code. `held`: for how long, see `Loading.level`. Raises AnchorageError, typer.BadParameter."""
    from rich.markup import escape

    from loadtest import cli_study
    from loadtest.figures import figures
    from loadtest.result_table import show_run
    from loadtest.run import Study
    from loadtest.running import Interrupted, ending_signals
    from loadtest.scaling import around
    from loadtest.slo import judge

    live, duration_s = loading.live, held["duration_s"]
    title = load.get("arrivals") or f"{load['users']} users"
    seen, ended = None, False
    try:
        with ending_signals():
            loading.check()
            with loading.watched() as seen:
                made = loading.level(title, load, **held)
    except Interrupted as early:
        made, ended = early.study, True
    except KeyboardInterrupt:
        live.say("ended; nothing was measured yet")
        return cli_study.INTERRUPTED
    asked = Study(made.runs, slo=objectives.as_json(), settings={"duration_s": duration_s})
    study = loading.finished(asked, made, seen)
    files = cli_study.kept(study, result.out)
    (run,) = study.runs
    found, scaled = figures(run, objectives), around(run)
    verdict = judge(objectives, run, found)
    show_run(found, verdict, live.console)
    for told in filter(None, (scaled.said(), _undone(mix, load, found))):
        live.say(f"[yellow]{told}[/]")
    live.say(f"report: {escape(str(files[1]))}")
    if result.as_json:
        said = {"verdict": verdict.as_json(), "figures": found.as_json(), "scaling": asdict(scaled)}
        cli_study.say_json(said, files)
    if ended:
        live.say(f"ended after {run.duration_s:.0f} of {duration_s} s")
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
