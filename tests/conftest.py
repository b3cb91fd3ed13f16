"""What holds for every test: no model hub, nothing written into the checkout, two processes that share the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_HERE = Path(__file__).parent
#: These start whole stacks of processes: one after another, and first, because they take longest.
_STACKS = ("ray/", "rehearsal/", "e2e/", "ingestion/test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2`, a file's tests share what they have started, and one process runs what needs a stack of its own."""
    items.sort(key=lambda item: not _needs_stack(item))
    for item in items:
        group = "stacks" if _needs_stack(item) else _place(item)
        item.add_marker(pytest.mark.xdist_group(group))


def _needs_stack(item: pytest.Item) -> bool:
    return _place(item).startswith(_STACKS)


def _place(item: pytest.Item) -> str:
    return item.path.relative_to(_HERE).as_posix()
