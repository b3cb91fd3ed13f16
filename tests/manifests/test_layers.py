"""Every set that manifests/README.md offers, through seven layers of checks; each ends with what was wrong, where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.manifests import builtin, crds, crossing, custom, kuberay, milvus, pods, rendering, selectors, serve_config
from tests.manifests.documents import Rendered

OFFERS = rendering.offers()
LAYERS: dict[str, Callable[[Rendered], list[str]]] = {
    "rendering": rendering.faults,
    "core": builtin.faults,
    "custom": custom.faults,
    "pods": pods.faults,
    "serve-config": serve_config.faults,
    "operators": lambda given: [*kuberay.faults(given), *milvus.faults(given)],
    "crossing": crossing.faults,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("offer", OFFERS, ids=str)
def test_a_set_passes_each_layer(offer: rendering.Offer, layer: str) -> None:
    """Nothing that an API server, an operator or a user would stumble over."""
    if layer == "custom":
        crds.required()
    found = LAYERS[layer](rendering.rendered(offer))
    assert not found, f"{offer}:\n" + "\n".join(found)


def test_every_component_is_offered() -> None:
    """In a row of the README, or within an overlay; each says what it is."""
    offered = {name for offer in OFFERS for name in offer.components}
    for path in rendering.MANIFESTS.rglob("kustomization.yaml"):
        offered |= {name for name in rendering.components() if f"components/{name}\n" in f"{path.read_text()}\n"}
        offered |= {name for name in rendering.components() if f"../{name}\n" in f"{path.read_text()}\n"}
    assert set(rendering.components()) <= offered, "add a row to the table of sets in manifests/README.md"
    for name in rendering.components():
        assert (rendering.MANIFESTS / "components" / name / "README.md").is_file(), f"{name} has no README"


def test_policies_and_monitors_find_their_pods() -> None:
    """Each selector, peer and port of theirs is of use in at least one set."""
    found: dict[str, bool] = {}
    for offer in OFFERS:
        for what, there in selectors.optional(rendering.rendered(offer)).items():
            found[what] = found.get(what, False) or there
    idle = sorted(what for what, there in found.items() if not there)
    assert not idle, "these select no pod in any set:\n" + "\n".join(idle)


def test_kinds_are_covered() -> None:
    """Each kind of the manifests is known: a core one to Kubernetes, a custom one to a CRD."""
    crds.required()
    for offer in OFFERS:
        for document in rendering.rendered(offer).documents:
            known = builtin.is_builtin(document) or crds.definition(document["apiVersion"], document["kind"])
            assert known, f"{offer}: {document['apiVersion']} {document['kind']}"


INFRASTRUCTURE = sorted(
    path
    for path in rendering.MANIFESTS.glob("infrastructure/**/*.yaml")
    if {"apiVersion", "kind"} <= {line.partition(":")[0] for line in path.read_text().splitlines()}
    and path.name != "kustomization.yaml"
)


@pytest.mark.parametrize("path", INFRASTRUCTURE, ids=lambda path: str(path.relative_to(rendering.MANIFESTS)))
def test_resources_of_the_infrastructure_are_valid(path: Path) -> None:
    """What stands beside the operators, in files of its own: with versions, valid for Kubernetes and the CRDs."""
    crds.required()
    given = Rendered(path.name, tuple(rendering.parsed(path.read_text())))
    found = [*rendering.faults(given), *builtin.faults(given), *custom.faults(given)]
    assert not found, "\n".join(found)
