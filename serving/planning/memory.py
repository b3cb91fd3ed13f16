"""Where a GPU's memory goes: weights, what a step needs, and the rest is KV cache. As vLLM 0.29 accounts for it.

`gpu_worker.py`, `determine_available_memory`: requested (utilization x total) - weights - peak of a step - estimate of
CUDA graphs = KV cache. The weights are exact; the peak and the graphs are estimates here, because vLLM measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.planning.gpus import GIB, Gpu
from serving.planning.shape import Shape

#: vLLM's default (`CacheConfig.gpu_memory_utilization`).
UTILIZATION = 0.92
#: Bytes of one number.
WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "half": 2.0, "float": 4.0}
KV_WIDTHS = {"auto": 0.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}
#: The CUDA context, cuBLAS workspaces and allocator slack of one process, and NCCL's buffers where GPUs work together.
_CONTEXT, _NCCL = 0.5 * GIB, 0.75 * GIB
#: CUDA graphs: a pool, and about this much a layer (vLLM logs 0.5 to 0.8 GiB for 32 layers at its default sizes).
_GRAPHS, _GRAPHS_LAYER = 0.25 * GIB, 0.012 * GIB
#: Bytes that sampling holds for each row and word: logits in float32, their sorted copy with 64-bit places.
_SAMPLING = 16


@dataclass(frozen=True)
class Memory:
    """One GPU's share, bytes. `kv` below 0: it does not fit by so much."""

    total: float
    requested: float
    weights: float
    step: float
    graphs: float
    context: float

    @property
    def kv(self) -> float:
        return self.requested - self.weights - self.step - self.graphs - self.context


def weight_bytes(shape: Shape, width: float) -> float:
    """Bytes of all weights as they are on the GPUs. Quantized are matrices of the layers (or only the experts);
    embeddings, output, norms, routers and the image tower keep `width` bytes a number.
    """
    routed = shape.experts.total if shape.experts else 0
    whole = (shape.embedding + shape.head + shape.small + shape.vision) * width
    if shape.quantization is None:
        return whole + (shape.dense + routed) * width
    packed = shape.quantization.bits / 8
    return whole + shape.dense * (width if shape.quantization.experts_only else packed) + routed * packed


def read_bytes(shape: Shape, width: float, batch: int) -> float:
    """Bytes of weights that one decoding step over `batch` answers reads: not the input table, not experts that
    nobody chose.
    """
    unread = shape.vision + (shape.embedding if shape.head else 0)
    total = weight_bytes(shape, width) - unread * width
    if shape.experts is None:
        return total
    packed = shape.quantization.bits / 8 if shape.quantization else width
    return total - (shape.experts.total - shape.experts.read(batch)) * packed


def step_bytes(shape: Shape, width: float, batched_tokens: int, sequences: int, tensor_parallel: int) -> float:
    """Peak of a forward pass over `batched_tokens` tokens, and of sampling for `sequences` of them; an estimate.

    Live at once in a layer: the residual and its norm, queries, keys, values and the attention's result (about four
    times the hidden size), and of the feed-forward part its two inner products and their product (three times the
    inner size, divided among the GPUs); with routed experts, the result of each of a token's experts as well (vLLM,
    `fused_moe.py`, `intermediate_cache3`). Logits are gathered on each GPU.
    """
    inner, hidden = shape.intermediate, 4 * shape.hidden
    if shape.experts:
        inner = max(inner, shape.experts.active * shape.experts.parameters // (3 * shape.hidden))
        hidden += shape.experts.active * shape.hidden
    pass_bytes = batched_tokens * width * (hidden + 3 * inner / tensor_parallel)
    return pass_bytes + _SAMPLING * shape.vocabulary * sequences


def gpu_memory(
    shape: Shape,
    gpu: Gpu,
    *,
    tensor_parallel: int,
    width: float,
    batched_tokens: int,
    sequences: int,
    utilization: float = UTILIZATION,
) -> Memory:
    """The shares on each of `tensor_parallel` GPUs. What is small is on all of them, the rest is divided."""
    copied = (shape.small + shape.vision) * width
    divided = (weight_bytes(shape, width) - copied) / tensor_parallel
    return Memory(
        total=gpu.memory,
        requested=gpu.memory * utilization,
        weights=divided + copied,
        step=step_bytes(shape, width, batched_tokens, sequences, tensor_parallel),
        graphs=_GRAPHS + _GRAPHS_LAYER * shape.layers,
        context=_CONTEXT + (_NCCL if tensor_parallel > 1 else 0.0),
    )
