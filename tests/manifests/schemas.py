"""Checks of single files, before kustomize: they raise. Whole sets go through the layers (test_layers.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.manifests import crds, custom
from tests.manifests import restricted as security
from tests.manifests.builtin import schema_faults
from tests.manifests.builtin_schema import POD_TEMPLATE, RELEASES, of_type, validator
from tests.manifests.crds import CRDS, ROOT
from tests.manifests.documents import containers

__all__ = [
    "CRDS",
    "RELEASES",
    "ROOT",
    "check_core",
    "check_custom",
    "check_pod",
    "containers",
    "manifests",
    "restricted",
]


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
        checker = validator(release, manifest["apiVersion"], manifest["kind"])
        _refuse(release, schema_faults(checker, dict(manifest)))


def check_pod(template: Mapping[str, Any]) -> None:
    """The same of a pod template of a custom resource."""
    for release in RELEASES:
        _refuse(release, schema_faults(of_type(release, POD_TEMPLATE), dict(template)))


def _refuse(release: str, faults: Iterable[str]) -> None:
    if found := list(faults):
        raise kubernetes_validate.ValidationError(jsonschema.ValidationError("\n".join(found)), release)


def check_custom(manifest: Mapping[str, Any]) -> None:
    """By its CRD: closed, with its rules. Skips, visibly, without the CRDs. Raises jsonschema.ValidationError."""
    crds.required()
    if found := custom.document_faults(dict(manifest)):
        raise jsonschema.ValidationError("\n".join(found))


def restricted(pod: Mapping[str, Any]) -> list[str]:
    """What the Pod Security Standard "restricted" would refuse of a pod's spec."""
    return security.faults(pod)
