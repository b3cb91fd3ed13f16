"""What a command line says about model, GPUs, images and settings, put into rendered manifests."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.cluster.fit import GPU, Served, fit, gpu_group, worker_groups
from serving.cluster.gpu_types import choose
from serving.cluster.objects import Json, pod_templates
from serving.cluster.sizing import image_mounts
from serving.cluster.weights import LOADING, name_model
from serving.errors import ConfigurationError

#: What ingestion is told of the serving settings: it has to embed with the same model, into the same store.
_INGESTION = "anchorage-ingest"
_FETCH = "anchorage-weights"
_TOLD = {"embedder.model": "embedding-model", "index.milvus_uri": "milvus-uri"}
#: Clusters at a time while a RayService is upgraded, by its strategy (manifests/README.md).
_UPGRADING = {"NewCluster": 2.0, "NewClusterWithIncrementalUpgrade": 1.25}
_IMAGES = ("ghcr.io/anchorage/anchorage", "ghcr.io/anchorage/anchorage-gpu")


@dataclass(frozen=True, slots=True)
class Wishes:
    """None: as the overlay has it. `settings`: GROUP.FIELD to value."""

    model: str | None = None
    gpus: int | None = None
    max_replicas: int | None = None
    image: str | None = None
    gpu_image: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    gpu: str | None = None

    @property
    def for_llm(self) -> bool:
        return any(each is not None for each in (self.model, self.gpus, self.max_replicas, self.gpu))


@dataclass(frozen=True, slots=True)
class Shape:
    """What was asked for, in numbers: GPUs of one replica of the LLM, and replicas at most; 0 without an LLM."""

    gpus: int
    replicas: int
    model: str | None = None


def tailor(
    things: Sequence[Json],
    wishes: Wishes,
    serve: Callable[[Mapping[str, Any]], Served],
    plain: Mapping[str, Any] | None = None,
) -> list[Json]:
    """Copies of `things`. `serve` makes a Serve config of a builder's arguments.

    `plain`: those of the overlay alone, where a component for the LLM was put on top of it: everything but the LLM
    stays as the overlay has it.

    Raises ConfigurationError for a setting that does not exist, and for GPUs where no group has any.
    """
    changed = [copy.deepcopy(thing) for thing in things if not _needless(thing, wishes)]
    served: Served | None = None
    for thing in changed:
        if thing.get("kind") == "RayService":
            _group(thing, wishes)
            served = _serve_config(thing, wishes, serve, plain) or served
        elif thing.get("kind") == "ResourceClaimTemplate" and wishes.gpus is not None:
            _claims(thing, wishes.gpus)
        elif thing.get("kind") == "Job" and wishes.model is not None:
            _fetched_model(thing, wishes.model)
        elif thing.get("kind") == "ConfigMap" and thing["metadata"]["name"] == _INGESTION:
            _ingestion(thing, wishes.settings)
        _images(thing, wishes)
    if served is not None:
        fit(changed, served)
    for thing in changed:
        if thing.get("kind") == "NodePool":
            _node_limit(thing, changed)
    if wishes.for_llm and not any(gpu_group(thing) for thing in changed):
        raise ConfigurationError("There is no worker group with GPUs in these manifests: add --with llm.")
    if wishes.gpu is not None:
        choose(changed, wishes.gpu)
    return changed


def shape(things: Sequence[Json]) -> Shape:
    """Of rendered manifests."""
    for thing in things:
        group = gpu_group(thing)
        if group is not None:
            model = (_arguments(thing).get("llm") or {}).get("model")
            return Shape(_gpus_of(group), int(group.get("maxReplicas", 1)), model)
    return Shape(0, 0)


def _serve_config(
    thing: Json,
    wishes: Wishes,
    serve: Callable[[Mapping[str, Any]], Served],
    plain: Mapping[str, Any] | None,
) -> Served | None:
    """Untouched where nothing was said: then the overlay's own text is what is applied."""
    if not (wishes.for_llm or wishes.settings or plain):
        return None
    arguments = _arguments(thing)
    arguments |= {name: group for name, group in copy.deepcopy(dict(plain or {})).items() if name != "llm"}
    if wishes.for_llm:
        llm = arguments.setdefault("llm", {})
        if wishes.model is not None:
            name_model(llm, wishes.model, wishes.settings, image_mounts(thing))
        if wishes.max_replicas is not None:
            llm["max_replicas"] = wishes.max_replicas
        if wishes.gpus is not None:
            llm.setdefault("engine_args", {})["tensor_parallel_size"] = wishes.gpus
    loading = _loading(arguments)
    for name, value in wishes.settings.items():
        _assign(arguments, name, value)
    if isinstance(wishes.settings.get("llm.engine_args"), Mapping):
        arguments["llm"]["engine_args"] = loading | arguments["llm"]["engine_args"]
    served = serve(arguments)
    thing["spec"]["serveConfigV2"] = served.text
    return served


def _loading(arguments: Json) -> Json:
    """How a component loads the weights."""
    told = (arguments.get("llm") or {}).get("engine_args") or {}
    return {name: told[name] for name in LOADING if name in told}


def arguments_of(things: Sequence[Json]) -> Json:
    """Of the builder, in the Serve config of rendered manifests."""
    return next((_arguments(thing) for thing in things if thing.get("kind") == "RayService"), {})


def _needless(thing: Mapping[str, Any], wishes: Wishes) -> bool:
    """A folder or a bucket has the weights already: there is nothing to download from a hub."""
    model = wishes.model or ""
    fetches = thing.get("kind") == "Job" and thing["metadata"]["name"] == _FETCH
    return fetches and ("://" in model or model.startswith(("/", ".", "~")))


def _arguments(thing: Mapping[str, Any]) -> Json:
    """Of the builder, in a RayService's Serve config."""
    import yaml

    try:
        told = yaml.safe_load((thing.get("spec") or {}).get("serveConfigV2") or "") or {}
        return dict((told.get("applications") or [{}])[0].get("args") or {})
    except (yaml.YAMLError, AttributeError, IndexError, TypeError) as error:
        raise ConfigurationError(f"The RayService's serveConfigV2 cannot be read: {error}") from error


def _assign(arguments: Json, name: str, value: Any) -> None:
    *groups, last = name.split(".")
    at = arguments
    for step in groups:
        inner = at.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"--set {name}: {step} is no group of settings.")
        at = inner
    at[last] = value


def _group(thing: Json, wishes: Wishes) -> None:
    group = gpu_group(thing)
    if group is None:
        return
    if wishes.max_replicas is not None:
        group["maxReplicas"] = wishes.max_replicas
        group["minReplicas"] = min(int(group.get("minReplicas") or 0), wishes.max_replicas)
    if wishes.gpus is None:
        return
    told = group.get("resources")
    if isinstance(told, dict) and "GPU" in told:  # of claims, which Ray cannot count by itself
        told["GPU"] = str(wishes.gpus)
    for container in group["template"]["spec"]["containers"]:
        for amounts in (container.get("resources") or {}).values():
            if isinstance(amounts, dict) and GPU in amounts:
                amounts[GPU] = str(wishes.gpus)


def _fetched_model(job: Json, model: str) -> None:
    """Of the Job that downloads weights before a GPU waits for them (components/weights-shared-volume)."""
    for container in job["spec"]["template"]["spec"]["containers"]:
        for variable in container.get("env") or []:
            if variable["name"] == "MODEL":
                variable["value"] = model


def _ingestion(settings_map: Json, settings: Mapping[str, Any]) -> None:
    for name, key in _TOLD.items():
        if name in settings:
            settings_map.setdefault("data", {})[key] = str(settings[name])


def _claims(thing: Json, gpus: int) -> None:
    for request in thing["spec"]["spec"]["devices"]["requests"]:
        if "exactly" in request:
            request["exactly"]["count"] = gpus


def _node_limit(pool: Json, things: Sequence[Json]) -> None:
    """A limit on GPUs caps what they cost: it is raised to what may be asked for at a time, and never lowered."""
    limits = (pool.get("spec") or {}).get("limits") or {}
    if GPU in limits:
        limits[GPU] = str(max(int(limits[GPU]), sum(map(_gpus_at_a_time, things))))


def _gpus_at_a_time(thing: Json) -> int:
    """Of all worker groups at their largest, and of the new cluster beside the old one while an upgrade runs."""
    spec = thing.get("spec") or {}
    most = sum(_gpus_of(group) * int(group.get("maxReplicas", 1)) for group in worker_groups(thing))
    serves = thing.get("kind") == "RayService"
    strategy = (spec.get("upgradeStrategy") or {}).get("type", "NewCluster") if serves else ""
    return math.ceil(most * _UPGRADING.get(strategy, 1.0))


def _gpus_of(group: Mapping[str, Any]) -> int:
    told = (group.get("resources") or {}).get("GPU")
    if told is not None:
        return int(float(told))
    containers = group["template"]["spec"]["containers"]
    return sum(int(((each.get("resources") or {}).get("limits") or {}).get(GPU, 0)) for each in containers)


def _images(thing: Json, wishes: Wishes) -> None:
    replaced = {_IMAGES[0]: wishes.image, _IMAGES[1]: wishes.gpu_image}
    for _, template in pod_templates(thing):
        spec = template["spec"]
        for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
            # `registry:5000/name:tag@digest` without tag and digest.
            bare, _, _ = str(container.get("image", "")).partition("@")
            head, slash, tail = bare.rpartition("/")
            if image := replaced.get(f"{head}{slash}{tail.partition(':')[0]}"):
                container["image"] = image
