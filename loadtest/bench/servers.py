"""How each side of the benches is started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.processes import Launch
from serving.ports import free_port

SCRIPTED_MODEL = "scripted"
#: The collection that the benches make.
COLLECTION = "bench"
_ENGINE = "serving.deployments.scripted.ScriptedEngine"


@dataclass(frozen=True, slots=True)
class Pace:
    """When the scripted engine speaks: the first token after `first_s`, each further one `gap_s` later (seconds)."""

    first_s: float = 0.0
    gap_s: float = 0.0


def bare(port: int, events: Path, pace: Pace, *, whole: bool = False) -> Launch:
    """A bare uvicorn that streams the events in a file."""
    mode = "whole" if whole else "each"
    arguments = ("loadtest.bench.peers.bare", str(port), str(events), str(pace.first_s), str(pace.gap_s), mode)
    return Launch(f"bare uvicorn {mode}", arguments, {}, "/")


def ours(port: int, data_dir: Path, pace: Pace | None) -> Launch:
    """`anchorage serve`. `pace` None: extractive answers only; else with the scripted engine as its LLM."""
    arguments = ("serving.cli", "serve", "--data-dir", str(data_dir), "--port", str(port))
    return Launch("anchorage serve", arguments, {} if pace is None else _scripted_llm(pace), "/readyz")


def ray_llm(port: int, pace: Pace, folder: Path, *, flags: bool = False, batching_ms: int | None = None) -> Launch:
    """Ray Serve's `build_openai_app` with the scripted engine, at its defaults or with what speeds it up.

    `flags`: throughput mode and HAProxy. Direct streaming needs vLLM's own HTTP application, which a scripted engine
    does not have. `batching_ms`: how long it joins chunks; None is Ray's default of 50 ms.
    """
    name = f"Ray Serve {'flags' if flags else 'default'} {'' if batching_ms is None else batching_ms}".strip()
    arguments = ["loadtest.bench.peers.ray_llm", str(port), *([] if batching_ms is None else [str(batching_ms)])]
    environment = {"RAYLLM_VLLM_ENGINE_CLS": _ENGINE, "ANCHORAGE_SCRIPT": _script(pace)}
    return Launch(name, arguments, {**environment, **(fast_serve(folder) if flags else {})}, "/v1/models")


def plain_search(port: int, uri: str, index: str, where: str, limit: int, dtype: str) -> Launch:
    """The obvious search server: FastAPI, sentence-transformers and pymilvus in one process."""
    arguments = ("loadtest.bench.peers.plain_search", str(port), uri, index, where, str(limit), dtype)
    return Launch(f"plain server {dtype}", arguments, {}, "/")


def fast_serve(folder: Path) -> dict[str, str]:
    """Ray Serve's throughput mode and HAProxy, with files and ports of their own."""
    haproxy = folder / "haproxy"
    haproxy.mkdir(exist_ok=True)
    http, grpc = free_port(), free_port()
    return {
        # Replicas listen themselves when HAProxy is in front: each takes the first free port of these.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http + 200),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc + 200),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }


def _scripted_llm(pace: Pace) -> dict[str, str]:
    engine = {"RAYLLM_VLLM_ENGINE_CLS": _ENGINE, "ANCHORAGE_SCRIPT": _script(pace)}
    return {
        "ANCHORAGE_LLM__MODEL": SCRIPTED_MODEL,
        "ANCHORAGE_LLM__DEVICE": "cpu",
        "ANCHORAGE_LLM__ENV": json.dumps(engine),
    }


def _script(pace: Pace) -> str:
    return json.dumps({"first_s": pace.first_s, "gap_s": pace.gap_s})
