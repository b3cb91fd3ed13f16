"""`anchorage serve-config`: the Serve config of a cluster, from settings and flags."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import ConfigurationError
from serving.settings import OnCold


def register(app: typer.Typer) -> None:
    app.command(name="serve-config")(serve_config)


def serve_config(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="LLM: Hugging Face id, or a folder that every GPU pod can read.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="LLM replicas under load.")] = None,
    on_cold: Annotated[OnCold | None, typer.Option(help="What a caller gets while the LLM is not ready.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="GROUP.FIELD=VALUE", help="Any other setting; may be given several times."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Print the Serve config (`serveConfigV2` of a RayService) that these settings make on a cluster.

    It says what differs from the defaults, and holds no secret.
    """
    from serving.deployments.arguments import read_pairs, read_settings
    from serving.deployments.config import serve_config_text

    given = {"llm.model": model, "llm.max_replicas": max_replicas, "llm.on_cold": on_cold}
    arguments = {name: value for name, value in given.items() if value is not None}
    text = serve_config_text(read_settings({**arguments, **read_pairs(settings or [])}))
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--output {output}: it cannot be written ({error.strerror})") from error
