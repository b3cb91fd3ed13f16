"""The one builder: settings in, Serve application out. Used by `serve run`, `serve deploy`, RayService and locally."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from serving.deployments.api import Api
from serving.deployments.embedder import Embedder
from serving.deployments.llm import Llm, bundles, engine_environment, llm_config
from serving.deployments.names import API, EMBEDDER, INGESTOR, LLM, engine_class, llm_name
from serving.deployments.worker import Ingestor, worker_class
from serving.errors import ConfigurationError
from serving.settings import LlmSettings, Settings

#: Logical CPUs that an Api, Embedder or Ingestor replica reserves: they share a laptop's two cores with all the rest.
SMALL_CPUS = 0.1
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
    return application(settings, drain_s=settings.api.deadline_s + 10)


def application(settings: Settings, *, drain_s: float) -> Application:
    """The same from settings. `drain_s`: how long a replica that is stopped may go on with what it has begun."""
    embedder = _embedder(settings)
    llm = _llm(settings.llm) if settings.llm.model else None
    ingestor = _ingestor(settings, embedder) if settings.api.uploads and worker_class() else None
    return _api(settings, drain_s, embedder, llm, ingestor)


def read_settings(args: Mapping[str, Any]) -> Settings:
    """`{"llm": {"model": M}}` or `{"llm.model": M}`, over the environment's."""
    nested: dict[str, Any] = {}
    for name, value in args.items():
        group, dot, field = name.partition(".")
        if dot:
            nested.setdefault(group, {})[field] = value
        else:
            nested[group] = {**nested.get(group, {}), **value} if isinstance(value, Mapping) else value
    try:
        return Settings(**nested)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigurationError(f"These settings cannot be used: {reasons}") from None


def cpus_needed(settings: Settings) -> float:
    """Logical CPUs that the application reserves at most."""
    small = SMALL_CPUS * (settings.api.replicas + settings.embedder.replicas)
    small += SMALL_CPUS if settings.api.uploads else 0
    return small + (settings.llm.max_replicas if settings.llm.model else 0)


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
        "num_replicas": settings.api.replicas,
        "max_ongoing_requests": _API_REQUESTS,
        "ray_actor_options": {"num_cpus": SMALL_CPUS},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": drain_s,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    app: Application = serve.deployment(serve.ingress()(Api), **options).bind(settings, embedder, llm, ingestor)
    return app


def _embedder(settings: Settings) -> Application:
    options = {
        "name": EMBEDDER,
        "num_replicas": settings.embedder.replicas,
        "max_ongoing_requests": 1024,
        "ray_actor_options": {"num_cpus": SMALL_CPUS, "runtime_env": {"env_vars": _EMBEDDER_ENVIRONMENT}},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    app: Application = serve.deployment(Embedder, **options).bind(settings.embedder)
    return app


def _ingestor(settings: Settings, embedder: Application) -> Application:
    options = {
        "name": INGESTOR,
        "num_replicas": 1,
        "ray_actor_options": {"num_cpus": SMALL_CPUS},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "graceful_shutdown_timeout_s": 5,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    app: Application = serve.deployment(Ingestor, **options).bind(settings, embedder)
    return app


def _llm(settings: LlmSettings) -> Application:
    gpu = on_gpu(settings)
    places = bundles(settings.engine_args, gpu=gpu)
    _require(places[0])
    options = {
        "name": LLM,
        "max_ongoing_requests": settings.max_ongoing_requests,
        "autoscaling_config": _autoscaling(settings),
        "placement_group_bundles": places,
        "placement_group_strategy": "PACK",
        "ray_actor_options": {"num_cpus": 1, "runtime_env": {"env_vars": engine_environment(settings.env, gpu=gpu)}},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "max_constructor_retry_count": _START_ATTEMPTS,
        "graceful_shutdown_timeout_s": 10,
        "graceful_shutdown_wait_loop_s": 0.2,
    }
    config = llm_config(llm_name(settings), str(settings.model), settings.engine_args, gpu=gpu)
    app: Application = serve.deployment(Llm, **options).bind(config, engine_class(settings))
    return app


def _autoscaling(settings: LlmSettings) -> dict[str, Any]:
    return {
        "min_replicas": settings.min_replicas,
        "max_replicas": max(settings.max_replicas, settings.min_replicas),
        # An engine batches: another one is wanted when this one is nearly full, not after two requests.
        "target_ongoing_requests": max(1.0, 0.75 * settings.max_ongoing_requests),
        "upscale_delay_s": 10,
    }


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
