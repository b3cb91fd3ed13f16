"""Layer 6, Milvus: what its operator (1.3.8) takes and what then goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tests.manifests.documents import Document, Rendered, title


def faults(rendered: Rendered) -> list[str]:
    """Of each Milvus resource."""
    return [f"{title(document)}: {fault}" for document in rendered.of("Milvus") for fault in _milvus(document)]


def _milvus(document: Document) -> Iterator[str]:
    spec = document["spec"]
    needs = spec.get("dependencies") or {}
    if needs.get("msgStreamType") != "woodpecker":
        yield "spec.dependencies.msgStreamType: say woodpecker: unsaid, it is pulsar in a cluster, rocksmq alone"
    for part in ("etcd", "storage"):
        chart = (needs.get(part) or {}).get("inCluster")
        if chart is not None and (chart.get("deletionPolicy") != "Retain" or chart.get("pvcDeletion")):
            yield f"spec.dependencies.{part}.inCluster: deletionPolicy must be Retain: its loss is every collection's"
        external = (needs.get(part) or {}).get("external")
        if chart is None and not external:
            yield f"spec.dependencies.{part}: neither external nor inCluster: the operator installs a chart then"
    image = (spec.get("components") or {}).get("image", "")
    if not image:
        yield "spec.components.image: is missing: the operator's default changes with it"
    for name, component in (spec.get("components") or {}).items():
        if isinstance(component, dict) and component.get("replicas") == -1:
            yield f"spec.components.{name}.replicas: -1 leaves it to an HPA, and none is here"
