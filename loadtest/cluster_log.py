"""A pod's log, line by line while it is written, over connections that may break."""

from __future__ import annotations

import re
from collections.abc import Iterator

from serving.cluster.connection import Cluster
from serving.errors import ClusterRefused, ClusterUnavailable, NotFound

_CONTAINER = "locust"
_FRACTION = re.compile(r"\.\d+")


class PodLog:
    """`lines` again goes on where the last call ended: each line comes once."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str) -> None:
        self.cluster, self.namespace, self.pod = cluster, namespace, pod
        self._time = ""
        #: Lines of that very time.
        self._same: set[str] = set()
        #: Whether the last call ended because the API server went away, or said nothing.
        self.broken = False

    def lines(self, *, silence_s: float, follow: bool = True) -> Iterator[str]:
        """Until the container has ended, or nothing came for `silence_s`, or the connection broke.

        Raises ClusterRefused (the log may not be read); a container that has not started has no lines.
        """
        self.broken = False
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}/log"
        query: dict[str, str | int | bool] = {"container": _CONTAINER, "timestamps": True, "follow": follow}
        if self._time:
            # Whole seconds: what comes again is left out below.
            query["sinceTime"] = _FRACTION.sub("", self._time)
        try:
            for line in self.cluster.lines(path, query, silence_s=silence_s):
                when, _, text = line.decode("utf-8", "replace").partition(" ")
                if self._new(when, text):
                    yield text
        except NotFound:
            return
        except ClusterUnavailable:
            self.broken = True
        except ClusterRefused as refused:
            if refused.status != 400:  # 400: "container is waiting to start"
                raise

    def _new(self, when: str, text: str) -> bool:
        """Times of one length sort as text: kubelet writes them to the nanosecond, in its node's time zone."""
        if when < self._time or (when == self._time and text in self._same):
            return False
        if when != self._time:
            self._time, self._same = when, set()
        self._same.add(text)
        return True
