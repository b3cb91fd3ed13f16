"""A replica on a lost node says nothing and closes nothing: what Serve lists decides whether somebody waits in vain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from ray.exceptions import GetTimeoutError

from serving.deployments import watch as watching
from serving.deployments.watch import Watch
from tests.e2e.waiting import until


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Replicas that Serve's controller knows."""
    names = {"a", "b"}

    def details() -> dict[str, Any]:
        replicas = [{"replica_id": name, "state": "RUNNING", "node_id": "n"} for name in sorted(names)]
        return {"applications": {"app": {"deployments": {"Llm": {"replicas": replicas}}}}}

    monkeypatch.setattr(watching, "_serve_details", details)
    monkeypatch.setattr(watching, "_SILENCE_S", 0.05)
    return names


@pytest_asyncio.fixture
async def watch(listed: set[str]) -> AsyncIterator[Watch]:
    watch = Watch("app", "Llm", 1.0)
    await watch.start()
    yield watch
    await watch.close()


async def look_again(watch: Watch, since: float) -> None:
    """A look that began after the silence since then was long enough."""
    looks: list[float] = []
    watch.after_look = lambda: looks.append(time.monotonic())

    def looked() -> bool:
        watch.doubt()
        return len([at for at in looks if at > since + 0.1]) > 1

    await until(looked, 10, every_s=0.02)


async def test_who_is_silent_and_not_listed_is_lost(watch: Watch, listed: set[str]) -> None:
    """Not before Serve was asked again, and not for silence alone."""
    heard = time.monotonic()
    listed.remove("a")
    assert not watch.has_lost("a", heard)
    await look_again(watch, heard)
    assert watch.has_lost("a", heard)
    assert not watch.has_lost("b", heard)
    assert not watch.has_lost("a", time.monotonic())


async def test_who_waits_for_nobody_in_particular_is_told_that_somebody_went(watch: Watch, listed: set[str]) -> None:
    """A request that no replica took may have been sent to the one that is gone; a new replica means nothing."""
    heard = time.monotonic()
    listed.add("c")
    await look_again(watch, heard)
    assert not watch.has_lost(None, heard)
    listed.remove("a")
    await look_again(watch, time.monotonic())
    assert watch.has_lost(None, heard)
    assert not watch.has_lost(None, time.monotonic())


async def test_a_change_of_the_application_is_no_loss(
    watch: Watch, listed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Serve builds the new version it lists no deployment; the replicas go on."""
    looks: list[float] = []

    def building() -> dict[str, Any]:
        looks.append(time.monotonic())
        return {"applications": {"app": {"deployments": {}}}}

    heard = time.monotonic()
    monkeypatch.setattr(watching, "_serve_details", building)

    def looked() -> bool:
        watch.doubt()
        return len([at for at in looks if at > heard + 0.1]) > 2

    await until(looked, 10, every_s=0.02)
    assert watch.readiness.ready
    assert not watch.has_lost("a", heard)


async def test_a_controller_that_hangs_is_as_one_that_is_away(
    watch: Watch, listed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question has an end, and the next one is asked; what was known stands, a start waits for its first."""
    asked: list[float] = []
    answer = watching._serve_details

    def hangs() -> dict[str, Any]:
        asked.append(time.monotonic())
        raise GetTimeoutError("no answer")

    heard = time.monotonic()
    monkeypatch.setattr(watching, "_serve_details", hangs)
    listed.remove("a")

    def asked_again() -> bool:
        watch.doubt()
        return len([at for at in asked if at > heard + 0.1]) > 1

    await until(asked_again, 10, every_s=0.02)
    assert watch.readiness.ready
    assert not watch.has_lost("a", heard)
    late = Watch("app", "Llm", 1.0)
    starting = asyncio.create_task(late.start())
    before = len(asked)
    await until(lambda: len(asked) > before + 3, 10, every_s=0.02)
    assert not starting.done()
    monkeypatch.setattr(watching, "_serve_details", answer)
    await starting
    assert late.readiness.ready
    await late.close()
    await look_again(watch, heard)
    assert watch.has_lost("a", heard)
