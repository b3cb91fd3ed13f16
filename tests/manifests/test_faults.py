"""Each layer of checks notices the faults that it is for: one is put into a rendered set, which was without."""

from __future__ import annotations

import copy
import re

import pytest

from tests.manifests import crds, rendering, seeds_between, seeds_core, seeds_pods
from tests.manifests.documents import Rendered
from tests.manifests.seeding import Seed, Set
from tests.manifests.test_layers import LAYERS

SEEDS: list[Seed] = [
    *seeds_core.RENDERING,
    *seeds_core.CORE,
    *seeds_core.CUSTOM,
    *seeds_pods.PODS,
    *seeds_pods.SECURITY,
    *seeds_pods.SERVE,
    *seeds_between.OPERATORS,
    *seeds_between.MORE_OPERATORS,
    *seeds_between.NAMES,
    *seeds_between.SELECTORS,
    *seeds_between.NODES,
    *seeds_between.SIZES,
    *seeds_between.FLOWS,
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
