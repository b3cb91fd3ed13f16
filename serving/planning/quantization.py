"""How many bits a weight takes, scales included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.errors import ConfigurationError
from serving.planning.shape import Quantization

#: Bits a weight. awq and gptq: 4 bits, and for 128 of them a scale of 16 and a zero point of 4 (AutoAWQ, GPTQ papers);
#: mxfp4: 4 bits and an 8-bit exponent for 32 (OCP Microscaling 1.0); nvfp4: an 8-bit scale for 16; fp8: a 32-bit scale
#: for 128 x 128 (DeepSeek-V3, arXiv 2412.19437, section 3.3); bitsandbytes: NF4 with double quantization (QLoRA).
_BITS = {
    "fp8": 8 + 32 / 16384,
    "int8": 8.0,
    "awq": 4 + 20 / 128,
    "gptq": 4 + 20 / 128,
    "mxfp4": 4 + 8 / 32,
    "nvfp4": 4 + 8 / 16,
    "bitsandbytes": 4 + 0.127,
}
_SAME = {
    "fbgemm_fp8": "fp8",
    "ptpc_fp8": "fp8",
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
    "experts_int8": "int8",
    "modelopt_fp4": "nvfp4",
}
_EXPERTS_ONLY = {"mxfp4"}


def named_quantization(method: str) -> Quantization:
    """As named on the command line. Raises ConfigurationError with the names there are."""
    known = _SAME.get(method, method)
    if known not in _BITS:
        raise ConfigurationError(f"quantization {method!r} is not known. Known: {', '.join(sorted([*_BITS, *_SAME]))}")
    return Quantization(method, _BITS[known], known in _EXPERTS_ONLY)


def read_quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """`quantization_config` of a checkpoint. Raises ConfigurationError for a method that is not known."""
    if not config:
        return None
    method = str(config.get("quant_method", ""))
    if method in ("gptq", "awq"):
        bits, group = int(config.get("bits", 4)), int(config.get("group_size", 128))
        return Quantization(method, bits + ((16 + bits) / group if group > 0 else 0.0))
    if method == "compressed-tensors":
        return Quantization(method, _compressed(config))
    if method == "modelopt":
        return Quantization(method, _BITS["nvfp4" if "FP4" in str(config.get("quant_algo", "")) else "fp8"])
    if method == "bitsandbytes" and config.get("load_in_8bit"):
        return Quantization(method, 8.0)
    return named_quantization(method)


def _compressed(config: Mapping[str, Any]) -> float:
    """The first group's weights: `num_bits`, and a 16-bit scale for `group_size` of them."""
    for group in (config.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
        size = weights.get("group_size")
        return float(weights.get("num_bits", 16)) + (16 / size if size and size > 0 else 0.0)
    return 16.0
