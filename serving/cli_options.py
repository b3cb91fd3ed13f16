"""Options that several commands share, and reading the settings for a person at a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from pydantic import ValidationError

from serving.cli_next import data_dir_option, program
from serving.errors import ConfigurationError
from serving.running import running_server
from serving.settings import Settings

DataDir: TypeAlias = Annotated[
    Path,
    typer.Option("--data-dir", "-d", envvar="ANCHORAGE_DATA_DIR", help="Where vectors, catalog and logs are kept."),
]
Url: TypeAlias = Annotated[
    str | None, typer.Option("--url", help="Address of the server. Default: the one that serves the data directory.")
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="ANCHORAGE_API_KEY",
        help="Key for a server that asks for one. Better set in the environment.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]


def read_settings() -> Settings:
    """Settings from the environment. Raises ConfigurationError that names the variables."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = [
            f"ANCHORAGE_{'__'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ConfigurationError("; ".join(wrong)) from error
    except ValueError as error:  # a group's variable that is not JSON
        raise ConfigurationError(str(error)) from error


def server_url(data_dir: Path, url: str | None) -> str:
    """The server to talk to. Raises ConfigurationError that says how to start one."""
    if url:
        return url.rstrip("/").removesuffix("/v1")
    state = running_server(data_dir.expanduser().resolve())
    if state is None:
        raise ConfigurationError(
            f"nothing serves {data_dir}: start it with `{program()} serve{data_dir_option(data_dir)}`, "
            "or name a server with --url"
        )
    if not state.url:
        raise ConfigurationError(f"the server of {data_dir} (process {state.server.pid}) is still starting")
    return state.url
