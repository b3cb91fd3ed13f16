"""The fake nodes' provider: Ray's own, with the time that a cloud takes, and a record of what was asked of it.

Ray's autoscaler loads it by its import path in its own process.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class SlowNodes(FakeMultiNodeProvider):  # type: ignore[misc] # Ray is untyped
    """Nodes come `node_delay_s` after they were asked for. `record`: a file that gets a line of JSON an event.

    `{"t": SECONDS, "kind": "asked" | "gone", "type": TYPE, "count": COUNT}`; times are of `time.monotonic`, which all
    processes of a machine share.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._delay_s = float(provider_config["node_delay_s"])
        self._record = Path(provider_config["record"])
        self._types: dict[str, str] = {}

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        self._write("asked", kind, count)
        time.sleep(self._delay_s)
        before = set(self.non_terminated_nodes({}))
        try:
            super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
        except Exception:
            # The autoscaler is told, and asks again.
            self._write("gone", kind, count)
            raise
        started = set(self.non_terminated_nodes({})) - before
        self._types.update(dict.fromkeys(started, kind))

    def terminate_node(self, node_id: str) -> None:
        super().terminate_node(node_id)
        self._write("gone", self._types.get(node_id, ""), 1)

    def _write(self, kind: str, node_type: str, count: int) -> None:
        line = {"t": time.monotonic(), "kind": kind, "type": node_type, "count": count}
        with self._record.open("a") as record:
            record.write(json.dumps(line) + "\n")
