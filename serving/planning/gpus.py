"""The catalogue of GPU types, read from `gpus.toml`, which has the sources."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources

from serving.errors import ConfigurationError

GIB = 1024**3


@dataclass(frozen=True)
class Gpu:
    """One type. Bytes, bytes a second, FLOP a second, US dollars an hour for one GPU."""

    name: str
    memory: float
    bandwidth: float
    flops: float
    flops_fp8: float
    bfloat16: bool
    link: float
    per_node: int
    usd_hour: float
    price_source: str


def catalogue(prices: Mapping[str, float] | None = None) -> dict[str, Gpu]:
    """All types by name. `prices`, US dollars a GPU-hour, go before the assumed ones.

    Raises ConfigurationError for a price of a type that there is not.
    """
    text = resources.files("serving.planning").joinpath("gpus.toml").read_text()
    gpus = {name: _gpu(name, row) for name, row in tomllib.loads(text).items()}
    for name, usd in (prices or {}).items():
        gpus[name] = replace(pick(gpus, name), usd_hour=usd, price_source="given")
    return gpus


def pick(gpus: Mapping[str, Gpu], name: str) -> Gpu:
    """Raises ConfigurationError with the names there are."""
    found = {known.lower(): gpu for known, gpu in gpus.items()}.get(name.lower())
    if found is None:
        raise ConfigurationError(f"GPU type {name!r} is not in the catalogue. There are: {', '.join(gpus)}")
    return found


def _gpu(name: str, row: Mapping[str, object]) -> Gpu:
    def number(key: str) -> float:
        return float(str(row[key]))

    return Gpu(
        name=name,
        memory=number("memory_gib") * GIB,
        bandwidth=number("bandwidth_gb_s") * 1e9,
        flops=number("bf16_tflops") * 1e12,
        flops_fp8=number("fp8_tflops") * 1e12,
        bfloat16=bool(row["bfloat16"]),
        link=number("link_gb_s") * 1e9,
        per_node=int(number("per_node")),
        usd_hour=number("usd_hour"),
        price_source=str(row["price_source"]),
    )
