"""Model names: ENGINE, ENGINE@COLLECTION, and ENGINE@none for no retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.answer import EngineInfo
from serving.errors import InvalidRequest, UnknownModel

#: The collection name that stands for no retrieval.
NO_COLLECTION = "none"


@dataclass(frozen=True, slots=True)
class Named:
    """What a model name says. `collection` None: it names none."""

    engine: EngineInfo
    collection: str | None

    @property
    def without_retrieval(self) -> bool:
        return self.collection == NO_COLLECTION


def parse_model(model: str, engines: Sequence[EngineInfo]) -> Named:
    """Raises UnknownModel, and InvalidRequest for an extractive engine without documents."""
    for engine in engines:
        if model == engine.name:
            return Named(engine, None)
        if model.startswith(f"{engine.name}@") and len(model) > len(engine.name) + 1:
            return _checked(Named(engine, model[len(engine.name) + 1 :]))
    known = ", ".join(engine.name for engine in engines)
    raise UnknownModel(
        f"There is no model {model!r}. There are: {known}; each also as MODEL@COLLECTION.", param="model"
    )


def plain_names(engine: EngineInfo) -> list[str]:
    """The names of an engine that need no collection."""
    return [engine.name] if engine.kind == "extractive" else [engine.name, f"{engine.name}@{NO_COLLECTION}"]


def _checked(named: Named) -> Named:
    if named.without_retrieval and named.engine.kind == "extractive":
        raise InvalidRequest(
            f"{named.engine.name}@{NO_COLLECTION} cannot answer: this engine writes from passages only.", param="model"
        )
    return named
