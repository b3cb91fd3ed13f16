"""What runs on Ray Serve. The only importer of `ray`.

`serve run serving.deployments:build llm.model=FOLDER`, a `serve deploy` config file and the local runner all call
`build`. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def build(args: dict[str, Any]) -> Application:
    """The application. `args` are settings, nested or dotted, and go before those of the environment."""
    from serving.deployments.builder import build_app

    return build_app(args)
