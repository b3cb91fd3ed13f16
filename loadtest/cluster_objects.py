"""What one run on a cluster is made of: the component `loadtest` of the manifests under a name of its own. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.locust_options import READY_S, STOP_TIMEOUT_S
from serving.errors import ConfigurationError

Json = dict[str, Any]

#: The name of everything in the component, and of the Secret with the key of the Api.
COMPONENT = "anchorage-loadtest"
RUN, ROLE = "anchorage.dev/loadtest", "anchorage.dev/role"
#: Not the deployment's own `managed-by`: what is not rendered any more would be taken away with the next deployment.
_LABELS = {
    "app.kubernetes.io/name": "anchorage",
    "app.kubernetes.io/component": "loadtest",
    "app.kubernetes.io/part-of": "anchorage",
    "app.kubernetes.io/managed-by": "loadtest",
}
#: The deployment's own Service.
SERVICE = "anchorage"
#: Where a run's files are in its pods.
FILES = "/files"
#: A ConfigMap holds 1 MiB, keys and all.
_FILES_BYTES = 2**20 - 2**12
#: A result that nobody fetched is there so long, seconds.
_TTL_S = 24 * 3600
#: Beyond what a run's own options add up to, seconds: the image, the end, the result.
_SPARE_S = 900.0
_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
#: Options that take time, with locust's or our defaults, seconds. A run without a time has a day.
_SPANS = {"--run-time": 86400.0, "--stop-timeout": STOP_TIMEOUT_S, "--ready-s": READY_S}
_PLACED = ("imagePullSecrets", "nodeSelector", "tolerations")


@dataclass(frozen=True, slots=True)
class Run:
    """`arguments` are the master's, of `python -m loadtest.locustfile`, and name `files`, by key, in `FILES`.
    `placement`: fields of a pod's spec. `start_s`: how long pods may take until they work.
    """

    name: str
    arguments: Sequence[str]
    workers: int
    image: str
    start_s: float
    namespace: str
    files: Mapping[str, str] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)
    api_key: str = ""


def component() -> list[Json]:
    """As it is shipped. Raises ConfigurationError."""
    import yaml

    from serving.cluster.render import manifests

    folder = manifests() / "components" / "loadtest"
    files = sorted(path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return [yaml.safe_load(path.read_text()) for path in files]


def objects(run: Run) -> list[Json]:
    """The master's Job comes first: all others are made to go with it. Raises ConfigurationError."""
    things = [_renamed(thing, run.name) for thing in component()]
    things.sort(key=lambda thing: (thing["kind"] != "Job", thing["metadata"]["name"]))
    for thing in things:
        thing["metadata"] = {**thing["metadata"], "namespace": run.namespace}
        thing["metadata"]["labels"] = {**_LABELS, RUN: run.name}
        if thing["kind"] == "Job":
            _job(thing["spec"], run)
    if not _ours(_option(run.arguments, "--host"), run.namespace):
        things.append(_way_out(run))
    if run.api_key:
        things.append(_object(run, "Secret", {"stringData": {"api-key": run.api_key}}))
    if run.files:
        things.append(_object(run, "ConfigMap", {"data": dict(run.files)}))
    return things


def placement(services: Sequence[Json]) -> tuple[str, Json]:
    """(image, fields of a pod's spec) of the Api's pods, where a deployment is; an empty image where there is none."""
    for service in services:
        groups = ((service.get("spec") or {}).get("rayClusterConfig") or {}).get("workerGroupSpecs") or []
        for group in groups:
            spec = group["template"]["spec"]
            if group.get("groupName") == "cpu":
                return str(spec["containers"][0]["image"]), {name: spec[name] for name in _PLACED if spec.get(name)}
    return "", {}


def _job(spec: Json, run: Run) -> None:
    spec["activeDeadlineSeconds"] = int(_longest_s(run.arguments) + 2 * run.start_s + _SPARE_S)
    spec["ttlSecondsAfterFinished"] = _TTL_S
    pod = spec["template"]["spec"]
    pod.update(run.placement)
    (container,) = pod["containers"]
    container["image"] = run.image
    if "completions" in spec:
        spec["completions"] = spec["parallelism"] = run.workers
    else:
        container["args"] = list(run.arguments)
    told = {"--workers": run.workers, "--wait-s": int(run.start_s)}
    container["command"] = [_told(part, told) for part in container["command"]]
    for variable in container["env"]:
        if "valueFrom" in variable:
            # A Secret of its own is waited for; a pod is there before it.
            held = {"name": run.name, "optional": False} if run.api_key else {"name": COMPONENT}
            variable["valueFrom"]["secretKeyRef"].update(held)
    if run.files:
        container["volumeMounts"].append({"name": "files", "mountPath": FILES})
        pod["volumes"].append({"name": "files", "configMap": {"name": run.name}})


def _told(part: str, told: Mapping[str, int]) -> str:
    name = part.partition("=")[0]
    return f"{name}={told[name]}" if name in told else part


def _object(run: Run, kind: str, content: Json) -> Json:
    labels = {**_LABELS, RUN: run.name}
    metadata = {"name": run.name, "namespace": run.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def _way_out(run: Run) -> Json:
    """To a server that is none of this deployment: its port, wherever it is."""
    url = urlsplit(_option(run.arguments, "--host"))
    port = url.port or (443 if url.scheme == "https" else 80)
    spec = {
        "podSelector": {"matchLabels": {RUN: run.name}},
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"protocol": "TCP", "port": port}]}],
    }
    policy = _object(run, "NetworkPolicy", {"spec": spec})
    policy["metadata"]["name"] = f"{run.name}-target"
    return {**policy, "apiVersion": "networking.k8s.io/v1"}


def _ours(url: str, namespace: str) -> bool:
    host = urlsplit(url).hostname or ""
    name, _, rest = host.partition(".")
    return name == SERVICE and (not rest or rest.split(".")[0] == namespace)


def _renamed(value: Any, name: str) -> Any:
    """What begins with the component's name, in every field: names, selectors, hosts in command lines."""
    if isinstance(value, dict):
        return {key: _renamed(inner, name) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, name) for inner in value]
    return re.sub(rf"\b{COMPONENT}\b", name, value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Carried:
    """Arguments as they are in the pods. `files`: texts by name; `paths`: where each was on this machine, likewise."""

    arguments: Sequence[str]
    files: Mapping[str, str]
    paths: Mapping[str, str]


def carried(arguments: Sequence[str]) -> Carried:
    """Files of this machine become files of the pods. Raises ConfigurationError for what does not fit."""
    joined, files, paths = _joined(arguments), dict[str, str](), dict[str, str]()
    for place, argument in enumerate(joined):
        option, _, value = argument.partition("=")
        kind = "trace:" if option == "--arrivals" and value.startswith("trace:") else ""
        if option != "--questions" and not kind:
            continue
        path, comma, speed = value.removeprefix(kind).partition(",") if kind else (value, "", "")
        name = f"{option.removeprefix('--')}{Path(path).suffix}"
        try:
            files[name] = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{option} {path}: cannot be read: {error}") from error
        paths[name] = path
        joined[place] = f"{option}={kind}{FILES}/{name}{comma}{speed}"
    size = sum(len(text.encode()) for text in files.values())
    if size > _FILES_BYTES:
        raise ConfigurationError(
            f"{' and '.join(paths.values())}: {size / 2**20:.1f} MiB do not fit into a ConfigMap (1 MiB): take a part."
        )
    return Carried(joined, files, paths)


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--option value` as `--option=value`, which is one argument."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1].startswith("--") and "=" not in found[-1] and not argument.startswith("-"):
            found[-1] = f"{found[-1]}={argument}"
        else:
            found.append(argument)
    return found


def _option(arguments: Sequence[str], name: str) -> str:
    """The last one counts; empty where it is not given."""
    given = [each.partition("=")[2] for each in _joined(arguments) if each.partition("=")[0] == name]
    return given[-1] if given else ""


def _longest_s(arguments: Sequence[str]) -> float:
    return sum(_seconds(_option(arguments, name)) or default for name, default in _SPANS.items())


def _seconds(span: str) -> float:
    """As locust writes it: `90`, `90s`, `1h30m`; 0 for anything else, which locust will refuse."""
    found = _SPAN.fullmatch(span)
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    return 3600 * hours + 60 * minutes + seconds


def walk(things: Sequence[Json]) -> Iterator[tuple[str, str]]:
    """(path of its kind in its namespace, name) of each."""
    for thing in things:
        version = thing["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        yield f"{root}/namespaces/{thing['metadata']['namespace']}/{_PLURALS[thing['kind']]}", thing["metadata"]["name"]


_PLURALS = {
    "Job": "jobs",
    "Service": "services",
    "NetworkPolicy": "networkpolicies",
    "Secret": "secrets",
    "ConfigMap": "configmaps",
}
