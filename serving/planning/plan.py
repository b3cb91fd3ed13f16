"""Which GPUs a model fits on, how many, with which engine arguments, how fast and for how much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import ConfigurationError
from serving.planning.gpus import GIB, Gpu
from serving.planning.memory import KV_WIDTHS, UTILIZATION, WIDTHS, Memory, gpu_memory, weight_bytes
from serving.planning.quantization import named_quantization
from serving.planning.shape import Shape
from serving.planning.speed import Engine

#: Answers that one engine replica takes at a time at most, as `llm.max_ongoing_requests` has it.
MOST_SEQUENCES = 256
#: Part of the answers that fit at a time that a replica is asked to carry, so that there is room while others start.
_LOAD = 0.75
#: Part of the highest rate at which more answers at a time are no longer worth their slowness.
_KNEE = 0.85
#: Tokens that vLLM 0.29's server joins into one step, by what the GPU has (`EngineArgs.get_batch_defaults`).
_BATCHED = ((160 * GIB, 16384), (70 * GIB, 8192), (0, 2048))
_PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True)
class Wish:
    """What is to be served. `context`: tokens of the longest request; `concurrency`: answers at a time, each as long
    as that; `prompt` and `answer`: tokens of a typical one; `max_replicas`: what may share the load.
    """

    context: int
    concurrency: int = 32
    prompt: int = 2048
    answer: int = 256
    max_replicas: int = 1
    dtype: str = "auto"
    kv_dtype: str = "auto"

    @property
    def per_replica(self) -> int:
        return math.ceil(self.concurrency / self.max_replicas)


@dataclass(frozen=True)
class Choice:
    """One GPU type with as many as one replica needs. Times are seconds, rates tokens a second, money US dollars."""

    gpu: Gpu
    count: int
    engine: Engine
    memory: Memory
    batched_tokens: int
    sequences: int
    fits_at_once: int
    wish: Wish
    model: str

    @property
    def usd_hour(self) -> float:
        return self.count * self.gpu.usd_hour

    @property
    def batch(self) -> int:
        """Answers at a time that speeds are given for."""
        return min(self.wish.per_replica, self.sequences)

    @property
    def step_bound_s(self) -> float:
        return self.engine.step_s(self.batch, self.wish.prompt + self.wish.answer / 2)

    @property
    def output_rate(self) -> float:
        """Answer tokens a second to expect of one replica at `batch`."""
        return self._rate(self.batch)

    @property
    def usd_million(self) -> float:
        """US dollars for a million answer tokens (their prompts included) of a replica that is always at work."""
        return self.usd_hour / (self.output_rate * 3600) * 1e6

    @property
    def carried(self) -> int:
        """Requests in flight that one replica is to carry: `scaling.llm_requests`.

        As many as it takes to write at nearly its highest rate, if so many fit however long they are; beyond that,
        more answers at a time only make each slower. What was wished for goes before.
        """
        most = max(1, math.floor(_LOAD * self.sequences))
        worth = _KNEE * self._rate(self.sequences)
        knee = next(batch for batch in range(1, self.sequences + 1) if self._rate(batch) >= worth)
        return min(most, max(self.wish.per_replica, min(knee, self.fits_at_once)))

    def _rate(self, batch: int) -> float:
        return self.engine.expected_rate(batch, self.wish.prompt, self.wish.answer)

    @property
    def engine_args(self) -> dict[str, Any]:
        """For vLLM. What is not said is vLLM's default."""
        args: dict[str, Any] = {
            "max_model_len": self.wish.context,
            "max_num_seqs": self.sequences,
            "max_num_batched_tokens": self.batched_tokens,
            "gpu_memory_utilization": UTILIZATION,
        }
        if self.count > 1:
            args["tensor_parallel_size"] = self.count
        dtype = _dtype(self.engine.shape, self.gpu, self.wish.dtype)
        if self.wish.dtype != "auto" or dtype != _dtype(self.engine.shape, None, "auto"):
            args["dtype"] = dtype
        if self.wish.kv_dtype != "auto":
            args["kv_cache_dtype"] = self.wish.kv_dtype
        return args


@dataclass(frozen=True)
class Misfit:
    """A type that does not do, and why."""

    gpu: Gpu
    reason: str


def with_quantization(shape: Shape, method: str | None) -> Shape:
    """The shape as if its weights were stored so. Raises ConfigurationError for a method that is not known, and for a
    checkpoint that is quantized otherwise.
    """
    if method is None:
        return shape
    if shape.quantization is not None and shape.quantization.method != method:
        raise ConfigurationError(
            f"{shape.name} is quantized already ({shape.quantization.method}); leave --quantization out"
        )
    return shape if shape.quantization else replace(shape, quantization=named_quantization(method))


def choices(shape: Shape, wish: Wish, gpus: Iterable[Gpu]) -> tuple[list[Choice], list[Misfit]]:
    """What fits, least dollars an hour first and then least dollars a token, and what does not.

    Raises ConfigurationError for a wish that the model itself cannot fulfil.
    """
    _check(shape, wish)
    found: list[Choice] = []
    misfits: list[Misfit] = []
    for gpu in gpus:
        outcome = _smallest(shape, wish, gpu)
        found.append(outcome) if isinstance(outcome, Choice) else misfits.append(outcome)
    return sorted(found, key=lambda choice: (choice.usd_hour, choice.usd_million)), misfits


def on(shape: Shape, wish: Wish, gpu: Gpu, count: int) -> Choice | Misfit:
    """That many GPUs of one type, whatever they cost. Raises as `choices`."""
    _check(shape, wish)
    if not _divides(shape, count):
        return Misfit(gpu, f"{count} GPUs do not divide its {shape.heads} heads")
    return _fit(shape, wish, gpu, count)


def _check(shape: Shape, wish: Wish) -> None:
    if wish.context > shape.context:
        raise ConfigurationError(
            f"{shape.name} was made for {shape.context:,} tokens; a context of {wish.context:,} asks for more"
        )
    if wish.prompt + wish.answer > wish.context:
        raise ConfigurationError(
            f"a typical request of {wish.prompt:,} + {wish.answer:,} tokens is longer than the context of "
            f"{wish.context:,}: raise --context, or lower --prompt-tokens or --answer-tokens"
        )
    if wish.kv_dtype not in KV_WIDTHS:
        raise ConfigurationError(f"KV cache type {wish.kv_dtype!r} is not known. Known: {', '.join(KV_WIDTHS)}")
    if wish.dtype != "auto" and wish.dtype not in WIDTHS:
        raise ConfigurationError(f"dtype {wish.dtype!r} is not known. Known: auto, {', '.join(WIDTHS)}")


def _smallest(shape: Shape, wish: Wish, gpu: Gpu) -> Choice | Misfit:
    """The fewest GPUs of the type that hold the model and the answers of one replica."""
    if wish.dtype == "bfloat16" and not gpu.bfloat16:
        return Misfit(gpu, "has no bfloat16")
    last = Misfit(gpu, "no number of GPUs divides its heads")
    for count in _PARALLEL:
        if count > gpu.per_node or not _divides(shape, count):
            continue
        choice = _fit(shape, wish, gpu, count)
        if isinstance(choice, Choice):
            return choice
        last = choice
    return last


def _divides(shape: Shape, count: int) -> bool:
    """vLLM: heads are divided among the GPUs; key/value heads divided, or copied a whole number of times."""
    if shape.heads % count:
        return False
    latent = shape.attention[0].latent is not None
    return latent or shape.kv_heads % count == 0 or count % shape.kv_heads == 0


def _fit(shape: Shape, wish: Wish, gpu: Gpu, count: int) -> Choice | Misfit:
    width = WIDTHS[_dtype(shape, gpu, wish.dtype)]
    kv_width = KV_WIDTHS[wish.kv_dtype] or width
    batched = max(tokens for least, tokens in _BATCHED if gpu.memory >= least and not _small_steps(gpu, tokens))
    memory = gpu_memory(
        shape, gpu, tensor_parallel=count, width=width, batched_tokens=batched, sequences=MOST_SEQUENCES
    )
    room = f"{count} x {gpu.memory / GIB:.0f} GiB"
    if memory.kv <= 0:
        return Misfit(gpu, f"{room}: weights of {weight_bytes(shape, width) / GIB:.0f} GiB leave no KV cache")
    longest = shape.request_bytes(wish.context, kv_width, count, batched)
    fits = int(memory.kv / longest)
    if fits < wish.per_replica:
        return Misfit(gpu, f"{room}: room for {fits} of {wish.per_replica} answers of {wish.context:,} tokens")
    typical = shape.request_bytes(wish.prompt + wish.answer, kv_width, count, batched)
    sequences = max(wish.per_replica, min(MOST_SEQUENCES, int(memory.kv / typical)))
    engine = Engine(shape, gpu, count, width, kv_width)
    return Choice(gpu, count, engine, memory, batched, sequences, fits, wish, shape.name)


def _small_steps(gpu: Gpu, tokens: int) -> bool:
    """vLLM keeps 2,048 on an A100 whatever its memory (vllm#17885)."""
    return gpu.name.startswith("A100") and tokens > 2048


def _dtype(shape: Shape, gpu: Gpu | None, asked: str) -> str:
    """As vLLM's `auto`: the checkpoint's, but 16 bits for one of 32, and float16 where there is no bfloat16."""
    if asked != "auto":
        return asked
    kind = shape.dtype if shape.dtype in ("bfloat16", "float16") else "bfloat16"
    return "float16" if gpu is not None and not gpu.bfloat16 else kind


def kv_width(shape: Shape, wish: Wish) -> float:
    """Bytes of a cached number where the GPU does not decide."""
    return KV_WIDTHS[wish.kv_dtype] or WIDTHS[_dtype(shape, None, wish.dtype)]


def as_json(choice: Choice) -> Mapping[str, Any]:
    """Figures of a choice, in base units."""
    wish, engine = choice.wish, choice.engine
    return {
        "gpu": choice.gpu.name,
        "gpus": choice.count,
        "tensor_parallel": choice.count,
        "usd_hour": round(choice.usd_hour, 4),
        "usd_hour_all_replicas": round(choice.usd_hour * wish.max_replicas, 4),
        "usd_million_answer_tokens": round(choice.usd_million, 4),
        "price_source": choice.gpu.price_source,
        "memory_bytes": {
            "gpu": int(choice.memory.total),
            "weights": int(choice.memory.weights),
            "step": int(choice.memory.step),
            "graphs": int(choice.memory.graphs),
            "context": int(choice.memory.context),
            "kv": int(choice.memory.kv),
        },
        "answers_at_full_context": choice.fits_at_once,
        "llm_requests": choice.carried,
        "first_token_bound_s": engine.first_token_s(wish.prompt),
        "first_token_expected_s": engine.expected_prefill_s(wish.prompt),
        "step_bound_s": choice.step_bound_s,
        "step_expected_s": engine.expected_step_s(choice.batch, wish.prompt + wish.answer / 2),
        "prefill_tokens_s": wish.prompt / engine.expected_prefill_s(wish.prompt),
        "output_bound_tokens_s": engine.output_rate(choice.batch, wish.prompt, wish.answer),
        "output_expected_tokens_s": choice.output_rate,
        "engine_args": choice.engine_args,
    }
