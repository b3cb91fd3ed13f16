"""`anchorage loadtest sweep`: the highest rate that keeps the objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest import cli_on_cluster, load_options
from loadtest.extra import check_installed

if TYPE_CHECKING:
    from loadtest.sweeping import Plan, Sweeping

_SEARCH = "The search"


@dataclass(frozen=True)
class Search:
    """Options of the command."""

    arrivals: Annotated[
        str,
        typer.Option(
            "--arrivals",
            help="Kind of arrivals: poisson, constant, or burst:20 (so many at once).",
            rich_help_panel=_SEARCH,
        ),
    ] = "poisson"
    start: Annotated[
        float | None,
        typer.Option(
            "--from", help="Requests a second to begin with; default: by a guess.", min=0.001, rich_help_panel=_SEARCH
        ),
    ] = None
    to: Annotated[float | None, typer.Option("--to", help="Nothing above it.", min=0.001, rich_help_panel=_SEARCH)] = (
        None
    )
    within: Annotated[
        float,
        typer.Option(
            "--within", help="As near as this share, 0.05 is 5 %.", min=0.005, max=0.5, rich_help_panel=_SEARCH
        ),
    ] = 0.05
    repeats: Annotated[
        int, typer.Option(help="Runs of a level that is too close to tell.", min=1, rich_help_panel=_SEARCH)
    ] = 4
    max_minutes: Annotated[
        float,
        typer.Option("--max-minutes", help="Ends with the best that is known then.", min=0.1, rich_help_panel=_SEARCH),
    ] = 30.0


def sweep(
    url: load_options.Url,
    *,
    search: Search,
    asked: load_options.Asked,
    where: cli_on_cluster.Where,
    lasting: load_options.Lasting,
    result: load_options.Result,
) -> None:
    """Find the highest rate that keeps the objectives, with few runs: `sweep http://localhost:8000`.

    Each level is held for --duration seconds; levels near the answer are repeated with other seeds, and the answer is
    held again with fresh ones. Between levels the server comes to rest. Ended early (Ctrl-C, --max-minutes), it says
    what it knows, and how surely.
    """
    check_installed()
    from loadtest.cli_study import loading_of, slo_of
    from loadtest.live import LiveView
    from loadtest.sweeping import Sweeping

    plan = _plan(search, lasting)
    objectives = slo_of(result.slo)
    loading = loading_of(url, asked, where, LiveView(), seed=lasting.seed, out=result.out)
    raise typer.Exit(_swept(Sweeping(plan, objectives, loading), result))


def _swept(work: Sweeping, result: load_options.Result) -> int:
    """The exit code. Raises AnchorageError, typer.BadParameter."""
    from rich.markup import escape

    from loadtest import cli_study, sweeping
    from loadtest.result_table import found_line
    from loadtest.running import ending_signals, unbroken

    loading, live = work.loading, work.loading.live
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
        study.slo, study.found, study.settings = work.slo.as_json(), found.as_json(), sweeping.settings(work.plan)
        files = cli_study.kept(loading.finished(study, work.first, seen), result.out)
    live.say(found_line(found))
    live.say(f"report: {escape(str(files[1]))}")
    if result.as_json:
        cli_study.say_json({"found": found.as_json()}, files)
    if interrupted:
        return cli_study.INTERRUPTED
    if found.limited:
        return cli_study.VOID
    return 1 if found.rate is None else 0 if found.sure else cli_study.UNSURE


def _plan(search: Search, lasting: load_options.Lasting) -> Plan:
    """Raises typer.BadParameter."""
    from loadtest.arrivals import parse
    from loadtest.sweeping import Plan
    from serving.errors import ConfigurationError

    kind, _, size = search.arrivals.partition(":")
    pattern = f"{kind}:{{rate}},{size}" if size else f"{kind}:{{rate}}"
    if kind not in ("poisson", "constant", "burst"):
        raise typer.BadParameter(
            f"--arrivals {search.arrivals}: poisson, constant or burst:20; the sweep sets the rate"
        )
    try:
        parse(pattern.format(rate=1))
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    start, to = search.start, search.to
    if start is not None and to is not None and start > to:
        raise typer.BadParameter(f"--from {start:g} is above --to {to:g}")
    return Plan(
        arrivals=pattern,
        duration_s=lasting.duration,
        warmup_s=lasting.warm_s,
        seed=lasting.seed,
        budget_s=60 * search.max_minutes,
        within=search.within,
        repeats=search.repeats,
        start=start,
        highest=to if to is not None else float("inf"),
    )
