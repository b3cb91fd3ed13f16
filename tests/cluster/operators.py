"""Those who would look after a deployment: controllers and operators, in a few lines."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cluster.apiserver import Server

Json = dict[str, Any]


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_ready(server: Server) -> None:
    """Everything that is applied works at once."""
    for (kind, _, _), thing in list(server.objects.items()):
        status = _STATUS.get(kind)
        if status is not None:
            wanted = status(thing)
            if thing.get("status") != wanted:
                server.put({**copy.deepcopy(thing), "status": wanted})


def _replicated(thing: Json) -> Json:
    count = thing["spec"].get("replicas", 1)
    return {"observedGeneration": 1, "replicas": count, "readyReplicas": count, "updatedReplicas": count}


def _ray(thing: Json) -> Json:
    deployments = {name: {"status": "HEALTHY"} for name in ("Api", "Embedder")}
    return {
        "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ago(1)}],
        "activeServiceStatus": {
            "applicationStatuses": {"anchorage": {"status": "RUNNING", "serveDeploymentStatuses": deployments}}
        },
    }


_STATUS: dict[str, Callable[[Json], Json]] = {
    "RayService": _ray,
    "StatefulSet": _replicated,
    "Deployment": _replicated,
    "Milvus": lambda thing: {"status": "Healthy", "observedGeneration": 1},
}


@contextmanager
def operators(server: Server) -> Iterator[None]:
    """While the block runs, what is applied becomes ready soon."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.05):
            make_ready(server)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield
    finally:
        stopped.set()
        worker.join(5)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.02)


def pod(name: str, *, status: Json | None = None, node: str | None = None, **metadata: Any) -> Json:
    """As a pod of the LLM, unless labels say otherwise."""
    labels = {"app.kubernetes.io/part-of": "anchorage", "ray.io/group": "gpu"}
    gpu = {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "anchorage", "labels": labels, **metadata},
        "spec": {
            "containers": [{"name": "ray-worker", "image": "i", "resources": gpu}],
            **({"nodeName": node} if node else {}),
        },
        "status": status or {"phase": "Pending"},
    }
