"""The embedding models of one Embedder replica: that of the settings, and those that collections are made with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from serving.deployments.batches import Batches, Tally, TwoLanes
from serving.errors import AnchorageError, EmbedderUnavailable
from serving.settings import EmbedderSettings

#: A model that did not load is not tried again before, seconds: each try may ask a model hub.
_AGAIN_S = 30.0
#: Names of such models that are remembered.
_FAILED = 100


class Model(TwoLanes, Protocol):
    """What is needed of `LocalEmbedder`."""

    dimension: int

    def count_tokens(self, text: str) -> int: ...

    def close(self) -> None: ...


#: Takes seconds. Raises ConfigurationError.
Load: TypeAlias = Callable[[EmbedderSettings], Model]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, and the batches in which its queries go."""

    model: Model
    batches: Batches


@dataclass(slots=True)
class _Place:
    """`using` counts the calls that work with the model or wait for it."""

    loading: asyncio.Task[Loaded]
    using: int = 0


class Models:
    """Loads a model when it is first asked for, in a thread: the others answer meanwhile.

    At most `max_models` at a time. The one that was not used for longest goes: never the settings' own, and none that
    is in use.
    """

    def __init__(self, settings: EmbedderSettings, load: Load) -> None:
        """Loads the settings' own model. Raises ConfigurationError."""
        self._settings = settings
        self._load = load
        self.tally = Tally()
        self._own = self._loaded(settings.model)
        #: The one that was used last is the last one.
        self._others: dict[str, _Place] = {}
        self._failed: dict[str, tuple[float, AnchorageError]] = {}

    @property
    def own(self) -> Model:
        """That of the settings."""
        return self._own.model

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Loaded]:
        """A model, for a block in which it stays; None is the settings' own.

        Raises ConfigurationError when there is no such model, EmbedderUnavailable when it does not load now.
        """
        if name is None or name == self._settings.model:
            yield self._own
            return
        place = self._others.pop(name, None) or self._begin(name)
        self._others[name] = place
        place.using += 1
        try:
            yield await asyncio.shield(place.loading)
        finally:
            place.using -= 1

    def prepare(self, name: str) -> None:
        """Begin to load a model that will be asked for."""
        if name not in (self._settings.model, *self._others, *self._failed):
            self._others[name] = self._begin(name)

    def _begin(self, name: str) -> _Place:
        tried, error = self._failed.get(name, (0.0, None))
        if error is not None and time.monotonic() - tried < _AGAIN_S:
            raise error
        self._make_room()
        return _Place(asyncio.create_task(self._loading(name)))

    async def _loading(self, name: str) -> Loaded:
        try:
            return await asyncio.to_thread(self._loaded, name)
        except AnchorageError as error:
            self._failed_now(name, error)
            raise
        except Exception as error:
            # The task's edge: whatever a library raises for files that it does not understand, others are answered.
            unavailable = EmbedderUnavailable(f"The embedding model {name!r} does not load: {str(error)[:200]}")
            self._failed_now(name, unavailable)
            raise unavailable from error

    def _failed_now(self, name: str, error: AnchorageError) -> None:
        self._others.pop(name, None)
        self._failed.pop(name, None)
        while len(self._failed) >= _FAILED:
            del self._failed[next(iter(self._failed))]
        self._failed[name] = (time.monotonic(), error)

    def _loaded(self, name: str) -> Loaded:
        settings = self._settings.model_copy(update={"model": name})
        model = self._load(settings)
        return Loaded(model, Batches(model, settings.max_batch_size, settings.batch_wait_s, self.tally))

    def _make_room(self) -> None:
        """For one more."""
        for name, place in list(self._others.items()):
            if len(self._others) + 2 <= self._settings.max_models:
                return
            if place.loading.done() and not place.using:
                del self._others[name]
                place.loading.result().model.close()
