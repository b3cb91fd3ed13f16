"""Each layer of checks notices the faults that it is for: one is put into a rendered set, which was without."""

from __future__ import annotations

import copy
import re

import pytest

from tests.manifests import crds, rendering, seeds_between, seeds_documents, seeds_operators, seeds_pods, selectors
from tests.manifests.documents import Rendered
from tests.manifests.rendering import Offer
from tests.manifests.seeding import Seed, Set, put
from tests.manifests.test_layers import LAYERS

SEEDS: list[Seed] = [
    *seeds_documents.RENDERING,
    *seeds_documents.CORE,
    *seeds_documents.CUSTOM,
    *seeds_pods.PODS,
    *seeds_pods.SECURITY,
    *seeds_pods.SERVE,
    *seeds_operators.OPERATORS,
    *seeds_between.NAMES,
    *seeds_between.SELECTORS,
    *seeds_between.NODES,
    *seeds_between.SIZES,
    *seeds_between.FLOWS,
    *seeds_between.COMMANDS,
]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.layer}-{seed.name}")
def test_a_fault_is_noticed(seed: Seed) -> None:
    """The layer says something that it did not say before, and it says what is wrong."""
    if seed.layer == "custom":
        crds.required()
    whole = rendering.rendered(seed.offer)
    before = set(LAYERS[seed.layer](whole))
    broken = Set(copy.deepcopy(list(whole.documents)))
    seed.change(broken)
    new = [fault for fault in LAYERS[seed.layer](Rendered(whole.name, tuple(broken.documents))) if fault not in before]
    assert any(re.search(seed.says, fault) for fault in new), f"of {seed.says!r} there is nothing in {new}"


def test_idle_selectors_are_noticed() -> None:
    """A policy, a peer and a monitor that find nothing any more."""
    whole = rendering.rendered(Offer("eks", ("gateway", "tls", "monitoring")))
    before = selectors.optional(whole)
    broken = Set(copy.deepcopy(list(whole.documents)))
    broken.one("NetworkPolicy", "anchorage-dns")["spec"]["podSelector"] = {"matchLabels": {"app": "anchorag"}}
    put(broken.one("NetworkPolicy", "anchorage-index"), "spec.egress.0.to.0.podSelector.matchLabels", {"app": "milvu"})
    put(broken.one("PodMonitor"), "spec.podMetricsEndpoints.0.port", "metric")
    after = selectors.optional(Rendered(whole.name, tuple(broken.documents)))
    lost = [what for what, there in after.items() if not there and before.get(what, True)]
    assert [re.sub(r"^(\w+)/[\w-]+: ", r"\1: ", what) for what in sorted(lost)] == [
        "NetworkPolicy: its selector",
        "NetworkPolicy: egress.0.to.0",
        "PodMonitor: the port 'metric'",
    ]
