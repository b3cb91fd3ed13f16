"""An application that can be deployed again while it runs, as `serve deploy` and KubeRay do it on a cluster.

Run as `python -m tests.ray.rolling`. It says its URL when it is ready; for each line of settings (JSON) on its standard
input it deploys these, and says so when they run; it ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
from unittest.mock import patch

from serving.deployments import local
from serving.settings import Settings

#: Replicas that are replaced may go on this long. Whoever stops a server of his own does not wait so long.
DRAIN_S = 240.0


async def main() -> None:
    with patch.object(local, "_DRAIN_S", DRAIN_S):
        async with local.serve_locally(Settings()) as url:
            print(url, flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                settings = Settings.model_validate_json(line)
                await asyncio.to_thread(local._deploy, settings)
                print("deployed", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
