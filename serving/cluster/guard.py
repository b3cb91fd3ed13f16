"""The pods of the LLM, from the moment they are wanted until they are gone: pure, of what the API server says.

A pod carries annotations that keep node autoscalers away from it while its model loads (see PROTECTION). They are taken
away when it serves first; so a pod that has none and is not ready has served, and does not any more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from serving.cluster.objects import Json
from serving.cluster.waits import Seen, condition, pod_reason, time_of

#: Karpenter's and the Cluster Autoscaler's word for "leave it alone".
PROTECTION = ("karpenter.sh/do-not-disrupt", "cluster-autoscaler.kubernetes.io/safe-to-evict")
#: The pods of the GPU group that the component `llm` makes.
SELECTOR = "app.kubernetes.io/part-of=anchorage,ray.io/group=gpu"

Stage = Literal["node", "image", "weights", "ready", "idle", "ending"]
STAGES: tuple[Stage, ...] = ("node", "image", "weights", "ready", "idle", "ending")
#: Those of a start, in their order.
STARTING: tuple[Stage, ...] = ("node", "image", "weights")


@dataclass(frozen=True, slots=True)
class State:
    """`since`: when the stage began."""

    stage: Stage
    since: datetime

    def seconds(self, now: datetime) -> float:
        return max(0.0, (now - self.since).total_seconds())


def state_of(pod: Json) -> State:
    """Of one pod."""
    metadata = pod["metadata"]
    made = time_of(metadata.get("creationTimestamp")) or datetime.now(UTC)
    # The deletion's time is when the grace period ends.
    ending = time_of(metadata.get("deletionTimestamp"))
    if ending is not None:
        grace = float(metadata.get("deletionGracePeriodSeconds") or 0)
        return State("ending", datetime.fromtimestamp(ending.timestamp() - grace, UTC))
    ready = condition(pod, "Ready")
    turned = time_of(ready.get("lastTransitionTime"))
    if ready.get("status") == "True":
        return State("ready", turned or made)
    if not is_protected(pod):
        return State("idle", turned or made)
    started = started_at(pod)
    if started is not None:
        return State("weights", started)
    scheduled = time_of(condition(pod, "PodScheduled").get("lastTransitionTime"))
    if condition(pod, "PodScheduled").get("status") == "True":
        return State("image", scheduled or made)
    return State("node", made)


def is_protected(pod: Json) -> bool:
    """Whether it carries any of the annotations."""
    annotations = pod["metadata"].get("annotations") or {}
    return any(name in annotations for name in PROTECTION)


def to_release(pod: Json) -> bool:
    """It serves, and is still protected."""
    return state_of(pod).stage == "ready" and is_protected(pod)


def release() -> Json:
    """A JSON merge patch that takes the protection away."""
    return {"metadata": {"annotations": dict.fromkeys(PROTECTION)}}


def started_at(pod: Json) -> datetime | None:
    """When the process that loads the model began: its image was there."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        # One that crashed and waits for its next turn has begun, too.
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            for which in ("running", "terminated"):
                if told := time_of((state.get(which) or {}).get("startedAt")):
                    return told
    return None


def timeline(pod: Json) -> dict[str, float]:
    """What each stage of a start took, seconds; `ready` is all of it. Empty for a pod that is not ready."""
    made = time_of(pod["metadata"].get("creationTimestamp"))
    scheduled = time_of(condition(pod, "PodScheduled").get("lastTransitionTime"))
    started, ready = started_at(pod), time_of(condition(pod, "Ready").get("lastTransitionTime"))
    if made is None or scheduled is None or started is None or ready is None:
        return {}
    marks = [made, scheduled, started, ready]
    took = [max(0.0, (after - before).total_seconds()) for before, after in itertools.pairwise(marks)]
    return {**dict(zip(STARTING, took, strict=True)), "ready": max(0.0, (ready - made).total_seconds())}


def llm_now(pods: Iterable[Json], events: Iterable[Json], now: datetime) -> Json:
    """What a caller who finds no LLM wants to know: {"stage", "since_s", "reason"}; the pod that is furthest speaks."""
    order: Mapping[str, int] = {"ready": 0, "weights": 1, "image": 2, "node": 3}
    states = [(state_of(pod), pod) for pod in pods]
    known = sorted((each for each in states if each[0].stage in order), key=lambda each: order[each[0].stage])
    if not known:
        return {"stage": "asleep", "since_s": 0.0, "reason": ""}
    state, pod = known[0]
    reason = "" if state.stage == "ready" else pod_reason(pod, Seen((), events=list(events)))
    return {"stage": state.stage, "since_s": round(state.seconds(now), 1), "reason": reason}
