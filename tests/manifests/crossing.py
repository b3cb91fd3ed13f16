"""Layer 7: rules between objects. Each file has one kind of them."""

from __future__ import annotations

from tests.manifests import commands, fitting, flows, nodes, references, selectors
from tests.manifests.documents import Rendered


def faults(rendered: Rendered) -> list[str]:
    """All of one set."""
    return [
        fault for part in (references, selectors, nodes, fitting, flows, commands) for fault in part.faults(rendered)
    ]
