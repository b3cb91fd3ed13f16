"""How fast a model can be on a GPU at best (roofline), and how fast to expect it.

For Llama-3-8B in bf16 on one H200 (4.8e12 B/s, 989e12 FLOP/s) the bounds are 3.13 ms for a step of one answer, 5.1 ms
for 64 answers of 1,152 tokens, 14.7 ms for a prompt of 1,000 tokens. Measured by others: 75 to 77 % of the bandwidth
bound for one answer on an A100 (vLLM 0.23), 48 % for 8 answers on an H200 (2024); prompts reach 0.5 to 0.6 of the peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.planning.gpus import Gpu
from serving.planning.memory import read_bytes
from serving.planning.shape import Shape

#: Shares of the bounds that `expected` figures take, from the measurements above.
DECODE_SHARE, PREFILL_SHARE = 0.65, 0.5
#: Seconds that one all-reduce takes however small it is: NVLink, and PCIe. Two a layer. An assumption.
_REDUCE_NVLINK_S, _REDUCE_PCIE_S = 8e-6, 30e-6
_NVLINK_FROM = 100e9


@dataclass(frozen=True)
class Engine:
    """One replica: a shape on `tensor_parallel` GPUs. `width`, `kv_width`: bytes of a number."""

    shape: Shape
    gpu: Gpu
    tensor_parallel: int
    width: float
    kv_width: float

    def step_s(self, batch: int, length: float) -> float:
        """Least seconds of a step that gives each of `batch` answers, of `length` tokens so far, one more token.

        max((weights read + batch * length * KV bytes) / bandwidth, 2 * active parameters * batch / FLOP/s), each
        divided among the GPUs, and two all-reduces a layer.
        """
        kv = self._kv_read(batch, length)
        weights = read_bytes(self.shape, self.width, batch) / self.tensor_parallel
        compute = 2.0 * self.shape.active * batch / (self._flops * self.tensor_parallel)
        return max((weights + kv) / self.gpu.bandwidth, compute) + self._reduce_s(batch)

    def prefill_s(self, tokens: float) -> float:
        """Least seconds for a prompt: (2 * active parameters * L + 2 * heads * head size * layers * L^2) / FLOP/s.

        The second term is causal attention: 4 FLOP for a pair of tokens and a number, over half of the pairs. The
        output matrix multiplies the last token only.
        """
        shape = self.shape
        linear = 2.0 * (shape.active - (shape.head or shape.embedding)) * tokens
        pairs = sum(
            kind.layers * kind.heads * (kind.head_dim + kind.value_dim) * min(tokens, 2 * (kind.window or tokens))
            for kind in shape.attention
        )
        flops = linear + pairs * tokens + 2.0 * (shape.head or shape.embedding)
        return flops / (self._flops * self.tensor_parallel) + self._reduce_s(tokens)

    def first_token_s(self, prompt: float) -> float:
        """Least time to first token in an idle engine: the prompt, which yields it."""
        return max(self.prefill_s(prompt), self.step_s(1, prompt))

    def output_rate(self, batch: int, prompt: float, answer: float) -> float:
        """Most answer tokens a second with `batch` answers at a time: answer / (prefill + answer * step / batch).

        A request costs the engine its prefill and its share of `answer` steps.
        """
        step = self.step_s(batch, prompt + answer / 2)
        return answer / (self.prefill_s(prompt) + answer * step / batch)

    def expected_step_s(self, batch: int, length: float) -> float:
        return self.step_s(batch, length) / DECODE_SHARE

    def expected_prefill_s(self, tokens: float) -> float:
        return self.prefill_s(tokens) / PREFILL_SHARE

    def expected_rate(self, batch: int, prompt: float, answer: float) -> float:
        step = self.expected_step_s(batch, prompt + answer / 2)
        return answer / (self.expected_prefill_s(prompt) + answer * step / batch)

    @property
    def _flops(self) -> float:
        """8-bit floating point weights multiply at their own rate where the hardware has one."""
        method = self.shape.quantization.method if self.shape.quantization else ""
        return self.gpu.flops_fp8 if "fp8" in method and self.gpu.flops_fp8 else self.gpu.flops

    def _kv_read(self, batch: int, length: float) -> float:
        each = sum(
            kind.cached(self.tensor_parallel) * min(length, kind.window or length) for kind in self.shape.attention
        )
        return batch * each * self.kv_width

    def _reduce_s(self, tokens: float) -> float:
        """Two ring all-reduces a layer: 2 (n - 1) / n of the activations over the link."""
        if self.tensor_parallel == 1:
            return 0.0
        least = _REDUCE_NVLINK_S if self.gpu.link >= _NVLINK_FROM else _REDUCE_PCIE_S
        moved = 2 * (self.tensor_parallel - 1) / self.tensor_parallel * tokens * self.shape.hidden * self.width
        return 2 * self.shape.layers * (least + moved / self.gpu.link)
