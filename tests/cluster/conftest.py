"""An API server on loopback, a kubeconfig for it, and the command line in front of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from serving.cli import build
from serving.errors import AnchorageError
from tests.cluster.apiserver import Server
from tests.cluster.wire import serving


@dataclass(frozen=True)
class Done:
    """How a command went. `text`: all that it wrote."""

    code: int
    text: str
    output: str


Cli = Callable[..., Done]


@pytest.fixture
def server() -> Iterator[Server]:
    """Of a cluster with every operator, without nodes and controllers."""
    with serving(Server()) as state:
        yield state


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """With a token, as `kubectl` reads it."""
    return write_kubeconfig(tmp_path / "kubeconfig", server.url, {"token": "the-token"})


def write_kubeconfig(path: Path, url: str, user: dict[str, object]) -> Path:
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": user}],
    }
    path.write_text(yaml.safe_dump(told))
    return path


@pytest.fixture
def cli(kubeconfig: Path) -> Cli:
    """`anchorage ...` in this process. Raises the errors that the program would print, unless told not to."""

    def run(*arguments: str, check: bool = True) -> Done:
        app = build()
        result = CliRunner().invoke(app, list(arguments), env={"KUBECONFIG": str(kubeconfig), "COLUMNS": "200"})
        error = result.exception
        if error is None or isinstance(error, SystemExit):
            return Done(result.exit_code, result.output, result.stdout)
        if check or not isinstance(error, AnchorageError):
            raise error
        return Done(1, f"{result.output}{error}", result.stdout)

    return run
