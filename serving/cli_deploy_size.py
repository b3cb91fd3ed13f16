"""What `anchorage deploy` knows of the model before it is loaded: how large its pods are, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ConfigurationError

if TYPE_CHECKING:
    from serving.cluster.findings import Finding
    from serving.cluster.objects import Json
    from serving.planning.plan import Wish
    from serving.planning.shape import Shape

#: Seconds that a hub has for one small file: without it the deployment goes on, with a warning.
_PATIENCE_S = 3.0
#: With these, vLLM needs another room than `anchorage plan` counts.
_UNCOUNTED = ("cpu_offload_gb", "quantization", "pipeline_parallel_size", "data_parallel_size", "hf_overrides")


@dataclass(frozen=True, slots=True)
class Model:
    """As the Serve config has it, and the pods that load it. `gpus`: of one replica; `types`: those that may come."""

    llm: Mapping[str, Any]
    gpus: int
    types: Sequence[str]

    @property
    def name(self) -> str:
        return str(self.llm.get("model") or "")

    @property
    def engine_args(self) -> Mapping[str, Any]:
        return dict(self.llm.get("engine_args") or {})


def sized(things: list[Json]) -> list[Finding]:
    """Makes the GPU pods of `things` as large as their model needs; what is to be said about it."""
    from serving.cluster import sizing
    from serving.cluster.findings import warning
    from serving.cluster.gpu_types import may_come
    from serving.cluster.tailor import arguments_of, shape

    model = Model(arguments_of(things).get("llm") or {}, shape(things).gpus, may_come(things))
    if not model.name or not model.gpus:
        return []
    found: list[Finding] = []
    local = Path(model.name).expanduser()
    if local.exists() and not sizing.mounted(things, model.name):
        found.append(
            warning(
                f"{model.name} is a folder on this machine, and no volume of the GPU pods is mounted there: they "
                "cannot read it.",
                "Name the model's id on a hub, or a folder of a volume that GPU pods mount (weights-* in "
                "manifests/components).",
            )
        )
    weights: float | None = None
    try:
        weights, fitting = _looked_up(model)
        found += fitting
    except ConfigurationError as unknown:
        found.append(
            warning(
                f"Whether {model.name} fits its GPUs and its pods' memory and disk could not be checked: {unknown}.",
                "They are sized by --gpus alone, for 16 GiB of weights a GPU; `anchorage plan` says what it needs.",
            )
        )
    sizing.enlarge(things, sizing.size(model.gpus, weights, downloads=sizing.downloads(things, model.name)))
    return found


def _looked_up(model: Model) -> tuple[float, list[Finding]]:
    """Bytes of its weights, and what does not fit. Raises ConfigurationError where its config cannot be had."""
    from serving.planning.memory import WIDTHS, weight_bytes

    shape = _shape(model)
    dtype = str(model.engine_args.get("dtype", "auto"))
    # On disk they are as wide as the checkpoint says, whatever the GPU makes of them.
    wide = max(WIDTHS.get(shape.dtype, 2.0), WIDTHS.get(dtype, 2.0))
    counted = not any(model.engine_args.get(name) for name in _UNCOUNTED)
    return weight_bytes(shape, wide), _fitting(shape, model, dtype) if counted else []


def _shape(model: Model) -> Shape:
    from serving.planning.count import read_shape
    from serving.planning.source import look_up

    # A bucket or a mounted folder is not read from here; what it is called may be a hub's name of it.
    name = str(model.llm.get("name") or "")
    here = "://" not in model.name and (not model.name.startswith("/") or Path(model.name).exists())
    asked = model.name if here or not name else name
    return read_shape(look_up(asked, _PATIENCE_S), asked)


def _fitting(shape: Shape, model: Model, dtype: str) -> list[Finding]:
    """An error where no type that may come holds it; a warning where some do not."""
    from serving.cluster.findings import error, warning
    from serving.planning.gpus import catalogue
    from serving.planning.plan import Misfit, Wish, on

    length = model.engine_args.get("max_model_len")
    context = length if isinstance(length, int) and length > 0 else shape.context
    kv_dtype = str(model.engine_args.get("kv_cache_dtype", "auto"))
    wish = Wish(context=context, concurrency=1, prompt=1, answer=1, dtype=dtype, kv_dtype=kv_dtype)
    gpus = catalogue()
    outcomes = {name: on(shape, wish, gpus[name], model.gpus) for name in model.types if name in gpus}
    misfits = {name: each.reason for name, each in outcomes.items() if isinstance(each, Misfit)}
    if not misfits:
        return []
    why = "; ".join(f"{name}: {reason}" for name, reason in misfits.items())
    fits = [name for name in outcomes if name not in misfits]
    if fits:
        return [
            warning(
                f"{model.name} does not fit on every GPU that may come ({why}).",
                f"Choose one that it fits on: --gpu {' or --gpu '.join(fits)}.",
            )
        ]
    return [error(f"{model.name} does not fit on its GPUs ({why}).", _remedy(shape, wish, model))]


def _remedy(shape: Shape, wish: Wish, model: Model) -> str:
    from dataclasses import replace

    from serving.planning.gpus import catalogue
    from serving.planning.plan import Choice, on

    shorter = replace(wish, context=min(wish.context, 8192))
    gpus = catalogue()
    if shorter.context < wish.context and any(
        isinstance(on(shape, shorter, gpus[name], model.gpus), Choice) for name in model.types if name in gpus
    ):
        return f"Allow shorter requests, --set llm.engine_args.max_model_len={shorter.context}, or more --gpus."
    return "More --gpus, or another --gpu: `anchorage plan --model` says which do."
