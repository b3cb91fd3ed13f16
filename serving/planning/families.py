"""The decoder families whose parameters are counted, and where each departs from Llama.

Checked in the tests against the modules that `transformers` builds from the same configuration, parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Window = Literal["none", "all", "asked", "alternate", "pattern"]


@dataclass(frozen=True)
class Family:
    """`qkv_bias`/`o_bias`: always, never, or as the named key says. `norms`: of the hidden size, in each layer.

    `qk_norm`: norms of one head, or of all of them together. `window`: which layers have the sliding window where the
    configuration has no `layer_types`. `tied`, `head_dim`, `defaults`: what the family's class takes when nothing is
    said (published Gemma 3 configurations leave most of it out).
    """

    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    norms: int = 2
    qk_norm: Literal["none", "head", "all"] = "none"
    tied: bool = False
    window: Window = "none"
    latent: bool = False
    sinks: bool = False
    experts_key: str | None = None
    expert_size_key: str = "moe_intermediate_size"
    expert_bias: bool = False
    router_bias: bool = False
    shared: Literal["none", "gated", "plain"] = "none"
    head_dim: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GEMMA3 = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Family(window="all"),
    "granite": Family(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"),
    "smollm3": Family(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias", tied=True),
    "olmo2": Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm="all"),
    "phi3": Family(window="all"),
    "qwen2": Family(qkv_bias=True, window="asked"),
    "qwen3": Family(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm="head", window="asked", head_dim=128),
    "gemma": Family(qkv_bias="attention_bias", o_bias="attention_bias", tied=True, head_dim=256),
    "gemma2": Family(
        qkv_bias="attention_bias", o_bias="attention_bias", norms=4, tied=True, window="alternate", head_dim=256
    ),
    "gemma3_text": Family(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        norms=4,
        qk_norm="head",
        tied=True,
        window="pattern",
        head_dim=256,
        defaults=_GEMMA3,
    ),
    "mixtral": Family(window="all", experts_key="num_local_experts", expert_size_key="intermediate_size"),
    "qwen2_moe": Family(qkv_bias=True, window="asked", experts_key="num_experts", shared="gated"),
    "qwen3_moe": Family(
        qkv_bias="attention_bias",
        o_bias="attention_bias",
        qk_norm="head",
        window="asked",
        experts_key="num_experts",
    ),
    "deepseek_v2": Family(latent=True, experts_key="n_routed_experts", shared="plain"),
    "deepseek_v3": Family(latent=True, experts_key="n_routed_experts", shared="plain", router_bias=True),
    "kimi_k2": Family(latent=True, experts_key="n_routed_experts", shared="plain", router_bias=True),
    "gpt_oss": Family(
        qkv_bias=True,
        o_bias=True,
        sinks=True,
        window="alternate",
        experts_key="num_local_experts",
        expert_size_key="intermediate_size",
        expert_bias=True,
        router_bias=True,
        head_dim=64,
    ),
}


def has(flag: bool | str, config: Mapping[str, Any]) -> bool:
    """A flag of the family, or the configuration's own where the family names its key."""
    return bool(config.get(flag)) if isinstance(flag, str) else flag
