"""What a deployment waits for, why and since when: pure, of what the API server says about its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from serving.cluster.objects import Json, identity

#: The reason of a pod that has nothing to wait for but its own readiness.
RUNS = "it runs, and is not ready yet"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One object that is not as it should be. `blocks`: the deployment is not ready before it is.

    `pod` and `container` name whose last log line says more, if any.
    """

    what: str
    reason: str
    since: datetime | None = None
    blocks: bool = False
    pod: str = ""
    container: str = ""

    def seconds(self, now: datetime) -> float | None:
        return max(0.0, (now - self.since).total_seconds()) if self.since else None


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a namespace. `workloads` are what we applied, as the server has them now."""

    workloads: Sequence[Json]
    pods: Sequence[Json] = ()
    claims: Sequence[Json] = ()
    events: Sequence[Json] = ()

    def last_event(self, kind: str, name: str, *reasons: str) -> Json | None:
        """The newest one about an object."""
        about = [
            event
            for event in self.events
            if (event.get("involvedObject") or {}).get("kind") == kind
            and (event.get("involvedObject") or {}).get("name") == name
            and (not reasons or event.get("reason") in reasons)
        ]
        return max(about, key=event_time, default=None)


def open_reasons(seen: Seen) -> list[Waiting]:
    """Those that block first. None that blocks: the deployment is ready."""
    found = [waiting for thing in seen.workloads if (waiting := _workload(thing, seen))]
    found += [waiting for pod in seen.pods if (waiting := _pod(pod, seen))]
    found += [waiting for claim in seen.claims if (waiting := _claim(claim, seen))]
    return sorted(found, key=lambda each: not each.blocks)


def pod_reason(pod: Json, seen: Seen) -> str:
    """Why a pod is not ready; empty for one that is."""
    waiting = _pod(pod, seen)
    return waiting.reason if waiting else ""


def time_of(text: object) -> datetime | None:
    """RFC 3339, as Kubernetes writes it."""
    if not isinstance(text, str) or not text:
        return None
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        return None
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def event_time(event: Mapping[str, object]) -> float:
    """Newer API servers leave the old fields of an event empty."""
    series = event.get("series")
    last = series.get("lastObservedTime") if isinstance(series, Mapping) else None
    metadata = event.get("metadata")
    made = metadata.get("creationTimestamp") if isinstance(metadata, Mapping) else None
    for text in (last, event.get("lastTimestamp"), event.get("eventTime"), made):
        if found := time_of(text):
            return found.timestamp()
    return 0.0


def condition(thing: Json, name: str) -> Json:
    """Of the status; empty where there is none."""
    conditions = (thing.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == name), {})


def _workload(thing: Json, seen: Seen) -> Waiting | None:
    who = identity(thing)
    look = _LOOKS.get(who.kind)
    reason = look(thing) if look else None
    if reason is None or look is None:
        return None
    if not thing.get("status") and who.kind in _CONTROLLERS:
        reason = f"nobody has looked at it yet: does {_CONTROLLERS[who.kind]} run?"
    event = seen.last_event(who.kind, who.name)
    if event is not None and event.get("type") == "Warning":
        reason = f"{reason} ({event.get('message')})"
    since = condition(thing, "Ready").get("lastTransitionTime") or thing["metadata"].get("creationTimestamp")
    return Waiting(str(who), reason, time_of(since), blocks=who.kind != "Job")


def _ray_service(thing: Json) -> str | None:
    status = thing.get("status") or {}
    if not _looked_at(thing):
        return "KubeRay has not seen the change yet"
    applications = _applications(status)
    starting = "; ".join(_starting(applications))
    if condition(thing, "UpgradeInProgress").get("status") == "True":
        return f"the new cluster starts beside the old one{f': {starting}' if starting else ''}"
    if condition(thing, "Ready").get("status") == "True" and not starting:
        return None
    ready = condition(thing, "Ready")
    return starting or str(ready.get("message") or ready.get("reason") or "the Ray cluster starts")


def _applications(status: Json) -> Json:
    """Of the cluster that comes, else of the one that serves."""
    for which in ("pendingServiceStatus", "activeServiceStatus"):
        if found := (status.get(which) or {}).get("applicationStatuses"):
            return dict(found)
    return {}


def _starting(applications: Json) -> Iterator[str]:
    for name, application in applications.items():
        if application.get("status") == "RUNNING":
            continue
        parts = [
            f"{part} {str(told.get('status', '')).lower()}{': ' + told['message'] if told.get('message') else ''}"
            for part, told in (application.get("serveDeploymentStatuses") or {}).items()
            if told.get("status") != "HEALTHY"
        ]
        said = "; ".join(parts) or str(application.get("message") or "")
        yield f"application {name} {str(application.get('status', 'unknown')).lower()}{f' ({said})' if said else ''}"


def _replicated(thing: Json) -> str | None:
    status, wanted = thing.get("status") or {}, int((thing.get("spec") or {}).get("replicas", 1))
    ready = int(status.get("readyReplicas") or 0)
    updated = int(status.get("updatedReplicas") or 0)
    if _looked_at(thing) and ready >= wanted and updated >= wanted:
        return None
    failure = condition(thing, "ReplicaFailure")
    if failure.get("status") == "True":
        return str(failure.get("message"))
    return f"{min(ready, updated)} of {wanted} pods ready"


def _milvus(thing: Json) -> str | None:
    status = thing.get("status") or {}
    if status.get("status") == "Healthy":
        return None
    bad = [
        f"{each.get('type')}: {each.get('message') or each.get('reason')}"
        for each in status.get("conditions") or []
        if each.get("status") != "True" and each.get("type") != "MilvusUpdated"
    ]
    return "; ".join(bad) or str(status.get("status") or "it starts")


def _conditioned(name: str) -> Callable[[Json], str | None]:
    def look(thing: Json) -> str | None:
        told = condition(thing, name)
        if told.get("status") == "True":
            return None
        return str(told.get("message") or told.get("reason") or f"not {name.lower()} yet")

    return look


def _job(thing: Json) -> str | None:
    """One that works is no reason to wait; one that failed is worth saying."""
    failed = condition(thing, "Failed")
    return str(failed.get("message") or failed.get("reason")) if failed.get("status") == "True" else None


_LOOKS: Mapping[str, Callable[[Json], str | None]] = {
    "RayService": _ray_service,
    "Deployment": _replicated,
    "StatefulSet": _replicated,
    "Milvus": _milvus,
    "Certificate": _conditioned("Ready"),
    "Gateway": _conditioned("Programmed"),
    "Job": _job,
}
WORKLOADS = frozenset(_LOOKS)
_CONTROLLERS = {
    "RayService": "the KubeRay operator",
    "Milvus": "the Milvus operator",
    "Certificate": "cert-manager",
    "Gateway": "a Gateway controller",
    "Deployment": "the controller manager",
    "StatefulSet": "the controller manager",
}


def _looked_at(thing: Json) -> bool:
    seen = (thing.get("status") or {}).get("observedGeneration")
    return seen is not None and int(seen) >= int(thing["metadata"].get("generation") or 0)


def _pod(pod: Json, seen: Seen) -> Waiting | None:
    metadata, status = pod["metadata"], pod.get("status") or {}
    name = str(metadata["name"])
    if metadata.get("deletionTimestamp") or status.get("phase") == "Succeeded":
        return None
    ready = condition(pod, "Ready")
    if ready.get("status") == "True":
        return None
    made = time_of(metadata.get("creationTimestamp"))
    if not (pod.get("spec") or {}).get("nodeName"):
        return _unscheduled(pod, seen, made)
    scheduled = time_of(condition(pod, "PodScheduled").get("lastTransitionTime")) or made
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = container.get("state") or {}
        if "waiting" in state:
            return _waiting_container(name, container, seen, scheduled)
        if "terminated" in state and state["terminated"].get("exitCode"):
            code, why = state["terminated"].get("exitCode"), state["terminated"].get("reason")
            reason = f"{container['name']} ended: {why}, exit code {code}"
            return Waiting(f"Pod/{name}", reason, scheduled, pod=name, container=container["name"])
    if status.get("phase") == "Failed":
        return Waiting(f"Pod/{name}", str(status.get("message") or status.get("reason") or "failed"), scheduled)
    return Waiting(f"Pod/{name}", RUNS, time_of(ready.get("lastTransitionTime")) or scheduled)


def _unscheduled(pod: Json, seen: Seen, made: datetime | None) -> Waiting:
    """The scheduler's word, and that of whoever makes nodes."""
    name = str(pod["metadata"]["name"])
    told = condition(pod, "PodScheduled")
    reason = str(told.get("message") or "no scheduler has looked at it yet")
    nodes = seen.last_event("Pod", name, "TriggeredScaleUp", "NotTriggerScaleUp", "Nominated", "FailedScaleUp")
    if nodes is not None:
        reason = f"{reason} ({nodes.get('reason')}: {nodes.get('message')})"
    return Waiting(f"Pod/{name}", reason, time_of(told.get("lastTransitionTime")) or made)


def _waiting_container(name: str, container: Json, seen: Seen, since: datetime | None) -> Waiting:
    told = container["state"]["waiting"]
    reason, message = str(told.get("reason") or "waiting"), str(told.get("message") or "")
    if reason in ("ContainerCreating", "PodInitializing"):
        event = seen.last_event("Pod", name, "Pulling", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
        message = str(event.get("message")) if event is not None else ""
    what = f"{container['name']}: {reason}{f' ({message})' if message else ''}"
    crashed = reason == "CrashLoopBackOff"
    return Waiting(
        f"Pod/{name}", what, since, pod=name if crashed else "", container=container["name"] if crashed else ""
    )


def _claim(claim: Json, seen: Seen) -> Waiting | None:
    name = str(claim["metadata"]["name"])
    if (claim.get("status") or {}).get("phase") == "Bound":
        return None
    event = seen.last_event("PersistentVolumeClaim", name)
    if event is not None and event.get("reason") == "WaitForFirstConsumer":
        return None  # the pod's own reason says more
    reason = (
        str(event.get("message")) if event is not None else "no volume yet: does its storage class have a provisioner?"
    )
    return Waiting(f"PersistentVolumeClaim/{name}", reason, time_of(claim["metadata"].get("creationTimestamp")))
