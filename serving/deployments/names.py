"""Names that more than one deployment must agree on."""

from __future__ import annotations

from pathlib import PurePath

from serving.settings import LlmSettings

APP = "anchorage"
API, EMBEDDER, INGESTOR, LLM = "Api", "Embedder", "Ingestor", "Llm"

#: Ray resource of the nodes that are always there; a replica that is pinned to them takes a crumb of it.
CPU_PLANE, CPU_PLANE_CRUMB = "cpu_plane", 0.001

#: Ray's own way to put another engine class in vLLM's place, in the environment of the engine's processes.
ENGINE_VARIABLE = "RAYLLM_VLLM_ENGINE_CLS"


def llm_name(settings: LlmSettings) -> str:
    """The name clients use: what was set, the Hugging Face id, or the folder's name."""
    model = settings.model or ""
    if settings.name:
        return settings.name
    path = PurePath(model)
    return path.name if path.is_absolute() or model.startswith((".", "~")) else model


def engine_class(settings: LlmSettings) -> str | None:
    """Import path of an engine to use instead of vLLM, if one was asked for."""
    return settings.env.get(ENGINE_VARIABLE)
