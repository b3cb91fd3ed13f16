"""Worker groups, grace periods and drains that go with what the Serve config asks for: raised where too small."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.cluster.objects import Json
from serving.cluster.quantities import number

#: The ConfigMap with the variables of Ray's pods; its name ends in a hash of its content.
SETTINGS_MAP = "anchorage-settings"
#: The worker group of the RayService that runs the LLM, as the component `llm` calls it.
GPU_GROUP = "gpu"
#: What pods ask GPUs by, where a group asks for any.
GPU = "nvidia.com/gpu"


def worker_groups(thing: Json) -> list[Json]:
    """Of a RayService or a RayJob; none of anything else."""
    name = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}.get(str(thing.get("kind")), "")
    groups: list[Json] = ((thing.get("spec") or {}).get(name) or {}).get("workerGroupSpecs") or []
    return groups


@dataclass(frozen=True, slots=True)
class Served:
    """A Serve config, and what it needs of the pods.

    `cpus`: of all replicas but the LLM's, at most; `deadline_s`: the longest answer; `grace_s`: what a pod needs to
    end after it; `variables`: of Ray's pods.
    """

    text: str
    llm_replicas: int
    cpus: float
    deadline_s: float
    grace_s: int
    variables: Mapping[str, str]


def fit(things: Sequence[Json], served: Served) -> None:
    """Changes `things`. What is large enough stays as it is."""
    renamed: dict[str, str] = {}
    for thing in things:
        if thing.get("kind") == "ConfigMap" and str(thing["metadata"]["name"]).startswith(SETTINGS_MAP):
            renamed |= _variables(thing, served)
    for thing in things:
        if thing.get("kind") == "RayService":
            _groups(thing, served)
            _name(thing, renamed)


def gpu_group(thing: Mapping[str, Any]) -> Json | None:
    """The worker group of a RayService that runs the LLM."""
    config = (thing.get("spec") or {}).get("rayClusterConfig") or {}
    groups = config.get("workerGroupSpecs") or [] if thing.get("kind") == "RayService" else []
    return next((group for group in groups if group.get("groupName") == GPU_GROUP), None)


def _variables(thing: Json, served: Served) -> dict[str, str]:
    """{old name: new name}: another content is another name, so that a running cluster keeps what it started with."""
    data = thing.setdefault("data", {})
    changed = {name: value for name, value in served.variables.items() if name in data and data[name] != value}
    if not changed:
        return {}
    data.update(changed)
    old = str(thing["metadata"]["name"])
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
    thing["metadata"]["name"] = f"{SETTINGS_MAP}-{digest}"
    return {old: thing["metadata"]["name"]}


def _groups(thing: Json, served: Served) -> None:
    spec = thing["spec"]
    kept = int(spec.get("rayClusterDeletionDelaySeconds", 60))
    spec["rayClusterDeletionDelaySeconds"] = max(kept, math.ceil(served.deadline_s) + 30)
    for group in spec["rayClusterConfig"].get("workerGroupSpecs") or []:
        pod = group["template"]["spec"]
        pod["terminationGracePeriodSeconds"] = max(int(pod.get("terminationGracePeriodSeconds", 30)), served.grace_s)
        wanted = served.llm_replicas if group["groupName"] == GPU_GROUP else math.ceil(served.cpus / _cpus(group))
        group["maxReplicas"] = max(int(group.get("maxReplicas", 0)), wanted)


def _cpus(group: Json) -> float:
    """Of one pod, as Ray counts them."""
    told = (group.get("resources") or {}).get("CPU")
    if told is not None:
        return max(0.1, float(told))
    limits = (group["template"]["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
    return max(0.1, number(limits.get("cpu", 1)))


def _name(thing: Json, renamed: Mapping[str, str]) -> None:
    for reference in _references(thing):
        reference["name"] = renamed.get(reference["name"], reference["name"])


def _references(value: Any) -> Iterator[Json]:
    if isinstance(value, dict):
        reference = value.get("configMapRef")
        if isinstance(reference, dict) and "name" in reference:
            yield reference
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
