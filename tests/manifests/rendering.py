"""Layer 1: every set that manifests/README.md offers, rendered by `kubectl kustomize`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.documents import Document, Rendered, title

MANIFESTS = Path(__file__).parents[2] / "manifests"
#: Sets the images and versions of everything: last in each list of components.
_VERSIONS = "versions"
#: Where everything is. Whoever adds components says it again: what they bring has none.
NAMESPACE = "anchorage"
_TIMEOUT_S = 60
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Words that stand for something that was to be filled in.
_PLACEHOLDER = re.compile(r"\b(CHANGE[-_ ]?ME|REPLACE[-_ ]?ME|FIX[-_]?ME|TODO|TBD|XXX+|PLACEHOLDER)\b", re.IGNORECASE)
_IMAGE_KEYS = {"image", "toolImage", "dummyImage", "reference"}
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class Offer:
    """An overlay, and components on top of it."""

    overlay: str
    components: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((self.overlay, *self.components))


class CannotRender(AssertionError):
    """kustomize refused. What it said is the message."""


def offers() -> list[Offer]:
    """Each overlay by itself, then each row of the README's table of sets: overlay in the first cell, components in
    the second, both in backticks.
    """
    alone = [Offer(path.parent.name) for path in sorted(MANIFESTS.glob("overlays/*/kustomization.yaml"))]
    rows = [offer for offer in map(_row, (MANIFESTS / "README.md").read_text().splitlines()) if offer]
    return list(dict.fromkeys([*alone, *rows]))


def components() -> list[str]:
    """All that there are."""
    return sorted(path.parent.name for path in MANIFESTS.glob("components/*/kustomization.yaml"))


def _row(line: str) -> Offer | None:
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    if not line.startswith("|") or len(cells) < 2:
        return None
    overlay, parts = re.fullmatch(r"`([\w-]+)`", cells[0]), re.findall(r"`([\w-]+)`", cells[1])
    if not overlay or not parts or not (MANIFESTS / "overlays" / overlay[1]).is_dir():
        return None
    return Offer(overlay[1], tuple(parts))


@cache
def rendered(offer: Offer) -> Rendered:
    """Its documents, once a session. Skips where kubectl is missing. Raises CannotRender."""
    return Rendered(str(offer), tuple(parsed(output(offer))))


@cache
def output(offer: Offer) -> str:
    """What kustomize prints."""
    folder = MANIFESTS / "overlays" / offer.overlay
    if not offer.components:
        return kustomize(folder)
    with tempfile.TemporaryDirectory() as above:
        top = Path(above).resolve()
        wanted = [MANIFESTS / "components" / name for name in offer.components]
        wanted += [MANIFESTS / _VERSIONS]
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": [os.path.relpath(folder, top)],
            "components": [os.path.relpath(one, top) for one in wanted],
        }
        (top / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(top)


def kustomize(folder: Path) -> str:
    """Raises CannotRender; skips, visibly, without kubectl, except where CI is set: there it must be."""
    binary = shutil.which("kubectl")
    if binary is None:
        assert not os.environ.get("CI"), "kubectl is missing: install it (1.32 or later), it renders the manifests"
        pytest.skip("kubectl is missing: it renders the manifests")
    done = subprocess.run(
        [binary, "kustomize", str(folder)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise CannotRender(f"{folder.name}: {done.stderr.strip()}")
    return done.stdout


def parsed(text: str) -> list[Document]:
    """Raises CannotRender for a key that is there twice, which YAML libraries take silently."""
    try:
        return [document for document in yaml.load_all(text, Loader=_Strict) if document]
    except yaml.YAMLError as error:
        raise CannotRender(str(error)) from None


class _Strict(_LOADER):  # type: ignore[misc,valid-type]
    """Refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, f"a key is there twice: {keys}", node.start_mark)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def faults(given: Rendered) -> list[str]:
    """Ids that are there twice, images without a version, what was to be filled in, secrets' values, empty fields."""
    ids = Counter(
        (one["apiVersion"].partition("/")[0], one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in given.documents
    )
    found = [f"{kind}/{name}: is there {times} times" for (_, kind, _, name), times in ids.items() if times > 1]
    for document in given.documents:
        found += [f"{title(document)}: {fault}" for fault in _document(document)]
    return found


def _document(document: Document) -> Iterator[str]:
    if document["kind"] == "Secret" and (document.get("data") or document.get("stringData")):
        yield "holds values: name the Secret and its keys in a README, `anchorage deploy` or the user makes it"
    for path, value in leaves(document):
        where = ".".join(map(str, path))
        if path[-1] in _IMAGE_KEYS and isinstance(value, str):
            yield from (f"{where}: {fault}" for fault in [image(value)] if fault)
        if isinstance(value, str) and path[-1] != "description" and (found := _PLACEHOLDER.search(value)):
            yield f"{where}: {found[0]!r} was to be filled in"


def image(name: str) -> str | None:
    """What is wrong with the reference of an image, or None."""
    tag = name.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if _DIGEST.search(name) or (tag and tag != "latest"):
        return None
    return f"the image {name!r} has no version: set it in manifests/versions"


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every scalar with its path."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from leaves(one, (*path, i))
    elif path:
        yield path, value
