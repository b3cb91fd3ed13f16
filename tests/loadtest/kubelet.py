"""A cluster that runs the load test's containers: their real commands, as processes of this machine.

Beside the API server of `tests.cluster` it plays the Job controller, the scheduler and kubelet, and the DNS that finds
the master and the Service of the Api.
"""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.ports import free_port
from tests.cluster.apiserver import Refused, Server
from tests.cluster.wire import serving

Json = dict[str, Any]
_ROLE = "anchorage.dev/role"
#: Of a time as text, without its fraction.
_SECONDS = 19


@dataclass
class Log:
    """As kubelet keeps it. `cut`: lines of it that are gone, as after it was turned over."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False
    cut: Callable[[int, str], bool] = lambda number, text: False

    def add(self, text: str) -> None:
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000+00:00"
        if not self.cut(len(self.lines), text):
            self.lines.append((when, text))


@dataclass
class Cluster(Server):
    """`stuck`: of a pod that never runs, what it has instead. `script`: Python that the masters run instead of locust,
    with workers that do nothing. `cut`: see `Log`.
    """

    logs_of: dict[str, Log] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    #: Host names → what they are here.
    hosts: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    folder: Path = Path()
    stuck: Callable[[Json], Json | None] = lambda pod: None
    cut: Callable[[int, str], bool] = lambda number, text: False
    script: str = ""
    #: The connection of a log breaks after so many lines, once.
    breaks_after: int = 0
    commands: list[list[str]] = field(default_factory=list)

    def log(self, pod: str, query: Json) -> str | Iterator[str]:
        if pod not in self.logs_of:
            text = f'container "locust" in pod "{pod}" is waiting to start: ContainerCreating'
            raise Refused(400, "BadRequest", text)
        return self._written(self.logs_of[pod], query.get("sinceTime", ""), query.get("follow") == "true")

    def _written(self, log: Log, since: str, follow: bool) -> Iterator[str]:
        read = sent = 0
        while True:
            ended, fresh = log.ended, log.lines[read:]
            read += len(fresh)
            for when, text in fresh:
                if when[:_SECONDS] >= since[:_SECONDS]:
                    sent += 1
                    if 0 < self.breaks_after < sent:
                        self.breaks_after = 0
                        return
                    yield f"{when} {text}\n"
            if not follow or (ended and read == len(log.lines)):
                return
            time.sleep(0.02)

    def work(self) -> None:
        """One round of all who look after Jobs."""
        for (kind, namespace, name), thing in list(self.objects.items()):
            owners = thing["metadata"].get("ownerReferences") or []
            if any(not self.find(owner["kind"], owner["name"], namespace) for owner in owners):
                self._collect((kind, namespace, name))
            elif kind == "Job" and not thing.get("status") and self._mountable(thing["spec"]["template"]["spec"]):
                self._start(thing)
        for name, process in list(self.processes.items()):
            self._look(name, process)

    def _collect(self, key: tuple[str, str, str]) -> None:
        """Garbage: its owner is gone. A pod is told to stop."""
        self.objects.pop(key, None)
        if key[0] == "Pod" and key[2] in self.processes:
            self.processes[key[2]].send_signal(signal.SIGTERM)

    def _mountable(self, pod: Json) -> bool:
        """Kubelet waits for what is not optional."""
        (container,) = pod["containers"]
        sources = [one.get("valueFrom", {}).get("secretKeyRef", {"optional": True}) for one in container["env"]]
        secrets = [one["name"] for one in sources if not one.get("optional")]
        configs = [one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one]
        return all(self.find("Secret", one) for one in secrets) and all(self.find("ConfigMap", one) for one in configs)

    def _start(self, job: Json) -> None:
        spec, name = job["spec"], job["metadata"]["name"]
        self.put({**copy.deepcopy(job), "status": {"active": spec.get("parallelism", 1)}})
        for index in range(spec.get("completions", 1)):
            template = copy.deepcopy(spec["template"])
            annotations = {"batch.kubernetes.io/job-completion-index": str(index)} if "completions" in spec else {}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name}-{index}-x",
                    "namespace": job["metadata"]["namespace"],
                    "labels": template["metadata"]["labels"],
                    "annotations": annotations,
                    "ownerReferences": [{"kind": "Job", "name": name}],
                },
                "spec": {**template["spec"], "nodeName": "node-1"},
                "status": {"phase": "Pending"},
            }
            stuck = self.stuck(pod)
            if stuck is None:
                self._run(pod, job)
            self.put({**pod, **(stuck or {"status": {"phase": "Running", "containerStatuses": []}})})

    def _run(self, pod: Json, job: Json) -> None:
        (container,) = pod["spec"]["containers"]
        environment = {**os.environ}
        for variable in container["env"]:
            secret = (variable.get("valueFrom") or {}).get("secretKeyRef")
            held = self.find("Secret", secret["name"]) if secret else None
            if secret and held:
                environment[variable["name"]] = held["stringData"][secret["key"]]
        config = self.find("ConfigMap", pod["metadata"]["labels"]["anchorage.dev/loadtest"])
        for name, text in ((config or {}).get("data") or {}).items():
            (self.folder / "files").mkdir(exist_ok=True)
            (self.folder / "files" / name).write_text(text)
        command = [self._here(part) for part in [*container["command"], *container.get("args", [])]]
        separator = command.index("--") if "--" in command else len(command)
        command[separator:separator] = [f"--port={self.port}"]
        self.commands.append(command)
        if self.script:
            idle = "import time; time.sleep(60)"
            command = ["python", "-c", idle if "completions" in job["spec"] else self.script]
        log = self.logs_of[pod["metadata"]["name"]] = Log(cut=self.cut)
        process = subprocess.Popen(
            [sys.executable, *command[1:]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes[pod["metadata"]["name"]] = process
        threading.Thread(target=_copied, args=(process, log), daemon=True).start()

    def _here(self, part: str) -> str:
        for name, here in self.hosts.items():
            part = part.replace(name, here)
        option, _, host = part.partition("=")
        if option == "--master":
            service = self.find("Service", host)
            assert service is not None
            assert service["spec"]["clusterIP"] == "None"
            return f"{option}=127.0.0.1"
        return part.replace("=/files", f"={self.folder}/files").replace(":/files", f":{self.folder}/files")

    def _look(self, name: str, process: subprocess.Popen[str]) -> None:
        code = process.poll()
        pod = self.find("Pod", name)
        if code is None or not self.logs_of[name].ended or pod is None or pod["status"]["phase"] != "Running":
            return
        ended = {"exitCode": code % 256, "reason": "Completed" if code == 0 else "OOMKilled" if code < 0 else "Error"}
        statuses = [{"name": "locust", "state": {"terminated": ended}}]
        phase = "Succeeded" if code == 0 else "Failed"
        self.put({**pod, "status": {"phase": phase, "containerStatuses": statuses}})
        job = self.find("Job", pod["metadata"]["ownerReferences"][0]["name"])
        if job is not None and "completions" not in job["spec"]:
            said = {"type": "Complete"} if code == 0 else {"type": "Failed", "reason": "BackoffLimitExceeded"}
            self.put({**job, "status": {"conditions": [{"status": "True", **said}]}})

    def role(self, role: str) -> list[Json]:
        """Its pods."""
        return [
            thing for (kind, _, _), thing in list(self.objects.items())
            if kind == "Pod" and thing["metadata"]["labels"].get(_ROLE) == role
        ]  # fmt: skip

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _copied(process: subprocess.Popen[str], log: Log) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.add(line.rstrip("\n"))
    log.ended = True


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """With a namespace, and a deployment whose image is known."""
    ended = threading.Event()

    def play() -> None:
        while not ended.wait(0.05):
            cluster.work()

    cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "anchorage"}})
    pod = {"containers": [{"name": "ray-worker", "image": "registry.test/anchorage:7"}], "nodeSelector": {"pool": "a"}}
    group = {"groupName": "cpu", "template": {"spec": pod}}
    cluster.put(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {"name": "anchorage", "namespace": "anchorage"},
            "spec": {"rayClusterConfig": {"workerGroupSpecs": [group]}},
        }
    )
    thread = threading.Thread(target=play, daemon=True)
    with serving(cluster):
        thread.start()
        try:
            yield cluster
        finally:
            ended.set()
            thread.join(10)
            cluster.stop()
