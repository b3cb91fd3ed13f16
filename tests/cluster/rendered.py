"""What `anchorage deploy --render` prints."""

from __future__ import annotations

from typing import Any

import yaml

from tests.cluster.conftest import Cli


def rendered(cli: Cli, *options: str) -> list[dict[str, Any]]:
    done = cli("deploy", "--render", *options)
    assert done.code == 0
    return [thing for thing in yaml.safe_load_all(done.output) if thing]


def ray_service(things: list[dict[str, Any]]) -> dict[str, Any]:
    return next(thing for thing in things if thing["kind"] == "RayService")
