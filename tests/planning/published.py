"""Configurations as their owners published them (the keys that count), and the parameters of their weight files."""

from __future__ import annotations

from typing import Any

_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 896,
    "model_type": "siglip_vision_model",
}


def _decoder(kind: str, hidden: int, inner: int, layers: int, heads: int, kv: int, words: int, **more: Any) -> Any:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": words,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
        **more,
    }


LLAMA_8B = _decoder("llama", 4096, 14336, 32, 32, 8, 128256, tie_word_embeddings=False)
LLAMA_70B = _decoder("llama", 8192, 28672, 80, 64, 8, 128256, tie_word_embeddings=False)
QWEN3_8B = _decoder("qwen3", 4096, 12288, 36, 32, 8, 151936, head_dim=128, tie_word_embeddings=False)
QWEN25_7B = _decoder("qwen2", 3584, 18944, 28, 28, 4, 152064, tie_word_embeddings=False)
QWEN3_30B = _decoder(
    "qwen3_moe",
    2048,
    6144,
    48,
    32,
    4,
    151936,
    head_dim=128,
    moe_intermediate_size=768,
    num_experts=128,
    num_experts_per_tok=8,
)
MIXTRAL = _decoder(
    "mixtral", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2, sliding_window=None
)
DEEPSEEK_V3 = _decoder(
    "deepseek_v3",
    7168,
    18432,
    61,
    128,
    128,
    129280,
    moe_intermediate_size=2048,
    n_shared_experts=1,
    n_routed_experts=256,
    num_experts_per_tok=8,
    first_k_dense_replace=3,
    kv_lora_rank=512,
    q_lora_rank=1536,
    qk_rope_head_dim=64,
    qk_nope_head_dim=128,
    v_head_dim=128,
    quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]},
)
GEMMA2_9B = _decoder("gemma2", 3584, 14336, 42, 16, 8, 256000, head_dim=256, sliding_window=4096)
GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": _VISION,
}
GPT_OSS_20B = _decoder(
    "gpt_oss",
    2880,
    2880,
    24,
    64,
    8,
    201088,
    head_dim=64,
    num_local_experts=32,
    num_experts_per_tok=4,
    sliding_window=128,
    quantization_config={"quant_method": "mxfp4"},
)
PHI3_MINI = _decoder("phi3", 3072, 8192, 32, 32, 32, 32064, sliding_window=2047)

#: name -> (configuration, parameters in the published safetensors; DeepSeek-V3's without its extra prediction layer).
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.1-8B": (LLAMA_8B, 8_030_261_248),
    "Llama-3.1-70B": (LLAMA_70B, 70_553_706_496),
    "Qwen3-8B": (QWEN3_8B, 8_190_735_360),
    "Qwen2.5-7B": (QWEN25_7B, 7_615_616_512),
    "Qwen3-30B-A3B": (QWEN3_30B, 30_532_122_624),
    "Mixtral-8x7B": (MIXTRAL, 46_702_792_704),
    "DeepSeek-V3": (DEEPSEEK_V3, 671_026_419_200),
    "gemma-2-9b": (GEMMA2_9B, 9_241_705_984),
    "gemma-3-4b": (GEMMA3_4B, 4_300_079_472),
    "gpt-oss-20b": (GPT_OSS_20B, 20_914_757_184),
    "Phi-3-mini-4k": (PHI3_MINI, 3_821_079_552),
}
