"""Ray Serve's own OpenAI path, `build_openai_app`, with the same scripted engine.

Run as `python -m loadtest.bench.peers.ray_llm PORT [BATCHING_MS]`. The flags (HAProxy, throughput mode) are environment
variables that Ray reads when it is imported; `servers.py` sets them.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from typing import Any

MODEL = "scripted"


def llm_config(batching_ms: int | None) -> dict[str, Any]:
    """`batching_ms` None: Ray's default (50 ms)."""
    experimental = {} if batching_ms is None else {"stream_batching_interval_ms": batching_ms}
    return {
        "model_loading_config": {"model_id": MODEL},
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 1}]},
        "deployment_config": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 1}},
        "experimental_configs": experimental,
    }


def main() -> None:
    import ray
    from ray import serve
    from ray.serve.llm import LLMServingArgs, build_openai_app

    stopped = threading.Event()
    port = int(sys.argv[1])
    batching_ms = int(sys.argv[2]) if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(prefix="ray-llm-") as folder:
        ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_openai_app(LLMServingArgs(llm_configs=[llm_config(batching_ms)]).model_dump()))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        stopped.wait()
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
