"""Turns of the worker that no client can see: deaths, poison, rivals."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from ingestion.parts import Parts
from ingestion.sandbox import ParserPool
from ingestion.worker_turn import Tally, Turn
from serving.errors import WriterBusy
from serving.index.catalog import Catalog
from serving.index.catalog_models import Operation, Upload
from serving.index.milvus import Milvus
from tests.api.conftest import Desk, HashModel, Room, until


class Alone:
    """A worker's turns one by one, for a tenant that the room's worker does not know."""

    def __init__(self, room: Room, pool: ParserPool) -> None:
        index = room.settings.index.model_copy(update={"tenant": uuid.uuid4().hex})
        self.settings = room.settings.model_copy(update={"index": index})
        self.model = HashModel()
        self.parts = Parts(Catalog.connect(index), Milvus.connect(index), lambda _: self.model)
        self.operations = self.parts.catalog.operations
        self.tally = Tally()
        self._pool = pool

    async def turn(self) -> Turn:
        turn = Turn(self.settings, self.parts, "docs", lambda _: self._pool, self.tally)
        await turn.run()
        return turn

    async def states(self) -> dict[str, str]:
        """Of all operations, by the document that they brought."""
        return {found.result["documents"][0]["uri"]: found.state for found in await self.operations.latest("docs")}

    async def upload(self, uri: str, text: str) -> Operation:
        return await self.operations.enqueue("docs", "upload", [Upload(uri, text.encode(), "a.txt")])


@pytest.fixture
async def alone(room: Room) -> AsyncIterator[Alone]:
    async with ParserPool(room.settings.ingestion, room.settings.embedder.model) as pool:
        alone = Alone(room, pool)
        yield alone
        await alone.parts.store.close()
        await alone.parts.catalog.close()


async def test_what_fails_for_a_reason_of_its_own_is_given_up(alone: Alone) -> None:
    """After some attempts, and alone: what was asked for beside it is done."""
    alone.model.poison = "poison"
    await alone.upload("test://bad", "A poison.")
    await alone.upload("test://good", "A tide.")
    turns = [await alone.turn() for _ in range(5)]
    assert [turn.again for turn in turns] == [True, True, True, True, False]
    assert await alone.states() == {"test://bad": "failed", "test://good": "succeeded"}
    assert alone.tally.finished == {("upload", "failed"): 1, ("upload", "succeeded"): 1}
    [bad] = [found for found in await alone.operations.latest("docs") if found.state == "failed"]
    assert "log" in bad.error


async def test_work_of_a_dead_worker_is_done_once(alone: Alone) -> None:
    """What it had begun is claimed again; what it had published already is told and not written anew."""
    operation = await alone.upload("test://a", "A tide.")
    await alone.operations.claim("docs")
    await alone.turn()
    done = await alone.operations.get(operation.id)
    assert done is not None
    assert (done.state, done.result["generation"]) == ("succeeded", 1)
    # It died between publishing and telling: the same again.
    again = await alone.upload("test://a", "A tide.")
    await alone.operations.claim("docs")
    await alone.turn()
    told = await alone.operations.get(again.id)
    assert told is not None
    assert (told.state, told.result) == ("succeeded", done.result)


async def test_two_workers_share_the_work_out(alone: Alone) -> None:
    """Only one at a time has a collection."""
    operation = await alone.upload("test://a", "A tide.")
    async with alone.parts.catalog.leases.hold("uploads/docs", "another worker"):
        with pytest.raises(WriterBusy):
            await alone.turn()
        waits = await alone.operations.get(operation.id)
        assert waits is not None
        assert waits.state == "queued"
    await alone.turn()
    assert set((await alone.states()).values()) == {"succeeded"}


async def test_metrics_say_how_much_waits(room: Room, desk: Desk) -> None:
    """Queue length and age, operations and documents by outcome."""
    await desk.done({"id": "a", "text": "A tide."})
    # The caller hears of the end before the worker has looked again.
    await until(lambda: "anchorage_operations_waiting 0" in room.worker.metrics())
    metrics = room.worker.metrics()
    assert "anchorage_operations_oldest_seconds 0.000" in metrics
    assert 'anchorage_operations_finished_total{kind="upload",state="succeeded"}' in metrics
    assert 'anchorage_uploaded_documents_total{state="live"}' in metrics
