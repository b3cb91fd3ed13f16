"""Writes what the CPU image installs: the packages that Anchorage needs on a cluster, each at the version tested here.

`python manifests/images/requirements.py` in the development environment, on Linux with Python 3.11 as in the image.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
OUTPUT = HERE / "requirements-cpu.txt"
EXTRAS = ("cluster", "loadtest", "remote")
#: On a cluster the index is a Milvus server.
LEFT_OUT = {"milvus-lite"}


def needed(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> None:
    """Adds to `found` what `name` with these extras needs, as the installed packages say."""
    key = (_normal(name), extras)
    if key[0] in LEFT_OUT or key in found:
        return
    found.add(key)
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {*extras, ""}):
            needed(requirement.name, frozenset(requirement.extras), found)


def requirements() -> str:
    """One pinned package a line."""
    found: set[tuple[str, frozenset[str]]] = set()
    needed("anchorage", frozenset(EXTRAS), found)
    names = sorted({name for name, _ in found} - {"anchorage"})
    # Without the label of a build: +cpu is what the CPU index has.
    pins = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]
    return "\n".join(["# Made by requirements.py.", *pins, ""])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    made = requirements()
    OUTPUT.write_text(made)
    sys.stdout.write(f"{OUTPUT.name}: {len(made.splitlines()) - 1} packages\n")
