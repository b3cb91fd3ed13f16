"""The embedding models of a replica: when one is loaded, when one goes, and who waits meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.deployments.models import Models
from serving.errors import ConfigurationError, EmbedderUnavailable
from serving.index.types import Vectors
from serving.settings import EmbedderSettings


class Plain:
    """A model whose vectors say which one it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dimension = len(name)
        self.closed = False

    async def embed(self, texts: Sequence[str], *, bulk: bool = False) -> Vectors:
        if self.closed:
            raise EmbedderUnavailable("closed")
        return np.full((len(texts), self.dimension), float(len(self.name)), dtype=np.float32)

    def count_tokens(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        self.closed = True


class Shop:
    """Loads models, one at a time when it is told to."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.made: dict[str, Plain] = {}
        self.open = threading.Event()
        self.open.set()

    def __call__(self, settings: EmbedderSettings) -> Plain:
        self.loads.append(settings.model)
        assert self.open.wait(10)
        if settings.model == "missing":
            raise ConfigurationError("there is no such model")
        if settings.model == "broken":
            raise KeyError("layers")
        self.made[settings.model] = Plain(settings.model)
        return self.made[settings.model]


def models(shop: Shop, most: int = 3) -> Models:
    return Models(EmbedderSettings(model="own", max_models=most), shop)


async def ask(several: Models, name: str | None) -> int:
    async with several.use(name) as loaded:
        return int((await loaded.batches.embed(["text"])).shape[1])


async def test_another_model_is_loaded_once_and_nobody_else_waits() -> None:
    """Those who ask for it wait together; questions for the loaded one are answered meanwhile."""
    shop = Shop()
    several = models(shop)
    shop.open.clear()
    waiting = [asyncio.create_task(ask(several, "another")) for _ in range(4)]
    assert [await ask(several, None), await ask(several, "own")] == [3, 3]
    several.prepare("another")
    assert not any(task.done() for task in waiting)
    shop.open.set()
    assert await asyncio.gather(*waiting) == [7] * 4
    assert shop.loads == ["own", "another"]


async def test_the_one_that_was_not_used_for_longest_goes() -> None:
    """The settings' own stays, and so does one that is in use, even when that is one too many."""
    shop = Shop()
    several = models(shop)
    for name in ("aa", "bbbb", "aa", "own", "ccccc"):
        await ask(several, name)
    assert [name for name, model in shop.made.items() if model.closed] == ["bbbb"]
    async with several.use("aa"), several.use("ccccc"):
        await ask(several, "dddddd")
        assert not shop.made["aa"].closed
        assert not shop.made["ccccc"].closed
    assert await ask(several, "bbbb") == 4
    assert not shop.made["own"].closed
    assert sum(not model.closed for model in shop.made.values()) <= 3


@pytest.mark.parametrize(("name", "error"), [("missing", ConfigurationError), ("broken", EmbedderUnavailable)])
async def test_a_model_that_does_not_load_is_not_tried_at_every_question(name: str, error: type[Exception]) -> None:
    """Each question for it fails with the reason, and costs nothing; the others go on."""
    shop = Shop()
    several = models(shop)
    for _ in range(3):
        with pytest.raises(error):
            await ask(several, name)
    several.prepare(name)
    assert shop.loads == ["own", name]
    assert await ask(several, "own") == 3
