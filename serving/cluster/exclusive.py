"""Components that do not go together, said before kustomize fails in its own words, or does not fail at all."""

from __future__ import annotations

from collections.abc import Sequence

from serving.cluster.render import Wanted, brought
from serving.errors import ConfigurationError

_WEIGHTS = "each says from where the model's weights come"
_MILVUS = "each brings a Milvus of the same name"
_CLIENTS = "KubeRay shifts only what comes through its own Gateway"
#: (one, other, why). The README of one of them says so; tests/cluster/test_exclusive.py holds them together.
PAIRS = (
    ("upgrade-none", "upgrade-incremental", "each is a strategy for upgrades"),
    ("upgrade-incremental", "gateway", _CLIENTS),
    ("upgrade-incremental", "ingress", _CLIENTS),
    ("weights-shared-volume", "weights-in-image", _WEIGHTS),
    ("weights-shared-volume", "weights-object-storage", _WEIGHTS),
    ("weights-in-image", "weights-object-storage", _WEIGHTS),
    ("compile-cache", "weights-shared-volume", "the shared volume keeps what is compiled already"),
    ("karpenter", "cluster-autoscaler", "each makes the GPU nodes"),
    ("karpenter", "dra", "Karpenter makes no node for a pod that asks for its GPU by a claim"),
    ("milvus-standalone-plain", "milvus-operator-standalone", _MILVUS),
    ("milvus-standalone-plain", "milvus-operator-cluster", _MILVUS),
    ("milvus-operator-standalone", "milvus-operator-cluster", _MILVUS),
)
#: What takes a component of the overlay out, and has to come before what takes its place.
_OUT = {"milvus-standalone-plain": "no-milvus", "postgres": "no-postgres"}


def check(wanted: Wanted) -> None:
    """Raises ConfigurationError that names both, and who brought them."""
    ours = {name for pair in PAIRS for name in pair[:2]}
    own = ours & brought(wanted.overlay)
    own -= {name for name, out in _OUT.items() if out in wanted.components}
    for one, other, why in PAIRS:
        if (one in own or one in wanted.components) and (other in own or other in wanted.components):
            if one in own and other in own:
                continue  # an overlay of somebody's own, who knows why
            raise ConfigurationError(
                f"{one} and {other} do not go together: {why}. {_remedy(one, other, own, wanted.components)}"
            )


def _remedy(one: str, other: str, own: set[str], components: Sequence[str]) -> str:
    mine = next((name for name in (one, other) if name in own and name not in components), None)
    if mine is None:
        return "Leave one of them out."
    added = other if mine == one else one
    if mine in _OUT:
        return f"The overlay brings {mine}: take it out first, --with {_OUT[mine]} --with {added}."
    return f"The overlay brings {mine}: leave {added} out, or take an overlay without {mine}."
