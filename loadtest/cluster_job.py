"""One level of a load test as Jobs of a cluster: a master and its workers, followed until the result is home."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from loadtest import by_log, cluster_objects
from loadtest.by_log import Gathered, NoResult
from loadtest.cluster_log import PodLog
from loadtest.cluster_objects import ROLE, RUN, Json
from loadtest.run import Run, Study
from loadtest.running import OnProgress
from serving.cluster.connection import Cluster
from serving.cluster.look import listed
from serving.cluster.waits import RUNS, Seen, condition, pod_reason
from serving.errors import AnchorageError, ClusterUnavailable, ConfigurationError, NotFound

#: Between two looks at the Jobs, seconds.
LOOK_S = 2.0
#: The API server may be away so long, as it is while a control plane is upgraded, seconds.
PATIENCE_S = 600.0
#: Until the pods work: a node may have to come, and an image.
START_S = 1800.0
#: Clocks that differ by less are the same: progress takes a moment to get here, seconds.
_SKEW_S = 5.0
_LAST_WORDS = 6
_QUERY = {"fieldManager": "anchorage", "fieldValidation": "Strict"}


@dataclass(frozen=True, slots=True)
class ClusterRuns:
    """`run` makes a run, again and again. `image` empty: that of the deployment's Api. `on_state` is told what happens.

    `keep`: the Jobs stay, until their time to live is over.
    """

    cluster: Cluster
    namespace: str
    workers: int = 2
    image: str = ""
    api_key: str = ""
    keep: bool = False
    start_s: float = START_S
    look_s: float = LOOK_S
    on_state: Callable[[str], None] = lambda state: None

    def run(self, arguments: Sequence[str], on_progress: OnProgress = lambda progress: None) -> Study:
        """`arguments`: of `python -m loadtest.locustfile`. Blocking.

        Raises NoResult, ConfigurationError (files, no image, what the cluster refuses), ClusterUnavailable (away for
        too long). Whatever happens, what was made is taken away again.
        """
        carried = cluster_objects.carried(arguments)
        run = self._described(carried)
        things = cluster_objects.objects(run)
        following = _Following(self, run.name, on_progress, carried.paths)
        try:
            self._create(things)
            self.on_state(f"Job {run.name}, {self.workers} workers, in namespace {self.namespace}")
            return following.study()
        finally:
            if not self.keep:
                self._delete(things)

    def _described(self, carried: cluster_objects.Carried) -> cluster_objects.Run:
        if self.workers < 1:
            raise ConfigurationError(f"--workers {self.workers}: at least one has to ask.")
        path = f"/apis/ray.io/v1/namespaces/{self.namespace}/rayservices"
        services = [] if self.image else listed(self.cluster, path)
        found, placement = cluster_objects.placement(services)
        if not (self.image or found):
            raise ConfigurationError(
                f"There is no deployment in namespace {self.namespace!r} whose image a load test could use, or it may "
                "not be looked at: name the namespace with --namespace, or an image with --image."
            )
        name = f"loadtest-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        return cluster_objects.Run(
            name,
            carried.arguments,
            self.workers,
            self.image or found,
            self.start_s,
            self.namespace,
            carried.files,
            placement,
            self.api_key,
        )

    def _create(self, things: Sequence[Json]) -> None:
        """The master's Job owns the others: whoever takes it away, they go, too."""
        owner: Json = {}
        for thing, (path, name) in zip(things, cluster_objects.walk(things), strict=True):
            if owner:
                thing["metadata"]["ownerReferences"] = [owner]
            self.cluster.create_once(path, thing, _QUERY, patience_s=PATIENCE_S)
            if not owner:
                made = self.cluster.get(f"{path}/{name}")
                owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made["metadata"]["uid"]}

    def _delete(self, things: Sequence[Json]) -> None:
        failed = ""
        for path, name in cluster_objects.walk(things):
            try:
                self.cluster.delete(f"{path}/{name}")
            except NotFound:
                continue
            except AnchorageError as error:
                failed = str(error)
        if failed:
            where = f"{RUN}={things[0]['metadata']['name']} --namespace {self.namespace}"
            self.on_state(f"Not all was taken away ({failed}): kubectl delete job,service,networkpolicy -l {where}")


@dataclass
class _Following:
    """One run, from its pods' first signs to the result."""

    runs: ClusterRuns
    name: str
    on_progress: OnProgress
    paths: Mapping[str, str]
    gathered: Gathered = field(default_factory=Gathered)
    said: set[str] = field(default_factory=set)
    #: The last lines of the master's log that are neither progress nor result.
    words: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_WORDS))
    asks: bool = False
    #: The run's beginning by the clock of this machine: what came with the least delay says it best.
    began: float = math.inf
    #: When the API server was last heard of.
    heard: float = field(default_factory=time.monotonic)

    def study(self) -> Study:
        """Raises as `ClusterRuns.run`."""
        started, log = time.monotonic(), None
        while True:
            pods, job = self._look()
            master = next((pod for pod in pods if _role(pod) == "master"), None)
            if master is not None and log is None:
                log = PodLog(self.runs.cluster, self.runs.namespace, master["metadata"]["name"])
            ended = _ended(job, master)
            if log is not None and ended:
                self._rest(log)
            elif log is not None and _phase(master) != "Pending":
                self._read(log)
            if self.gathered.whole:
                return self._home()
            if ended:
                self._finish(master, job)
            self._check(pods, started)
            time.sleep(self.runs.look_s)

    def _home(self) -> Study:
        """With the files as they are called here."""
        text = self.gathered.file().decode()
        for name, path in self.paths.items():
            text = text.replace(f"{cluster_objects.FILES}/{name}", json.dumps(path)[1:-1])
        study = Study.from_json(json.loads(text), f"the result of {self.name}")
        for run in study.runs:
            self._by_our_clock(run)
        return study

    def _by_our_clock(self, run: Run) -> None:
        """Where the pod's is another: what is watched from here is put beside the run by the time."""
        if _SKEW_S < abs(run.began - self.began) < math.inf:
            run.started_at = datetime.fromtimestamp(self.began, UTC).isoformat(timespec="milliseconds")

    def _look(self) -> tuple[list[Json], Json | None]:
        """The pods, and the master's Job; None: it is gone. What keeps pods from working is told."""
        cluster, namespace = self.runs.cluster, self.runs.namespace
        try:
            job = cluster.find(f"/apis/batch/v1/namespaces/{namespace}/jobs/{self.name}")
            pods = cluster.items(f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": f"{RUN}={self.name}"})
            events = listed(cluster, f"/api/v1/namespaces/{namespace}/events")
        except ClusterUnavailable as away:
            if time.monotonic() - self.heard > PATIENCE_S:
                raise
            self._say(str(away))
            return [], {}
        self.heard = time.monotonic()
        seen = Seen([], pods, (), events)
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
            self._say(f"{_called(pod)}: {_state(pod, seen)}")
        for name in (self.name, f"{self.name}-workers"):
            event = seen.last_event("Job", name, "FailedCreate")
            if event is not None and len(pods) <= self.runs.workers:
                self._say(f"{name}: its pods cannot be made: {event.get('message')}")
        return pods, job

    def _say(self, state: str) -> None:
        if state not in self.said:
            self.said.add(state)
            self.runs.on_state(state)

    def _rest(self, log: PodLog) -> None:
        """What is left of the log of a master that ended. If a part is missing then, all of the log, once more."""
        deadline = time.monotonic() + PATIENCE_S
        for each in (log, PodLog(log.cluster, log.namespace, log.pod)):
            self._read(each, follow=False)
            while each.broken and not self.gathered.whole and time.monotonic() < deadline:
                time.sleep(self.runs.look_s)
                self._read(each, follow=False)
            if self.gathered.whole or not self.gathered.begun:
                return

    def _read(self, log: PodLog, *, follow: bool = True) -> None:
        """Until the log is silent or at its end; meanwhile the pods are looked at, too."""
        looked = time.monotonic()
        for line in log.lines(silence_s=3 * self.runs.look_s, follow=follow):
            if line.startswith(by_log.PROGRESS):
                with suppress(ValueError):  # a line that was cut
                    self._progress(json.loads(line.removeprefix(by_log.PROGRESS)))
            elif not self.gathered.take(line) and (" | " not in line and line.strip(" -|")):  # no table of locust's
                self.words.append(line.strip())
            if follow and not self.gathered.begun and time.monotonic() - looked > self.runs.look_s:
                self._look()
                looked = time.monotonic()

    def _progress(self, told: Mapping[str, Any]) -> None:
        self.asks = self.asks or told.get("phase") != "waiting"
        if told.get("phase") in ("warm-up", "measuring"):
            self.began = min(self.began, time.time() - float(told["t_s"]))
        self.on_progress(told)

    def _finish(self, master: Json | None, job: Json | None) -> None:
        """There is no result. Raises NoResult, always."""
        if self.gathered.begun:
            self.gathered.file()
        why = "it was deleted before it ended" if job is None else ""
        failed = condition(job or {}, "Failed")
        if failed.get("status") == "True" and failed.get("reason") != "BackoffLimitExceeded":
            why = str(failed.get("message") or failed.get("reason"))
        if not why and master is not None:
            why = pod_reason(master, Seen([master])) or "its master ended"
        raise NoResult(f"{self.name} has no result: {why or 'it failed'}.{self._last_words()}")

    def _check(self, pods: Sequence[Json], started: float) -> None:
        """Before anything is asked: pods that will not work any more. Raises NoResult."""
        if self.asks:
            return
        lost = [pod for pod in pods if _role(pod) == "worker" and _phase(pod) == "Failed"]
        if lost:
            seen = Seen([], pods)
            raise NoResult(f"{self.name}: {_called(lost[0])} failed: {_state(lost[0], seen)}.{self._last_words()}")
        # The master gives up on its workers by itself, as they do on it: this is for pods that do not run.
        waiting = [pod for pod in pods if _phase(pod) == "Pending"]
        if (waiting or len(pods) <= self.runs.workers) and time.monotonic() - started > self.runs.start_s:
            raise NoResult(f"{self.name}: its pods did not start within {self.runs.start_s:g} s: {self._told()}")

    def _told(self) -> str:
        return "; ".join(sorted(self.said)) or "nothing is known of them"

    def _last_words(self) -> str:
        return f" Its last words: {' | '.join(self.words)}" if self.words else ""


def _role(pod: Json) -> str:
    return str((pod["metadata"].get("labels") or {}).get(ROLE, ""))


def _called(pod: Json) -> str:
    index = (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", "")
    return f"{_role(pod) or pod['metadata']['name']} {index}".strip()


def _phase(pod: Json | None) -> str:
    return str(((pod or {}).get("status") or {}).get("phase", "Pending"))


def _state(pod: Json, seen: Seen) -> str:
    if _phase(pod) == "Succeeded":
        return "done"
    reason = pod_reason(pod, seen)
    return reason if reason and reason != RUNS else "runs"


def _ended(job: Json | None, master: Json | None) -> bool:
    """A Job that is gone has ended; {}: nobody knows."""
    if job is None or _phase(master) in ("Succeeded", "Failed"):
        return True
    return any(condition(job, name).get("status") == "True" for name in ("Failed", "Complete"))
