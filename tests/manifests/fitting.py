"""Layer 7, sizes and times: what Serve may ask for fits the Ray groups; who stops has the time that answers need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tests.manifests import serve_config
from tests.manifests.documents import Document, PodTemplate, Rendered, containers, title
from tests.manifests.words import quantity

if TYPE_CHECKING:
    from serving.settings import Settings

_DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
#: What clients of ours read, not the program (serving/cli_options.py).
_CLIENTS = {"ANCHORAGE_API_KEY"}
#: Seconds between the end of a drain and the kill: Ray's processes have to end, too.
_REST_S = 5


def faults(rendered: Rendered) -> list[str]:
    """Of each RayService, and of the variables of all pods."""
    found = []
    for document in rendered.of("RayService"):
        settings = serve_config.settings(document, rendered)
        if settings is None:
            continue
        mine = [pod for pod in rendered.pods() if pod.document is document]
        every = (*_llm(settings, mine), *_plane(settings, mine), *_stopping(settings, document, mine, rendered))
        found += [f"{title(document)}: {fault}" for fault in every]
    for pod in rendered.pods():
        found += [f"{pod.where}: {fault}" for fault in _variables(pod, rendered)]
    return list(dict.fromkeys(found))


def _resources(pod: PodTemplate) -> dict[str, float]:
    """What one pod of a group has for Ray (KubeRay v1.7.0, pod.go): `resources`, else `rayStartParams`, else limits."""
    given, start = pod.group.get("resources") or {}, pod.group.get("rayStartParams") or {}
    limits = (pod.spec["containers"][0].get("resources") or {}).get("limits") or {}
    cpus = quantity(limits.get("cpu", "0")) or 0
    found = {"CPU": float(start.get("num-cpus", cpus)), "GPU": float(start.get("num-gpus", pod.gpus))}
    return found | {name: float(quantity(value) or 0) for name, value in given.items()}


def _llm(settings: Settings, pods: list[PodTemplate]) -> Iterator[str]:
    from serving.deployments.llm import bundles

    llm = settings.llm
    gpu_groups = [pod for pod in pods if pod.role == "worker" and pod.gpus]
    if not llm.model:
        yield from (
            f"workerGroupSpecs.{pod.group['groupName']}: has GPUs, and no LLM asks for them" for pod in gpu_groups
        )
        return
    if llm.device != "gpu":
        yield f"spec.serveConfigV2: llm.device is {llm.device}: say gpu, or no GPU node ever starts"
        return
    replica = bundles(llm.engine_args, gpu=True)
    needed = sum(one.get("GPU", 0) for one in replica) * max(llm.max_replicas, llm.min_replicas)
    there = sum(pod.gpus * pod.group.get("maxReplicas", 0) for pod in gpu_groups)
    if needed > there:
        yield f"spec.serveConfigV2: llm may ask for {needed:g} GPUs, the groups have {there:g}: raise maxReplicas"
    for pod in gpu_groups:
        has, name = _resources(pod), pod.group["groupName"]
        if pod.group.get("minReplicas") and not llm.min_replicas:
            yield f"workerGroupSpecs.{name}.minReplicas: keeps GPUs that an LLM from 0 does not use"
        if not any(all(has.get(kind, 0) >= amount for kind, amount in one.items()) for one in replica):
            yield f"workerGroupSpecs.{name}: {has} holds no part of an LLM replica ({replica})"
        if _together(llm.engine_args) > has["GPU"]:
            yield f"workerGroupSpecs.{name}: tensor parallel ranks of {_together(llm.engine_args)} GPUs need one pod"


def _together(engine_args: Mapping[str, Any]) -> int:
    return int(engine_args.get("tensor_parallel_size", 1))


def _plane(settings: Settings, pods: list[PodTemplate]) -> Iterator[str]:
    """Everything but the LLM, on the CPU groups."""
    from serving.deployments.builder import cpus_needed
    from serving.deployments.names import CPU_PLANE

    workers = [pod for pod in pods if pod.role == "worker"]
    plane = [pod for pod in workers if not pod.gpus]
    llm = max(settings.llm.min_replicas, settings.llm.max_replicas) if settings.llm.model else 0
    needed = cpus_needed(settings) - llm
    there = sum(_resources(pod)["CPU"] * pod.group.get("maxReplicas", 0) for pod in plane)
    if needed > there:
        yield f"spec.serveConfigV2: all but the LLM may ask for {needed:g} CPUs, the CPU groups have {there:g}"
    largest = max(settings.api.cpus, settings.embedder.cpus)
    if not any(_resources(pod)["CPU"] >= largest for pod in plane):
        yield f"workerGroupSpecs: no CPU group has a pod with {largest:g} CPUs for one replica"
    if any(not pod.group.get("minReplicas") for pod in plane):
        yield "workerGroupSpecs: a CPU group begins at 0: the Api is always up"
    named = [pod for pod in workers if CPU_PLANE in _resources(pod)]
    if settings.scaling.cpu_plane and named != plane:
        yield f"workerGroupSpecs: the resource {CPU_PLANE} must be on the CPU groups and on no other"
    if not settings.scaling.cpu_plane and any(pod.gpus for pod in workers):
        yield "spec.serveConfigV2: scaling.cpu_plane is off beside a GPU group: Api replicas would land on GPU nodes"


def _stopping(settings: Settings, document: Document, pods: list[PodTemplate], rendered: Rendered) -> Iterator[str]:
    """Longest answer < replica's shutdown < node's drain < pod's grace; and an old cluster stays as long."""
    from serving.deployments.environment import cluster_variables, replica_drain_s

    longest = settings.api.deadline_s
    for pod in pods:
        container = pod.spec["containers"][0]
        given = serve_config.variables(container, rendered)
        drain = float(given.get(_DRAIN, 30))
        if "ray stop" in str((container.get("lifecycle") or {}).get("preStop")):
            yield f"{pod.path}: preStop: `ray stop` ends Ray before its replicas have drained: sleep instead"
        pause = (((container.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}).get("seconds", 0)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        # Nothing on a head drains: its controller never leaves, and would hold it for all of that time.
        if pod.role != "head" and not replica_drain_s(longest) < drain:
            yield f"{pod.path}: {_DRAIN} is {drain:g}: an answer may take {longest:g} s and its replica 10 more"
        if grace < pause + drain + _REST_S:
            yield f"{pod.path}: terminationGracePeriodSeconds {grace}: preStop {pause} and drain {drain:g} take longer"
        for name, value in cluster_variables(longest).items():
            if given.get(name) != value and not (pod.role == "head" and name == _DRAIN):
                yield f"{pod.path}: {name} is {given.get(name)!r}, not {value!r} (serving/deployments/environment.py)"
    delay = document["spec"].get("rayClusterDeletionDelaySeconds", 60)
    if delay < longest:
        yield f"spec.rayClusterDeletionDelaySeconds: {delay}: the old cluster still answers for {longest:g} s"


def _variables(pod: PodTemplate, rendered: Rendered) -> Iterator[str]:
    """ANCHORAGE_ variables are settings, and can be used."""
    from serving.settings import Settings

    for container in containers(pod.spec):
        named = [one["name"] for one in container.get("env") or ()]
        values = serve_config.variables(container, rendered)
        ours = [name for name in dict.fromkeys([*named, *values]) if name.startswith(serve_config.PREFIX)]
        for name in ours:
            if name not in _CLIENTS and not _field(Settings, name):
                yield f"spec.{container['name']}.env.{name}: is no setting of serving/settings.py"
        given = tuple((name, values[name]) for name in sorted(ours) if name in values)
        yield from (f"spec.{container['name']}.env: {fault}" for fault in _refused(given))


@cache
def _refused(values: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """What Settings say of these variables."""
    from serving.settings import Settings

    with serve_config.environ(dict(values)):
        try:
            Settings()
        except ValidationError as error:
            return tuple(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))
    return ()


def _field(model: Any, name: str) -> bool:
    for part in name.removeprefix(serve_config.PREFIX).lower().split("__"):
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = fields[part].annotation
    return True
