"""What `anchorage loadtest run` and `sweep` share: a server that is looked at first, levels, a study and its files."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import typer
from rich.markup import escape

from loadtest import load_options, machine
from loadtest.live import LiveView
from loadtest.run import Run, Study
from loadtest.running import LevelRunner, LocalRuns, api_key
from loadtest.slo import Slo
from loadtest.target import Target
from serving.errors import ConfigurationError

#: Exit codes, beside 0 for met and 1 for not met or failed.
UNSURE, VOID, INTERRUPTED = 3, 4, 130
_RESULTS = Path("loadtest-results")


class Watched(Protocol):
    """What was seen of the serving side while the load was on (`loadtest.cluster_watch`)."""

    gpu_type: str

    def into(self, runs: Sequence[Run]) -> None:
        """Puts it into the runs, by when they were."""


@dataclass(frozen=True)
class Where:
    """Where the load comes from, and what is watched meanwhile. `workers` None: as many as is usual there."""

    workers: int | None = None
    on_cluster: bool = False
    cluster: bool = False
    namespace: str = "anchorage"
    context: str | None = None
    kubeconfig: str | None = None
    image: str = ""
    keep: bool = False
    gpu: str = ""
    gpu_price: float | None = None


class Loading:
    """Makes levels of load against one server, one after the other, and a study of them."""

    def __init__(self, target: Target, options: Mapping[str, Any], where: Where, live: LiveView) -> None:
        """`options`: of `load_options.passed`. Raises ConfigurationError, ClusterUnavailable (see `cli_on_cluster`)."""
        self.live = live
        self.target = target
        self._options = dict(options)
        self._where = where
        self._runner = self._made()

    @property
    def reachable(self) -> bool:
        """From this process."""
        return not self._where.on_cluster

    def check(self) -> None:
        """Before any load. Raises ServerUnreachable, Refused, ConfigurationError: what is wrong with the server."""
        from loadtest.server_check import check

        if not self.reachable:
            return  # the pods wait for it, and say so
        model = asyncio.run(check(self.target))
        self.target = replace(self.target, model=model)
        self._options["model"] = model

    def level(
        self, title: str, load: Mapping[str, Any], *, duration_s: int, warmup_s: int, seed: int, **more: Any
    ) -> Study:
        """One load, held for a while: a study of one run. Raises AnchorageError. `more`: other options of locust."""
        arguments = load_options.arguments(
            self.target.url, {**self._options, **more}, load, duration_s=duration_s, warmup_s=warmup_s, seed=seed
        )
        with self.live.level(title, duration_s):
            return self._runner(arguments, self.live.update)

    @contextmanager
    def watched(self) -> Iterator[Watched | None]:
        """The serving side is looked at until the block is left. None: a server that says nothing of itself."""
        from loadtest.cli_on_cluster import looking
        from loadtest.cluster_watch import watching

        where = self._where
        if self.target.plain:
            with nullcontext():
                yield None
            return
        look = looking(
            self.target.root,
            cluster=where.cluster or where.on_cluster,
            namespace=where.namespace,
            kubeconfig=where.kubeconfig,
            context=where.context,
            api_key=self.target.api_key,
        )
        with watching(look) as found:
            yield cast("Watched", found)

    def finished(self, study: Study, made: Study, seen: Watched | None) -> Study:
        """`study` with all that is needed to believe it. `made`: the first level, as the load tester kept it."""
        from loadtest.cost import cost

        here = machine.describe("anchorage")
        command = here["command"].replace(key, "***") if (key := self.target.api_key) else here["command"]
        study.machine = {**(made.machine if self._where.on_cluster else here), "command": command}
        study.target = made.target
        workers = self._where.workers or (2 if self._where.on_cluster else 1)
        study.settings = {**made.settings, "workers": workers, **study.settings}
        if seen is not None and study.runs:
            seen.into(study.runs)
            study.cost = cost(study, self._where.gpu or seen.gpu_type, self._where.gpu_price)
        return study

    def _made(self) -> LevelRunner:
        where = self._where
        if not where.on_cluster:
            return LocalRuns(where.workers or 1).run
        from loadtest.cli_on_cluster import runner

        return runner(
            where.namespace,
            where.kubeconfig,
            where.context,
            workers=where.workers or 2,
            image=where.image,
            api_key=self.target.api_key,
            keep=where.keep,
            on_state=lambda state: self.live.say(escape(state)),
        )


Files: TypeAlias = tuple[Path, Path]


def kept(study: Study, out: Path | None) -> Files:
    """Writes result.json and report.html; both paths. Raises ConfigurationError where they cannot be written."""
    from loadtest.report import page

    folder = out or _RESULTS / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be made: {error}") from error
    result, report = folder / "result.json", folder / "report.html"
    study.save(result)
    write(report, page(study))
    return result, report


def write(path: Path, text: str) -> None:
    """Raises ConfigurationError."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error}") from error


def say_json(found: Mapping[str, Any], files: Files) -> None:
    result, report = files
    sys.stdout.write(json.dumps({**found, "result": str(result), "report": str(report)}, indent=2) + "\n")


def slo_of(path: Path | None) -> Slo:
    """Raises typer.BadParameter for a file that names no objectives."""
    try:
        return Slo.read(path) if path else Slo.default()
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error


def where_of(given: Mapping[str, Any]) -> Where:
    """Of a command's values."""
    return Where(**{name: given[name] for name in Where.__dataclass_fields__})


def loading_of(given: Mapping[str, Any], live: LiveView) -> Loading:
    """Of a command's values. Raises typer.BadParameter, and as `Loading`."""
    from loadtest.cost import check as check_price

    try:
        check_price(given["gpu"], given["gpu_price"])
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    _check_place(given["out"])
    _check_workload(load_options.passed(given), given["seed"])
    target = load_options.target_of(given["url"], given["model"], api_key(), given["plain"])
    return Loading(target, load_options.passed(given), where_of(given), live)


def _check_place(out: Path | None) -> None:
    """Raises typer.BadParameter where nothing can be written: told before a load, not after it, or all is lost."""
    folder = out or (_RESULTS if _RESULTS.exists() else Path())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise typer.BadParameter(f"--out: nothing can be written to {folder}: {error.strerror or error}") from error


def _check_workload(options: Mapping[str, Any], seed: int) -> None:
    """Raises typer.BadParameter for what the load tester would refuse."""
    from loadtest.workload import Options, Workload

    known = {name: value for name, value in options.items() if name in Options.__dataclass_fields__}
    for name in ("collections", "cold_collections"):
        if name in known:
            known[name] = tuple(filter(None, known[name].split(",")))
    try:
        Workload.read(Options(**known, seed=seed))
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error


def warmup_of(duration_s: int, warmup_s: int | None) -> int:
    """A tenth of it, at least a second, unless it was given. Raises typer.BadParameter."""
    if warmup_s is None:
        return max(1, duration_s // 10)
    if warmup_s >= duration_s:
        raise typer.BadParameter(f"--warmup-s {warmup_s} leaves nothing of --duration {duration_s}")
    return warmup_s
