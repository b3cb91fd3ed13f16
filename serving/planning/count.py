"""From a model's config.json to its shape: the parameters are counted, not looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.errors import ConfigurationError
from serving.planning.families import FAMILIES, Family, has
from serving.planning.quantization import read_quantization
from serving.planning.shape import Attention, Experts, Shape

#: Published under these types, and a text model of the family beside them, inside `text_config`.
_WITH_IMAGES = {"gemma3": "gemma3_text"}
#: More is no model.
_MOST_LAYERS = 10_000


def read_shape(config: Mapping[str, Any], name: str) -> Shape:
    """Raises ConfigurationError for a family that is not known here, and for a configuration that lacks something or
    makes no sense.
    """
    try:
        return _read(config, name)
    except KeyError as missing:
        raise ConfigurationError(f"{name}: config.json has no {missing.args[0]!r}, so nothing can be planned") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
        raise ConfigurationError(f"{name}: config.json cannot be understood: {error}") from error


def _read(config: Mapping[str, Any], name: str) -> Shape:
    kind = str(config.get("model_type", ""))
    text, vision = config, 0
    if kind in _WITH_IMAGES:
        kind = _WITH_IMAGES[kind]
        text = {**config.get("text_config", {}), "model_type": kind}
        vision = _siglip(config["vision_config"], _Reader(text, FAMILIES[kind])) if "vision_config" in config else 0
    family = FAMILIES.get(kind)
    if family is None or ("vision_config" in config and not vision):
        raise ConfigurationError(
            f"{name}: models of type {config.get('model_type')!r} are not counted. Known: "
            f"{', '.join(sorted([*FAMILIES, *_WITH_IMAGES]))}"
        )
    return _shape(_Reader(text, family), name, kind, vision, config)


class _Reader:
    """The configuration with the family's defaults, and the numbers that follow from it."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        self.config = {**family.defaults, **{key: value for key, value in config.items() if value is not None}}
        self.family = family
        self.hidden = int(self.config["hidden_size"])
        self.layers = int(self.config["num_hidden_layers"])
        self.heads = int(self.config["num_attention_heads"])
        self.kv_heads = int(self.config.get("num_key_value_heads", self.heads))
        self.head_dim = int(self.config.get("head_dim") or family.head_dim or self.hidden // self.heads)
        self.intermediate = int(self.config["intermediate_size"])
        sizes = (self.hidden, self.layers, self.heads, self.kv_heads, self.head_dim, self.intermediate)
        if min(*sizes, int(self.config["vocab_size"])) < 1 or self.layers > _MOST_LAYERS:
            raise ValueError(f"sizes {sizes} are out of all bounds")

    def flag(self, flag: bool | str) -> bool:
        return has(flag, self.config)

    def number(self, *keys: str, otherwise: int | None = None) -> int:
        for key in keys:
            if key in self.config:
                return int(self.config[key])
        if otherwise is None:
            raise KeyError(keys[0])
        return otherwise


def _shape(read: _Reader, name: str, kind: str, vision: int, whole: Mapping[str, Any]) -> Shape:
    config, family = read.config, read.family
    vocabulary = int(config["vocab_size"])
    table = vocabulary * read.hidden
    tied = bool(whole.get("tie_word_embeddings", config.get("tie_word_embeddings", family.tied)))
    matrices, small = _latent(read) if family.latent else _heads(read)
    mlp, experts, mlp_small = _feed_forward(read)
    norms = family.norms * read.hidden * read.layers + read.hidden
    dtype = config.get("dtype") or config.get("torch_dtype") or whole.get("dtype") or whole.get("torch_dtype")
    return Shape(
        name=name,
        family=kind,
        hidden=read.hidden,
        vocabulary=vocabulary,
        intermediate=read.intermediate,
        layers=read.layers,
        context=int(config.get("max_position_embeddings", 2048)),
        dtype=str(dtype or "bfloat16"),
        embedding=table,
        head=0 if tied else table,
        dense=matrices * read.layers + mlp,
        small=small * read.layers + mlp_small + norms,
        attention=_attention(read),
        experts=experts,
        vision=vision,
        quantization=read_quantization(config.get("quantization_config") or whole.get("quantization_config")),
        notes=("images: the tower is counted, its working memory is not",) if vision else (),
    )


def _heads(read: _Reader) -> tuple[int, int]:
    """Matrices, and biases with norms, of one layer's attention with heads."""
    queries, keys = read.heads * read.head_dim, read.kv_heads * read.head_dim
    matrices = read.hidden * (2 * queries + 2 * keys)
    small = queries + 2 * keys if read.flag(read.family.qkv_bias) else 0
    small += read.hidden if read.flag(read.family.o_bias) else 0
    small += {"none": 0, "head": 2 * read.head_dim, "all": queries + keys}[read.family.qk_norm]
    return matrices, small + (read.heads if read.family.sinks else 0)


def _latent(read: _Reader) -> tuple[int, int]:
    """The same for multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""
    latent, rope = read.number("kv_lora_rank"), read.number("qk_rope_head_dim")
    plain, value = read.number("qk_nope_head_dim"), read.number("v_head_dim")
    rank = read.number("q_lora_rank", otherwise=0)
    wide = read.heads * (plain + rope)
    queries = read.hidden * rank + rank * wide if rank else read.hidden * wide
    keys = read.hidden * (latent + rope) + latent * read.heads * (plain + value)
    small = rank + latent
    if read.flag("attention_bias"):
        small += rank + latent + rope + read.hidden
    return queries + keys + read.heads * value * read.hidden, small


def _feed_forward(read: _Reader) -> tuple[int, Experts | None, int]:
    """Matrices that every token reads, the routed experts, and biases with routers, over all layers."""
    family, hidden = read.family, read.hidden
    bias = 2 * read.intermediate + hidden if read.flag(family.mlp_bias) else 0
    dense = 3 * hidden * read.intermediate
    if family.experts_key is None:
        return dense * read.layers, None, bias * read.layers
    count = read.number(family.experts_key, "num_local_experts", "num_experts", otherwise=0)
    sparse = sum(_routed(read, layer) for layer in range(read.layers)) if count else 0
    if not sparse:
        return dense * read.layers, None, bias * read.layers
    size = read.number(family.expert_size_key)
    one = 3 * hidden * size + (2 * size + hidden if family.expert_bias else 0)
    experts = Experts(sparse, count, read.number("num_experts_per_tok", "num_experts_per_token"), one)
    small = hidden * count + (count if family.router_bias else 0)
    shared = 0
    if family.shared == "gated":
        shared = 3 * hidden * read.number("shared_expert_intermediate_size")
        small += hidden
    elif family.shared == "plain":
        shared = 3 * hidden * size * read.number("n_shared_experts", otherwise=0)
    return dense * (read.layers - sparse) + shared * sparse, experts, small * sparse


def _routed(read: _Reader, layer: int) -> bool:
    """Whether the layer has experts: each class of `transformers` has its own rule."""
    config = read.config
    if read.family.latent:
        first, every = int(config.get("first_k_dense_replace", 0)), int(config.get("moe_layer_freq", 1))
        return layer >= first and layer % every == 0
    if layer in config.get("mlp_only_layers", ()):
        return False
    return (layer + 1) % int(config.get("decoder_sparse_step", 1)) == 0


def _attention(read: _Reader) -> tuple[Attention, ...]:
    if read.family.latent:
        latent = read.number("kv_lora_rank") + read.number("qk_rope_head_dim")
        wide = read.number("qk_nope_head_dim") + read.number("qk_rope_head_dim")
        return (Attention(read.layers, read.heads, read.kv_heads, wide, read.number("v_head_dim"), latent=latent),)
    windows = [_window(read, layer) for layer in range(read.layers)]
    return tuple(
        Attention(windows.count(window), read.heads, read.kv_heads, read.head_dim, read.head_dim, window)
        for window in sorted(set(windows), key=lambda size: (size is not None, size or 0))
    )


def _window(read: _Reader, layer: int) -> int | None:
    """Tokens that the layer looks back on; None for all."""
    config, rule = read.config, read.family.window
    size = config.get("sliding_window") or None
    if size is None or rule == "none":
        return None
    kinds = config.get("layer_types")
    if kinds:
        return int(size) if kinds[layer] == "sliding_attention" else None
    if rule == "asked":
        slides = bool(config.get("use_sliding_window")) and layer >= int(config.get("max_window_layers", 0))
    elif rule == "pattern":
        slides = (layer + 1) % int(config.get("sliding_window_pattern", 6)) != 0
    else:
        slides = rule == "all" or layer % 2 == 0
    return int(size) if slides else None


def _siglip(vision: Mapping[str, Any], read: _Reader) -> int:
    """SigLIP's image tower (as Gemma 3 has it) and the projection into the text model."""
    width, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
    patch, layers = int(vision["patch_size"]), int(vision["num_hidden_layers"])
    places = (int(vision["image_size"]) // patch) ** 2
    layer = 4 * (width * width + width) + (2 * width * inner + inner + width) + 2 * 2 * width
    tower = 3 * patch * patch * width + width + places * width + layers * layer + 2 * width
    return tower + width * read.hidden + width
