"""How a test breaks a rendered set, to see that a layer notices: seeds of faults, as people make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from tests.manifests.documents import Document
from tests.manifests.rendering import Offer

EKS = Offer("eks")
EDGES = Offer("eks", ("gateway", "tls"))
GOOGLE = Offer("gke", ("gateway", "gateway-gke", "tls"))
MILVUS = Offer("eks", ("no-milvus", "object-storage", "milvus-operator-cluster"))
DRA = Offer("gke", ("dra",))
KUEUE = Offer("onprem", ("kueue",))
LOADTEST = Offer("local", ("loadtest",))
INCREMENTAL = Offer("onprem", ("upgrade-incremental",))


@dataclass
class Set:
    """What a seed changes: the documents of a set, found by what they are."""

    documents: list[Document]

    def one(self, kind: str, name: str | None = None) -> Any:
        found = [one for one in self.documents if one["kind"] == kind and name in (None, one["metadata"]["name"])]
        assert found, f"no {kind} {name or ''}"
        return found[0]

    @property
    def service(self) -> Any:
        return self.one("RayService")["spec"]

    @property
    def cluster(self) -> Any:
        return self.service["rayClusterConfig"]

    def group(self, name: str) -> Any:
        return next(one for one in self.cluster["workerGroupSpecs"] if one["groupName"] == name)

    def pod(self, name: str) -> Any:
        group = self.cluster["headGroupSpec"] if name == "head" else self.group(name)
        return group["template"]["spec"]

    def container(self, name: str) -> Any:
        return self.pod(name)["containers"][0]

    @property
    def postgres(self) -> Any:
        return self.one("StatefulSet", "postgres")["spec"]

    def serve(self, change: Callable[[Any], Any]) -> None:
        config = yaml.safe_load(self.service["serveConfigV2"])
        change(config)
        self.service["serveConfigV2"] = yaml.safe_dump(config)

    def application(self, **values: Any) -> None:
        self.serve(lambda config: config["applications"][0].update(values))

    def settings(self, group: str, **values: Any) -> None:
        self.serve(lambda config: config["applications"][0]["args"].setdefault(group, {}).update(values))

    def add(self, text: str) -> None:
        labels = {f"app.kubernetes.io/{one}": "x" for one in ("name", "component", "part-of", "managed-by")}
        document = yaml.safe_load(text)
        document["metadata"] = {"namespace": "anchorage", "labels": labels, **document["metadata"]}
        self.documents.append(document)


@dataclass(frozen=True)
class Seed:
    """`says`: what one of the messages must hold, as a regular expression."""

    layer: str
    name: str
    change: Callable[[Set], Any]
    says: str
    offer: Offer = EKS


def at(path: str, value: Any) -> Callable[[Any], None]:
    """Puts a value at a dotted path of the RayService's spec; numbers are places in lists."""

    def change(given: Set) -> None:
        put(given.service, path, value)

    return change


def put(document: Any, path: str, value: Any) -> None:
    """`value` at a dotted path; numbers are places in lists, `~` is a dot within a name."""
    *above, last = (int(part) if part.isdigit() else part.replace("~", ".") for part in path.split("."))
    for part in above:
        document = document[part]
    document[last] = value


HEAD, CPU, GPU = (f"rayClusterConfig.{one}" for one in ("headGroupSpec", "workerGroupSpecs.0", "workerGroupSpecs.1"))
OF_CPU, OF_GPU = f"{CPU}.template.spec.containers.0", f"{GPU}.template.spec.containers.0"
