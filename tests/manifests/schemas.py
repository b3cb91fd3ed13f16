"""Manifests against schemas, without a cluster: core kinds by kubernetes-validate, custom ones by their CRDs.

The CRDs are not part of this repository: ANCHORAGE_CRDS names a folder of them, ../shared/crds is the default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CRDS = Path(os.environ.get("ANCHORAGE_CRDS") or ROOT.parent / "shared" / "crds")
#: The oldest and the newest Kubernetes that the manifests are for.
RELEASES = ("1.34", "1.37")
#: Of Pod Security Standards, "restricted".
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_METADATA = {"name", "namespace", "labels", "annotations"}


def manifests(folder: str) -> dict[str, dict[str, Any]]:
    """One resource a file, by the file's name."""
    found = {}
    for path in sorted((ROOT / "manifests" / folder).glob("*.yaml")):
        if path.stem == "kustomization":
            continue
        (found[path.stem],) = yaml.safe_load_all(path.read_text())
    return found


def check_core(manifest: Mapping[str, Any]) -> None:
    """Unknown keys and wrong types, in each release. Raises kubernetes_validate.ValidationError."""
    for release in RELEASES:
        kubernetes_validate.validate(dict(manifest), release, strict=True)


def check_pod(template: Mapping[str, Any]) -> None:
    """A pod template of a custom resource, as the pod that is made of it."""
    metadata = {**template.get("metadata", {}), "name": "pod"}
    check_core({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


def check_custom(manifest: Mapping[str, Any]) -> None:
    """By the CRD, closed: what it does not name is refused. Skips, visibly, without the CRDs."""
    if not CRDS.is_dir():
        pytest.skip(f"no CRDs at {CRDS}: name a folder with ANCHORAGE_CRDS")
    group, version = manifest["apiVersion"].split("/")
    jsonschema.Draft202012Validator(_schema(group, version, manifest["kind"])).validate(manifest)


@cache
def _schema(group: str, version: str, kind: str) -> dict[str, Any]:
    for path in CRDS.rglob(f"{group}_{kind.lower()}s.yaml"):
        crd = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for served in crd["spec"]["versions"]:
            if served["name"] == version and served["served"]:
                closed: dict[str, Any] = _closed(served["schema"]["openAPIV3Schema"])
                metadata = {"type": "object", "propertyNames": {"enum": sorted(_METADATA)}}
                closed["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": metadata}
                return closed
    raise AssertionError(f"no CRD of {group}/{version} {kind} in {CRDS}")


def _closed(schema: Mapping[str, Any]) -> Any:
    """As JSON Schema. Objects stay open where the API server keeps what it does not know."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **{key: schema[key] for key in ("pattern",) if key in schema}}
    closed = {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-") and key not in ("format", "description", "default", "nullable")
    }
    if "properties" in schema:
        closed["properties"] = {name: _closed(below) for name, below in schema["properties"].items()}
    if isinstance(schema.get("items"), Mapping):
        closed["items"] = _closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), Mapping):
        closed["additionalProperties"] = _closed(schema["additionalProperties"])
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed["additionalProperties"] = False
    return closed


def containers(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All of a pod's spec."""
    yield from (*pod.get("initContainers", ()), *pod["containers"])


def restricted(pod: Mapping[str, Any]) -> list[str]:
    """What the Pod Security Standard "restricted" would refuse of a pod's spec."""
    wrong = [flag for flag in ("hostNetwork", "hostPID", "hostIPC") if pod.get(flag)]
    wrong += [f"volume {volume['name']}" for volume in pod.get("volumes", ()) if not _VOLUMES & volume.keys()]
    shared = pod.get("securityContext", {})
    for container in containers(pod):
        own = {**shared, **container.get("securityContext", {})}
        name = container["name"]
        wrong += [f"{name}: may gain privileges"] if own.get("allowPrivilegeEscalation") is not False else []
        wrong += [f"{name}: keeps capabilities"] if own.get("capabilities", {}).get("drop") != ["ALL"] else []
        wrong += [f"{name}: may be root"] if own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0 else []
        seccomp = own.get("seccompProfile", {}).get("type")
        wrong += [f"{name}: seccomp"] if seccomp not in ("RuntimeDefault", "Localhost") else []
    return wrong
