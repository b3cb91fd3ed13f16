"""Our manifests, put together by kustomize: an overlay, components on top, one namespace."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.cluster.objects import CLUSTER_WIDE, INSTANCE, MANAGED_BY, MANAGER, PART_OF, Json
from serving.errors import ConfigurationError

#: The namespace that the manifests are written for.
NAMESPACE = "anchorage"
#: Every namespace has it, with its name.
_NAME_LABEL = "kubernetes.io/metadata.name"
#: Images and versions in one place: comes after every other component.
_VERSIONS = "versions"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """`overlay` and `components`: names of ours, or folders."""

    overlay: str
    components: tuple[str, ...] = ()
    namespace: str = NAMESPACE


def manifests() -> Path:
    """The folder that is installed with this program. Raises ConfigurationError."""
    try:
        folder = Path(str(importlib.resources.files("manifests")))
    except ModuleNotFoundError as error:
        raise ConfigurationError("The package `manifests` is missing: install anchorage again.") from error
    if not (folder / "base" / "kustomization.yaml").is_file():
        raise ConfigurationError(f"{folder} has no manifests of ours: install anchorage again.")
    return folder


def names(kind: str) -> list[str]:
    """Of our `overlays` or `components`."""
    return sorted(path.parent.name for path in (manifests() / kind).glob("*/kustomization.yaml"))


def without(wanted: Wanted, component: str) -> Wanted | None:
    """The same without a component that is put on top; None where the overlay has it itself, or nobody asked for it."""
    folder = manifests() / "components" / component
    if component not in wanted.components or folder.resolve() in _components_of(_folder(wanted.overlay, "overlays")):
        return None
    # Those that patch it cannot be without it.
    return replace(wanted, components=wanted.components[: wanted.components.index(component)])


def brought(overlay: str) -> set[str]:
    """Names of our components that an overlay has itself. Raises ConfigurationError."""
    ours = (manifests() / "components").resolve()
    return {folder.name for folder in _components_of(_folder(overlay, "overlays")) if folder.parent == ours}


def render(wanted: Wanted) -> list[Json]:
    """Every object, in its namespace and with our labels. Raises ConfigurationError."""
    import yaml

    overlay = _folder(wanted.overlay, "overlays")
    has = _components_of(overlay)
    more = [_folder(each, "components") for each in dict.fromkeys(wanted.components)]
    added = [folder for folder in more if folder.resolve() not in has]
    versions = manifests() / _VERSIONS
    # kustomize takes no absolute paths, and follows no link on the way to a relative one.
    with tempfile.TemporaryDirectory(prefix="anchorage-") as made:
        place = Path(made).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": wanted.namespace,
            "resources": [os.path.relpath(overlay.resolve(), place)],
            "components": [os.path.relpath(each.resolve(), place) for each in [*added, versions]],
        }
        (place / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False))
        text = _kustomize(place, wanted)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    things = [thing for thing in yaml.load_all(text, loader) if thing]
    return [_placed(thing, wanted.namespace) for thing in things]


def _folder(name: str, kind: str) -> Path:
    """Ours by name, or a folder by its path."""
    ours = manifests() / kind / name
    if "/" not in name and (ours / "kustomization.yaml").is_file():
        return ours
    given = Path(name).expanduser()
    if any((given / each).is_file() for each in ("kustomization.yaml", "kustomization.yml", "Kustomization")):
        return given
    one = kind.removesuffix("s")
    raise ConfigurationError(
        f"There is no {one} {name!r}: name one of {', '.join(names(kind))}, or a folder with a kustomization.yaml."
    )


def _components_of(folder: Path, seen: frozenset[Path] = frozenset()) -> set[Path]:
    """Those that an overlay brings itself, also through what it stands on: a patch must not be applied twice."""
    import yaml

    file = folder / "kustomization.yaml"
    if folder.resolve() in seen or not file.is_file():
        return set()
    try:
        told = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is no YAML: {error}") from error
    seen = seen | {folder.resolve()}
    components = {(folder / str(each)).resolve() for each in told.get("components") or []}
    for inner in [*(folder / str(each) for each in told.get("resources") or []), *components]:
        if inner.is_dir():
            components |= _components_of(inner, seen)
    return components


def _kustomize(place: Path, wanted: Wanted) -> str:
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if kubectl is None and kustomize is None:
        raise ConfigurationError(
            "kubectl is needed to put the manifests together, and it is not on the PATH: see "
            "https://kubernetes.io/docs/tasks/tools/ (kustomize alone does, too)."
        )
    # Overlays share files with what stands beside them.
    options = [str(place), "--load-restrictor", "LoadRestrictionsNone"]
    command = [kubectl, "kustomize", *options] if kubectl else [str(kustomize), "build", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{command[0]} could not put the manifests together: {error}") from error
    if done.returncode:
        said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("# Warning"))
        what = " + ".join([wanted.overlay, *wanted.components])
        raise ConfigurationError(f"The manifests of {what} cannot be put together: {said.strip()}")
    return done.stdout


def _placed(thing: Json, namespace: str) -> Json:
    """kustomize takes every custom resource for one with a namespace, and knows no labels of ours."""
    metadata: Json = {**(thing.get("metadata") or {})}
    if thing.get("kind") in CLUSTER_WIDE:
        metadata.pop("namespace", None)
    metadata["labels"] = _marked(metadata.get("labels"), namespace)
    placed: Json = {**thing, "metadata": metadata}
    if thing.get("kind") == "StatefulSet":
        placed["spec"] = _with_marked_claims(thing["spec"], namespace)
    if namespace != NAMESPACE:
        placed = _renamed(placed, namespace)
    return placed


def _marked(labels: Json | None, namespace: str) -> Json:
    return {PART_OF: "anchorage", **(labels or {}), MANAGED_BY: MANAGER, INSTANCE: namespace}


def _with_marked_claims(spec: Json, namespace: str) -> Json:
    """Kubernetes makes these volumes and never takes them away: `destroy --data` finds them by their labels."""
    claims = [
        {**claim, "metadata": {**claim["metadata"], "labels": _marked(claim["metadata"].get("labels"), namespace)}}
        for claim in spec.get("volumeClaimTemplates") or []
    ]
    return {**spec, "volumeClaimTemplates": claims} if claims else spec


def _renamed(value: Any, namespace: str) -> Any:
    """What says the namespace that the manifests are written for: host names of Services, selectors, references."""
    if isinstance(value, dict):
        # A term of `matchExpressions`, the `matchNames` of a monitor.
        listed = {"values"} if value.get("key") == _NAME_LABEL else {"matchNames"}
        return {key: _named(key, inner, namespace, listed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, namespace) for inner in value]
    if isinstance(value, str):
        return value.replace(f".{NAMESPACE}.svc", f".{namespace}.svc")
    return value


def _named(key: str, value: Any, namespace: str, listed: Set[str]) -> Any:
    if key in ("namespace", _NAME_LABEL) and value == NAMESPACE:
        return namespace
    if key in listed and isinstance(value, list):
        return [namespace if each == NAMESPACE else each for each in value]
    return _renamed(value, namespace)


def as_yaml(things: Sequence[Json]) -> str:
    """As one YAML stream, without what is in Secrets."""
    import yaml

    return "".join("---\n" + yaml.safe_dump(_veiled(thing), sort_keys=False, width=120) for thing in things)


def _veiled(thing: Json) -> Json:
    """An overlay of somebody's own may have Secrets: what is in them is not printed."""
    if thing.get("kind") != "Secret":
        return thing
    return {key: dict.fromkeys(value, "(not shown)") if key in ("data", "stringData") else value
            for key, value in thing.items()}  # fmt: skip
