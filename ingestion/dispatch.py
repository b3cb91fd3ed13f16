"""An ingestion as a RayJob of a cluster: a copy of a suspended one, let go and waited for."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.cluster.connection import Cluster
from serving.errors import ConfigurationError, NotFound

#: KubeRay makes pods' names of it.
_LONGEST_NAME = 47
_LOOK_S = 10.0
#: The API server may be away so long, as it is while a control plane is upgraded, seconds.
PATIENCE_S = 600.0
#: Of `status.jobDeploymentStatus`; before them the job is pending, running or tried again.
_ENDS = frozenset({"Complete", "Failed", "ValidationFailed"})
#: Kueue decides when a job with this label starts; with the annotation, its pods may become more and fewer.
_QUEUE, _ELASTIC = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
_MANAGER = "anchorage"


@dataclass(frozen=True, slots=True)
class Ended:
    """How it went, as KubeRay says it."""

    name: str
    succeeded: bool
    message: str


@dataclass(frozen=True, slots=True)
class Copy:
    """What a copy has of its own. `entrypoint` empty: the template's; `queue`: of Kueue."""

    name: str
    entrypoint: Sequence[str] = ()
    queue: str | None = None


class RayJobs:
    """The RayJobs of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, *, look_s: float = _LOOK_S) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._look_s = look_s

    def dispatch(self, template: str, copy: Copy, on_state: Callable[[str], None] = lambda state: None) -> Ended:
        """Run a copy of `template`; one of its name that exists already is waited for. Blocking.

        Raises NotFound (no such template), ConfigurationError (a name that cannot be, what the cluster refuses),
        ClusterUnavailable (the API server has been away for too long).
        """
        self.start(template, copy)
        return self.follow(copy.name, on_state)

    def start(self, template: str, copy: Copy) -> None:
        """Raises as `dispatch`."""
        if not 0 < len(copy.name) <= _LONGEST_NAME:
            raise ConfigurationError(f"{copy.name!r}: a RayJob's name has 1 to {_LONGEST_NAME} characters.")
        if self._find(copy.name) is not None:
            return
        found = self._find(template)
        if found is None:
            raise NotFound(f"There is no RayJob {template!r} in namespace {self._namespace!r} to make a copy of.")
        job = copy_of(found, copy)
        self._cluster.create_once(self._path, job, {"fieldManager": _MANAGER}, patience_s=PATIENCE_S)

    def follow(self, name: str, on_state: Callable[[str], None] = lambda state: None) -> Ended:
        """Raises as `dispatch`."""
        last = ""
        while True:
            job = self._find(name)
            if job is None:
                return Ended(name, False, "it was deleted before it ended")
            status = job.get("status") or {}
            state = str(status.get("jobDeploymentStatus") or "New")
            if state != last:
                on_state(state)
                last = state
            if state in _ENDS:
                succeeded = state == "Complete" and status.get("jobStatus") == "SUCCEEDED"
                return Ended(name, succeeded, str(status.get("message") or status.get("reason") or ""))
            time.sleep(self._look_s)

    def _find(self, name: str) -> dict[str, Any] | None:
        return self._cluster.find(f"{self._path}/{name}")


def copy_of(template: Mapping[str, Any], copy: Copy) -> dict[str, Any]:
    """The same job under another name, and not suspended, unless a queue lets it go."""
    labels = {"app.kubernetes.io/instance": copy.name, **(template["metadata"].get("labels") or {})}
    metadata: dict[str, Any] = {"name": copy.name, "labels": labels}
    spec = {**template["spec"], "suspend": copy.queue is not None}
    if copy.entrypoint:
        spec["entrypoint"] = shlex.join(copy.entrypoint)
    if copy.queue is not None:
        metadata["labels"] = {**labels, _QUEUE: copy.queue}
        metadata["annotations"] = {_ELASTIC: "true"}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}
