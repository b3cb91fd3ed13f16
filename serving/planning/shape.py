"""What of a model decides memory and speed: parameters by role, and what one token leaves in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Tokens of one block of vLLM's KV cache on GPUs (`CacheConfig.DEFAULT_BLOCK_SIZE`).
BLOCK = 16


@dataclass(frozen=True)
class Attention:
    """Layers of one kind. `latent` (MLA): numbers cached a token and layer, the same on every GPU, for all heads."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    latent: int | None = None

    def cached(self, tensor_parallel: int = 1) -> int:
        """Numbers that one token leaves in all these layers, on each of the GPUs.

        vLLM 0.29, `ModelConfig.get_num_kv_heads`: key/value heads are divided, and copied where there are fewer than
        GPUs; with MLA every GPU holds the whole latent vector.
        """
        if self.latent is not None:
            return self.layers * self.latent
        return self.layers * max(1, self.kv_heads // tensor_parallel) * (self.head_dim + self.value_dim)

    def tokens_held(self, length: int, in_flight: int) -> int:
        """Tokens a request of this length keeps at most, in whole blocks.

        vLLM 0.29, `kv_cache_interface.py`: full attention keeps all of them; a window of W keeps W - 1 computed ones
        and those of the step in flight, and one block more because a window begins inside a block.
        """
        if self.window is None:
            return -(-length // BLOCK) * BLOCK
        held = min(self.window - 1 + in_flight, length)
        return (-(-held // BLOCK) + 1) * BLOCK


@dataclass(frozen=True)
class Experts:
    """Routed experts: `layers` layers of `count`, of which each token reads `active`; parameters of one expert."""

    layers: int
    count: int
    active: int
    parameters: int

    @property
    def total(self) -> int:
        return self.layers * self.count * self.parameters

    def read(self, batch: int) -> float:
        """Parameters that a step with one token of each of `batch` answers reads: the experts that any of them chose.

        With choices spread evenly, an expert is left out by all with probability (1 - active/count)^batch.
        """
        return self.total * (1.0 - (1.0 - self.active / self.count) ** batch)


@dataclass(frozen=True)
class Quantization:
    """`bits` of a weight with its scales, for the parts it covers: all matrices of the layers, or only the experts."""

    method: str
    bits: float
    experts_only: bool = False


@dataclass(frozen=True)
class Shape:
    """A decoder, as its config.json describes it. All counts are numbers of parameters.

    `embedding` is the table of input embeddings, of which a token reads one row; `head` is the output matrix (0 where
    it is the same table); `dense` are matrices of the layers that every token reads; `small` are norms, biases,
    routers; `vision` is an image tower with its projection.
    """

    name: str
    family: str
    hidden: int
    vocabulary: int
    intermediate: int
    layers: int
    context: int
    dtype: str
    embedding: int
    head: int
    dense: int
    small: int
    attention: tuple[Attention, ...]
    experts: Experts | None = None
    vision: int = 0
    quantization: Quantization | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> int:
        routed = self.experts.total if self.experts else 0
        return self.embedding + self.head + self.dense + self.small + self.vision + routed

    @property
    def active(self) -> int:
        """Parameters that multiply one token: all but the input table, the image tower and experts not chosen."""
        chosen = self.experts.layers * self.experts.active * self.experts.parameters if self.experts else 0
        return self.dense + self.small + chosen + (self.head or self.embedding)

    @property
    def heads(self) -> int:
        return self.attention[0].heads

    @property
    def kv_heads(self) -> int:
        return min(kind.kv_heads for kind in self.attention)

    def kv_bytes(self, width: float, tensor_parallel: int = 1) -> float:
        """Bytes that one token adds to the KV cache of each GPU while no window is full.

        `2 * layers * kv_heads * head_dim * width`: keys and values of each layer (performance notes of vLLM; for
        Llama-3-8B in bf16 2*32*8*128*2 = 131,072).
        """
        return width * sum(kind.cached(tensor_parallel) for kind in self.attention)

    def request_bytes(self, length: int, width: float, tensor_parallel: int = 1, in_flight: int = 2048) -> float:
        """Bytes of KV cache that a request of `length` tokens needs at most on each GPU."""
        return width * sum(
            kind.cached(tensor_parallel) * kind.tokens_held(length, in_flight) for kind in self.attention
        )
