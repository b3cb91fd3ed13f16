"""What holds for every test: no model hub, nothing written into the checkout, two processes that share the work."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A machine that does other things is slow now and then; no test is about how long an example takes.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

#: These start whole stacks of processes: one after another, and first, because they take longest.
_STACKS = tuple(f"tests/{place}" for place in ("ray/", "rehearsal/", "e2e/", "ingestion/test_distributed.py"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first."""
    items.sort(key=lambda item: not item.nodeid.startswith(_STACKS))


class _ByStack(LoadScopeScheduling):
    """A file's tests share what they have started, and one process runs all that need a stack of their own.

    (`--dist loadgroup` of xdist 3.8 groups nothing with pytest 9.2: it writes to a field that is no longer read.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return "stacks" if nodeid.startswith(_STACKS) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """For `-n 2`."""
    return _ByStack(config, log)
