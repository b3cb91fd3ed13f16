"""Parameters and cached numbers are counted as the models themselves have them."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigurationError
from serving.planning.count import read_shape
from serving.planning.memory import weight_bytes
from tests.planning.published import DEEPSEEK_V3, GEMMA2_9B, GEMMA3_4B, GPT_OSS_20B, LLAMA_8B, LLAMA_70B, PUBLISHED
from tests.tinyllama import make_tiny_llama

_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LATENT = {
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "moe_intermediate_size": 24,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 4,
    "n_group": 2,
    "topk_group": 1,
}
_MORE: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "granite": {},
    "smollm3": {},
    "olmo2": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "gemma": {"head_dim": 32},
    "gemma2": {"head_dim": 32},
    "gemma3_text": {"head_dim": 32},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "decoder_sparse_step": 2,
    },
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "head_dim": 32,
        "mlp_only_layers": [1],
    },
    "deepseek_v2": {**_LATENT, "q_lora_rank": None, "first_k_dense_replace": 1, "head_dim": 8},
    "deepseek_v3": {**_LATENT, "q_lora_rank": 24, "first_k_dense_replace": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32},
}


@pytest.mark.parametrize("kind", _MORE)
def test_every_family_is_counted_as_its_modules_are(kind: str) -> None:
    """Dense, routed, latent: the count is that of the modules which transformers builds from the configuration."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**{**_SMALL, **_MORE[kind]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    real = sum(parameter.numel() for parameter in model.parameters())
    # DeepSeek-V3's router bias is trained, and a buffer.
    real += sum(buffer.numel() for name, buffer in model.named_buffers() if "correction_bias" in name)
    assert read_shape({**_SMALL, **_MORE[kind], "model_type": kind}, kind).parameters == real


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_parameters(name: str) -> None:
    """Exactly, not within a percent."""
    config, parameters = PUBLISHED[name]
    assert read_shape(config, name).parameters == parameters


def test_a_real_model_is_planned_as_it_is(tmp_path: Path) -> None:
    """Parameters of the weights on disk, and bytes that one token really leaves in the cache."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_tiny_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = read_shape(json.loads((folder / "config.json").read_text()), "tiny")
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert weight_bytes(shape, 4) == sum(p.numel() * p.element_size() for p in model.parameters())
    with torch.no_grad():
        cache = model(torch.arange(9)[None], use_cache=True).past_key_values
    held = sum(kind.nbytes for layer in cache.layers for kind in (layer.keys, layer.values))
    assert held == 9 * shape.kv_bytes(4)


def test_kv_heads_are_divided_and_then_copied() -> None:
    """vLLM gives each GPU its part of the key/value heads, at least one."""
    shape = read_shape(LLAMA_70B, "70B")
    assert [shape.kv_bytes(2, gpus) for gpus in (1, 2, 8, 16)] == [327680, 163840, 40960, 40960]


def test_a_latent_cache_is_the_same_on_each_gpu() -> None:
    """61 layers of 512 + 64 numbers, however many GPUs."""
    shape = read_shape(DEEPSEEK_V3, "V3")
    assert shape.kv_bytes(2, 1) == shape.kv_bytes(2, 8) == 61 * 576 * 2


def test_windows_bound_what_a_long_request_keeps() -> None:
    """Half of Gemma 2's layers look back on 4,096 tokens, five sixths of Gemma 3's on 1,024."""
    gemma2, gemma3 = read_shape(GEMMA2_9B, "2"), read_shape(GEMMA3_4B, "3")
    assert [(kind.layers, kind.window) for kind in gemma2.attention] == [(21, None), (21, 4096)]
    assert [(kind.layers, kind.window) for kind in gemma3.attention] == [(5, None), (29, 1024)]
    full, windowed = (kind.cached() * 2 for kind in gemma3.attention)
    held = -(-(1023 + 2048) // 16) * 16 + 16
    assert gemma3.request_bytes(32768, 2, in_flight=2048) == full * 32768 + windowed * held


def test_quantized_weights_are_as_large_as_their_files() -> None:
    """The published files of gpt-oss-20b (13.76 GB) and DeepSeek-V3 (about 671 GB without the extra layer)."""
    assert weight_bytes(read_shape(GPT_OSS_20B, "oss"), 2) == pytest.approx(13.76e9, rel=0.01)
    assert weight_bytes(read_shape(DEEPSEEK_V3, "V3"), 2) == pytest.approx(673e9, rel=0.01)


def test_unknown_families_and_missing_keys_are_refused() -> None:
    """No guess: the message says what is known, or what is missing."""
    with pytest.raises(ConfigurationError, match="'mamba' are not counted"):
        read_shape({"model_type": "mamba"}, "m")
    with pytest.raises(ConfigurationError, match="no 'vocab_size'"):
        read_shape({key: value for key, value in LLAMA_8B.items() if key != "vocab_size"}, "m")
    with pytest.raises(ConfigurationError, match="not counted"):
        read_shape({**LLAMA_8B, "vision_config": {}}, "images")
    with pytest.raises(ConfigurationError, match="quantization 'aqlm' is not known"):
        read_shape({**LLAMA_8B, "quantization_config": {"quant_method": "aqlm"}}, "m")


_KEYS = st.sampled_from([*sorted(DEEPSEEK_V3), "layer_types", "sliding_window", "head_dim", "vision_config"])
_VALUES = st.none() | st.integers(-2, 3) | st.just("many") | st.lists(st.integers(), max_size=2) | st.just({})


@settings(max_examples=150, deadline=None)
@given(base=st.sampled_from([*PUBLISHED.values()]), changes=st.dictionaries(_KEYS, _VALUES, min_size=1, max_size=3))
def test_nonsense_is_refused_and_never_crashes(base: tuple[dict[str, Any], int], changes: dict[str, Any]) -> None:
    """Either a count, or our own error."""
    with suppress(ConfigurationError):
        assert read_shape({**base[0], **changes}, "a-model").parameters > 0
