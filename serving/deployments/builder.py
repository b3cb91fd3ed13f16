"""The one builder: settings in, Serve application out. Used by `serve run`, `serve deploy`, RayService and locally."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from serving.deployments.api import Api
from serving.deployments.arguments import read_settings
from serving.deployments.embedder import Embedder
from serving.deployments.environment import replica_drain_s
from serving.deployments.llm import Llm, bundles, engine_environment, llm_config
from serving.deployments.names import (
    API,
    CPU_PLANE,
    CPU_PLANE_CRUMB,
    EMBEDDER,
    INGESTOR,
    LLM,
    engine_class,
    llm_name,
)
from serving.deployments.policy import Measure, autoscaling
from serving.deployments.scaling import Rule
from serving.deployments.worker import Ingestor, worker_class
from serving.errors import ConfigurationError
from serving.settings import ApiSettings, EmbedderSettings, LlmSettings, ScalingSettings, Settings

#: Logical CPUs that the Ingestor reserves: it mostly waits, its worker processes have their own.
_INGESTOR_CPUS = 0.1
#: Requests that Serve lets through to one Api replica: far above what our own admission takes, which answers a request
#: that is too many in OpenAI's shape.
_API_REQUESTS = 100_000
#: OpenMP's threads spin after each forward pass, on cores that the search is waiting for: measured on 2 cores, a search
#: over HTTP takes 24 ms instead of 31 when they sleep.
_EMBEDDER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
#: Seconds between health checks, three of which must fail: an engine that died is replaced after some 6 s.
_HEALTH_PERIOD_S = 2.0
#: A model that cannot be loaded fails the same way each time.
_START_ATTEMPTS = 3


def build_app(args: Mapping[str, Any]) -> Application:
    """Raises ConfigurationError for arguments that are no settings, and for resources that Ray does not have."""
    settings = read_settings(args)
    # A replica that is replaced finishes the answers it has begun.
    return application(settings, drain_s=replica_drain_s(settings.api.deadline_s))


def application(settings: Settings, *, drain_s: float) -> Application:
    """The same from settings. `drain_s`: how long a replica that is stopped may go on with what it has begun."""
    embedder = _embedder(settings)
    llm = llm_application(settings, drain_s) if settings.llm.model else None
    ingestor = _ingestor(settings, embedder) if settings.api.uploads and worker_class() else None
    return _api(settings, drain_s, embedder, llm, ingestor)


def cpus_needed(settings: Settings) -> float:
    """Logical CPUs that the application reserves at most."""
    api, embedder, llm = settings.api, settings.embedder, settings.llm
    needed = api.cpus * max(replicas(api)) + embedder.cpus * max(replicas(embedder))
    needed += _INGESTOR_CPUS if api.uploads else 0
    return needed + (max(llm.min_replicas, llm.max_replicas) if llm.model else 0)


def replicas(settings: ApiSettings | EmbedderSettings) -> tuple[int, int]:
    """Least and most."""
    return settings.replicas, max(settings.replicas, settings.max_replicas)


def on_gpu(settings: LlmSettings) -> bool:
    """`auto` is a GPU where Ray sees one; a cluster that still has to add its GPU node must say `gpu`."""
    if settings.device != "auto":
        return settings.device == "gpu"
    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0)


def _api(
    settings: Settings,
    drain_s: float,
    embedder: Application,
    llm: Application | None,
    ingestor: Application | None,
) -> Application:
    options = {
        "name": API,
        **_many(settings.scaling, replicas(settings.api), settings.scaling.api_requests, "requests"),
        "max_ongoing_requests": _API_REQUESTS,
        # Serve packs replicas (see `_together`); of a cluster's Api one is to be left when a node goes.
        "max_replicas_per_node": 1 if settings.scaling.cpu_plane else None,
        "ray_actor_options": {"num_cpus": settings.api.cpus, **_pinned(settings.scaling)},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": drain_s,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    app: Application = serve.deployment(serve.ingress()(Api), **options).bind(settings, embedder, llm, ingestor)
    return app


def _embedder(settings: Settings) -> Application:
    options = {
        "name": EMBEDDER,
        **_many(settings.scaling, replicas(settings.embedder), settings.scaling.busy, "reported"),
        "max_ongoing_requests": 1024,
        "ray_actor_options": {
            "num_cpus": settings.embedder.cpus,
            "runtime_env": {"env_vars": _EMBEDDER_ENVIRONMENT},
            **_pinned(settings.scaling),
        },
        "health_check_period_s": _HEALTH_PERIOD_S,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    app: Application = serve.deployment(Embedder, **options).bind(settings.embedder)
    return app


def _ingestor(settings: Settings, embedder: Application) -> Application:
    options = {
        "name": INGESTOR,
        "num_replicas": 1,
        "ray_actor_options": {"num_cpus": _INGESTOR_CPUS, **_pinned(settings.scaling)},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": 5,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    app: Application = serve.deployment(Ingestor, **options).bind(settings, embedder)
    return app


def llm_application(
    settings: Settings, drain_s: float, autoscaling_config: Mapping[str, Any] | None = None
) -> Application:
    """The LLM alone. `autoscaling_config`: Serve's own rule instead of ours, to set them side by side."""
    llm, scaling = settings.llm, settings.scaling
    gpu = on_gpu(llm)
    places = bundles(llm.engine_args, gpu=gpu)
    _require(places[0])
    # Serve lets no more in at a time: more in flight than that there cannot be.
    target = min(scaling.llm_requests, float(llm.max_ongoing_requests))
    rule = Rule.of(scaling, (llm.min_replicas, llm.max_replicas), target, scaling.ttft_target_s)
    options = {
        "name": LLM,
        "max_ongoing_requests": llm.max_ongoing_requests,
        "autoscaling_config": dict(autoscaling_config or autoscaling(scaling, rule, "reported")),
        "placement_group_bundles": places,
        "placement_group_strategy": _together(llm),
        "ray_actor_options": {"num_cpus": 1, "runtime_env": {"env_vars": engine_environment(llm.env, gpu=gpu)}},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "max_constructor_retry_count": _START_ATTEMPTS,
        "graceful_shutdown_timeout_s": drain_s,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    config = llm_config(llm_name(llm), str(llm.model), llm.engine_args, gpu=gpu)
    app: Application = serve.deployment(Llm, **options).bind(config, engine_class(llm), llm.ready_folder)
    return app


def _together(settings: LlmSettings) -> str:
    """An engine's ranks on one node, unless it is made to span several. Serve fills a node before it takes the next one
    (RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY) only if no deployment has placement groups of another kind."""
    return "PACK" if int(settings.engine_args.get("pipeline_parallel_size", 1)) > 1 else "STRICT_PACK"


def _many(settings: ScalingSettings, bounds: tuple[int, int], target: float, measure: Measure) -> dict[str, Any]:
    """As many replicas as the load wants, or as there always are."""
    least, most = bounds
    if most == least:
        return {"num_replicas": least}
    return {"autoscaling_config": autoscaling(settings, Rule.of(settings, bounds, target), measure)}


def _pinned(settings: ScalingSettings) -> dict[str, Any]:
    """A GPU node goes when its Llm goes: nothing else may live there."""
    return {"resources": {CPU_PLANE: CPU_PLANE_CRUMB}} if settings.cpu_plane else {}


def _require(place: Mapping[str, float]) -> None:
    """What fits nowhere would wait for ever without an error. The size of a growing cluster says nothing."""
    if not ray.is_initialized() or len(ray.nodes()) != 1:
        return
    has = ray.cluster_resources()
    for kind, amount in place.items():
        if has.get(kind, 0) < amount and kind == "CPU":
            raise ConfigurationError(
                f"The LLM needs {amount:g} logical CPU and Ray has {has.get(kind, 0):g}: start Ray with --num-cpus 4 "
                "or more (they are counted, not pinned: more than the machine has is fine)"
            )
