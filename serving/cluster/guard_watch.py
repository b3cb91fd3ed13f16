"""The guard at work: follows the pods of the LLM, lets those go that serve, and remembers why others wait."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from serving.cluster.connection import Cluster, Json
from serving.cluster.guard import SELECTOR, llm_now, release, timeline, to_release
from serving.cluster.guard_metrics import GuardMetrics
from serving.errors import AnchorageError, ClusterRefused, ClusterUnavailable, NotFound

#: The server ends a watch after this long, and says where it is at least once a minute; a connection that is silent for
#: longer than both is dead.
_WATCH_S, _SILENCE_S = 240, 300.0
#: First and longest wait after a failure.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_EVENTS_S = 5.0


class Guard:
    """One namespace's. `say` writes a line of its log; `look_s`: how often events are asked for while a pod waits."""

    def __init__(
        self, cluster: Cluster, namespace: str, say: Callable[[str], None], *, look_s: float = _EVENTS_S
    ) -> None:
        self._cluster = cluster
        self._root = f"/api/v1/namespaces/{namespace}"
        self._say = say
        self._look_s = look_s
        self._pods: dict[str, Json] = {}
        self._events: list[Json] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._heard: float | None = None
        self.metrics = GuardMetrics(self.pods, self.age_s)

    def run(self) -> None:
        """Until `stop`. An API server that is away, and rights that are missing, are waited for."""
        threading.Thread(target=self._follow_events, name="events", daemon=True).start()
        wait = _FIRST_WAIT_S
        while not self._stopped.is_set():
            try:
                self._watch(self._list())
                wait = _FIRST_WAIT_S
            except AnchorageError as error:
                self.metrics.failed()
                self._say(f"{str(error).rstrip('.')}. Trying again in {wait:.0f} s.")
                # Guards of many namespaces do not all come back at one moment.
                self._stopped.wait(wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, _LONGEST_WAIT_S)

    def stop(self) -> None:
        self._stopped.set()

    def pods(self) -> list[Json]:
        with self._lock:
            return list(self._pods.values())

    def age_s(self) -> float:
        """Since the API server last said something; since ever, before it did."""
        return time.monotonic() - self._heard if self._heard is not None else float("inf")

    def llm(self) -> Json | None:
        """See `llm_now`; None before the pods have been listed."""
        if self._heard is None:
            return None
        return {**llm_now(self.pods(), self._events, datetime.now(UTC)), "seen_s_ago": round(self.age_s(), 1)}

    def _list(self) -> str:
        """The resource version to watch from."""
        found = self._cluster.get(f"{self._root}/pods", {"labelSelector": SELECTOR}, patience_s=0)
        with self._lock:
            self._pods = {pod["metadata"]["name"]: pod for pod in found.get("items") or []}
        self._heard = time.monotonic()
        for pod in self.pods():
            self._let_go(pod)
        return str((found.get("metadata") or {}).get("resourceVersion") or "")

    def _watch(self, version: str) -> None:
        """Returns when the server ends it, or no longer knows the version: then all is listed anew."""
        query: dict[str, str | int | bool] = {
            "labelSelector": SELECTOR,
            "resourceVersion": version,
            "allowWatchBookmarks": True,
            "timeoutSeconds": _WATCH_S,
        }
        for event in self._cluster.events(f"{self._root}/pods", query, silence_s=_SILENCE_S):
            if self._stopped.is_set():
                return
            self._heard = time.monotonic()
            if event.get("type") == "ERROR":
                told = event.get("object") or {}
                if told.get("code") == 410:
                    return
                raise ClusterUnavailable(f"The watch was ended: {told.get('message')}")
            if event.get("type") in ("ADDED", "MODIFIED", "DELETED"):
                self._note(event)

    def _note(self, event: Json) -> None:
        pod = event["object"]
        name = pod["metadata"]["name"]
        with self._lock:
            if event["type"] == "DELETED":
                self._pods.pop(name, None)
                return
            self._pods[name] = pod
        self._let_go(pod)

    def _let_go(self, pod: Json) -> None:
        """Counted once: the annotations are gone afterwards, whoever asks."""
        if not to_release(pod):
            return
        name = pod["metadata"]["name"]
        try:
            # Only as it was seen: a pod that was replaced under this name is another one.
            changed = self._cluster.patch(
                f"{self._root}/pods/{name}",
                {"metadata": {"uid": pod["metadata"].get("uid"), **release()["metadata"]}},
                {"fieldManager": "anchorage-guard"},
            )
        except NotFound:
            return
        except ClusterRefused as refused:
            if refused.status == 409:
                return  # another pod by now
            self.metrics.failed()
            self._say(f"{name} serves, and its protection could not be taken away: {refused}")
            return
        with self._lock:
            self._pods[name] = changed
        took = timeline(pod)
        self.metrics.started(took)
        self._say(f"{name} serves ({', '.join(f'{stage} {seconds:.0f} s' for stage, seconds in took.items())}).")

    def _follow_events(self) -> None:
        """Why pods wait; asked only while one does."""
        while not self._stopped.wait(self._look_s):
            if (self.llm() or {}).get("stage") not in ("node", "image", "weights"):
                self._events = []
                continue
            query: dict[str, str | int | bool] = {"fieldSelector": "involvedObject.kind=Pod"}
            try:
                self._events = self._cluster.items(f"{self._root}/events", query)
            except AnchorageError:
                self.metrics.failed()
