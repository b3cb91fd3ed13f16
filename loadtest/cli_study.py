"""What `anchorage loadtest run` and `sweep` share: a server that is looked at first, levels, a study and its files."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer
from rich.markup import escape

from loadtest import load_options
from loadtest.cli_on_cluster import Where, looking, runner
from loadtest.live import LiveView
from loadtest.load_options import Asked
from loadtest.locust_options import KEY
from loadtest.run import Study
from loadtest.slo import Slo
from loadtest.target import Target
from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from loadtest.cluster_watch import Watched

#: Exit codes, beside 0 for met and 1 for not met or failed.
UNSURE, VOID, INTERRUPTED = 3, 4, 130
_RESULTS = Path("loadtest-results")


class Loading:
    """Makes levels of load against one server, one after the other, and a study of them."""

    def __init__(self, target: Target, options: Mapping[str, Any], where: Where, live: LiveView) -> None:
        """`options`: of `Asked.given`. Raises ConfigurationError, ClusterUnavailable (see `cli_on_cluster`)."""
        self.live = live
        self.target = target
        self._options = dict(options)
        self._where = where
        self._runner = runner(where, api_key=target.api_key, on_state=lambda state: live.say(escape(state)))

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
        from loadtest.cluster_watch import watching

        if self.target.plain:
            yield None
            return
        with watching(looking(self._where, self.target.root, self.target.api_key)) as found:
            yield found

    def finished(self, study: Study, made: Study, seen: Watched | None) -> Study:
        """`study` with all that is needed to believe it. `made`: the first level, as the load tester kept it."""
        from loadtest.cost import cost

        command = shlex.join(["anchorage", *sys.argv[1:]])
        if key := self.target.api_key:
            command = command.replace(key, "***")
        study.machine = {**made.machine, "command": command}
        study.target = made.target
        study.settings = {**made.settings, "workers": self._where.askers, **study.settings}
        if seen is not None and study.runs:
            seen.into(study.runs)
            study.cost = cost(study, self._where.gpu or seen.gpu_type, self._where.gpu_price)
        return study


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


def loading_of(url: str, asked: Asked, where: Where, live: LiveView, *, seed: int, out: Path | None) -> Loading:
    """Of a command's options. Raises typer.BadParameter, and as `Loading`."""
    from loadtest.cost import check as check_price

    try:
        check_price(where.gpu, where.gpu_price)
        target = Target(url, asked.model or "", os.environ.get(KEY, ""), asked.plain)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
    _check_place(out)
    _check_workload(asked.given(), seed)
    return Loading(target, asked.given(), where, live)


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
    from loadtest.locust_options import names
    from loadtest.workload import Options, Workload

    known = {name: value for name, value in options.items() if name in Options.__dataclass_fields__}
    for name in ("collections", "cold_collections"):
        if name in known:
            known[name] = names(known[name])
    try:
        Workload.read(Options(**known, seed=seed))
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error
