"""How large a pod of the GPU group is, by its model's weights and its GPUs: raised where too small, never lowered.

`manifests/components/llm/group.yaml` has what this says for one GPU and 16 GiB of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.cluster.fit import SETTINGS_MAP, gpu_group
from serving.cluster.objects import Json
from serving.cluster.quantities import number

_GIB = 1024**3
#: GiB of weights for each GPU where nobody can say: an 8B model of 16 bits, what a GPU of 24 GB holds.
_USUAL = 16


@dataclass(frozen=True, slots=True)
class Size:
    """CPUs, and GiB of everything else. `disk`: what a pod asks for; `disk_most`: what ends it."""

    cpus: int
    memory: int
    shm: int
    scratch: int
    disk: int
    disk_most: int


def size(gpus: int, weight_bytes: float | None, *, downloads: bool = True) -> Size:
    """`weight_bytes` None: not known. `downloads`: the weights come onto the pod's own disk.

    CPUs: two for Ray, the engine's core and its server; two for each GPU, whose process asks without a pause for work.
    Memory: 4 GiB for Ray and the engine; 4 for each GPU's process (torch, CUDA, pinned buffers, its part of /dev/shm);
    and the weights once: they are read through the page cache, which counts as the pod's, by all GPUs' processes alike.
    With less, pages that one has read are gone before the next one comes.
    /dev/shm: 2 GiB for Ray's objects, 2 for each GPU (NCCL, the queues between the engine's processes).
    Scratch: the weights and a quarter (a download is written beside what it replaces), and 40 GiB for what is compiled,
    Ray's logs and spilled objects. The disk has 20 GiB more for logs and the image's top layer; asked for is what a
    first start fills: the weights, and 24 GiB.
    """
    weights = math.ceil(weight_bytes / _GIB) if weight_bytes is not None else _USUAL * gpus
    kept = weights if downloads else 0
    scratch = math.ceil(1.25 * kept) + 40
    return Size(
        cpus=2 + 2 * gpus,
        memory=weights + 4 + 4 * gpus,
        shm=2 + 2 * gpus,
        scratch=scratch,
        disk=kept + 24,
        disk_most=scratch + 20,
    )


def downloads(things: Sequence[Json], model: str) -> bool:
    """Whether a GPU pod fetches the weights onto its own disk: not from a folder, a bucket, or a volume of its own."""
    if "://" in model or model.startswith(("/", ".", "~")):
        return False
    homes = [
        str((thing.get("data") or {}).get("HF_HOME") or "")
        for thing in things
        if thing.get("kind") == "ConfigMap" and str(thing["metadata"]["name"]).startswith(SETTINGS_MAP)
    ]
    mounts = [place for thing in things for place in lasting_mounts(thing)]
    return not any(inside(home, place) for home in homes for place in mounts)


def lasting_mounts(thing: Mapping[str, Any]) -> list[str]:
    """Where a RayService's GPU pods have something that is not made anew with each pod."""
    return _mounts(thing, lambda volume: "emptyDir" not in volume)


def image_mounts(thing: Mapping[str, Any]) -> list[str]:
    """Where a RayService's GPU pods have an image as a volume."""
    return _mounts(thing, lambda volume: "image" in volume)


def _mounts(thing: Mapping[str, Any], wanted: Callable[[Json], bool]) -> list[str]:
    group = gpu_group(thing)
    if group is None:
        return []
    spec = group["template"]["spec"]
    names = {volume["name"] for volume in spec.get("volumes") or [] if wanted(volume)}
    mounts = spec["containers"][0].get("volumeMounts") or []
    return [str(mount["mountPath"]) for mount in mounts if mount["name"] in names]


def mounted(things: Sequence[Json], folder: str) -> bool:
    """Whether GPU pods have it."""
    return any(inside(folder, place) for thing in things for place in lasting_mounts(thing))


def enlarge(things: Sequence[Json], wanted: Size) -> None:
    """Changes `things`."""
    for thing in things:
        group = gpu_group(thing)
        if group is not None:
            _enlarge(group, wanted)


def _enlarge(group: Json, wanted: Size) -> None:
    told = group.get("resources")
    if isinstance(told, dict) and "CPU" in told:
        told["CPU"] = str(max(wanted.cpus, math.ceil(float(told["CPU"]))))
    spec = group["template"]["spec"]
    resources = spec["containers"][0].setdefault("resources", {})
    for kind, disk in (("requests", wanted.disk), ("limits", wanted.disk_most)):
        amounts = resources.get(kind) or {}
        if "cpu" in amounts:
            amounts["cpu"] = str(wanted.cpus) if number(amounts["cpu"]) < wanted.cpus else amounts["cpu"]
        _raise(amounts, "memory", wanted.memory)
        _raise(amounts, "ephemeral-storage", disk)
    for volume in spec.get("volumes") or []:
        sizes = {"scratch": wanted.scratch, "shm": wanted.shm}
        if volume["name"] in sizes and isinstance(volume.get("emptyDir"), dict):
            _raise(volume["emptyDir"], "sizeLimit", sizes[volume["name"]])


def _raise(amounts: Json, name: str, gib: int) -> None:
    """Where nothing is said there is no limit."""
    if name in amounts and number(amounts[name]) < gib * _GIB:
        amounts[name] = f"{gib}Gi"


def inside(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
