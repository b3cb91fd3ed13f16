"""BERT's forward pass on a CPU, without padding, over the weights of a sentence-transformers model.

The tokens of all texts of a batch form one long matrix, so that the linear layers, which are nearly all of the work,
calculate nothing in vain; attention goes through them text by text, those of one length together. oneDNN gets its
weights in its own order once, and adds bias, GELU and residual while a product is still in the cache.

Each row of a product depends on its own text alone, and each text is attended to by itself: on one machine a text has
the same vector to the last bit, in whatever company it is embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from serving.index.embedder_lanes import Pause
from serving.index.types import Vectors

#: oneDNN compiles a product for each number of rows it meets, which takes longer than a query's product itself. Rows
#: are filled up to a multiple of this, so that there are few such numbers.
_ROWS = 16
#: For how many rows oneDNN orders its weights: those of a bulk pass.
_USUAL_ROWS = 512
#: (first row, texts, tokens of each) of the texts that have the same length.
_Group: TypeAlias = tuple[int, int, int]
_Norm: TypeAlias = tuple[list[int], Tensor, Tensor, float]


class Bert:
    """The encoder of a transformers `BertModel` and the mean over each text's tokens."""

    def __init__(self, model: Any) -> None:
        """Takes copies of the weights. Raises AttributeError or RuntimeError where oneDNN has no such product."""
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        self._places = (embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]).detach()
        self._norm = _norm(embeddings.LayerNorm)
        self._layers = [_Layer(layer, model.config.num_attention_heads) for layer in model.encoder.layer]

    @torch.inference_mode()
    def means(self, texts: Sequence[Sequence[int]], pause: Pause) -> Vectors:
        """Shape (texts, hidden), float32, not normalised. `texts` are token ids, special tokens included, sorted by
        their number. Calls `pause` several times a layer.
        """
        groups = _groups(texts)
        tokens = [token for text in texts for token in text]
        rows = functional.embedding(torch.tensor(tokens + [0] * (-len(tokens) % _ROWS)), self._words)
        for group in groups:
            _part(rows, group).add_(self._places[: group[2]])
        rows = functional.layer_norm(rows, *self._norm)
        for layer in self._layers:
            rows = layer(rows, groups, pause)
        means: Vectors = torch.cat([_part(rows, group).float().mean(1) for group in groups]).numpy()
        return means


class _Layer:
    def __init__(self, layer: Any, heads: int) -> None:
        own, out = layer.attention.self, layer.attention.output
        self._heads = heads
        self._attended = _Linear(own.query, own.key, own.value)
        self._out, self._out_norm = _Linear(out.dense), _norm(out.LayerNorm)
        self._wide = _Linear(layer.intermediate.dense)
        self._narrow, self._narrow_norm = _Linear(layer.output.dense), _norm(layer.output.LayerNorm)

    def __call__(self, rows: Tensor, groups: Sequence[_Group], pause: Pause) -> Tensor:
        attended = self._attended(rows)
        pause()
        context = self._attention(attended, groups, pause)
        rows = functional.layer_norm(self._out.plus(context, rows), *self._out_norm)
        pause()
        wide = self._wide.gelu(rows)
        pause()
        rows = functional.layer_norm(self._narrow.plus(wide, rows), *self._narrow_norm)
        pause()
        return rows

    def _attention(self, attended: Tensor, groups: Sequence[_Group], pause: Pause) -> Tensor:
        """(rows, 3 x hidden) -> (rows, hidden)."""
        hidden = attended.shape[1] // 3
        context = attended.new_zeros(len(attended), hidden)
        for group in groups:
            _, texts, length = group
            parts = _part(attended, group).view(texts, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            found = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
            _part(context, group).copy_(found.transpose(1, 2).reshape(texts, length, hidden))
            pause()
        return context


class _Linear:
    """One or more linear modules of the same input, side by side."""

    def __init__(self, *modules: Any) -> None:
        weight = torch.cat([module.weight.detach() for module in modules])
        self._bias = torch.cat([module.bias.detach() for module in modules])
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)
        self._product = torch.ops.mkldnn._linear_pointwise

    def __call__(self, rows: Tensor) -> Tensor:
        return self._unary(rows, "none", "")

    def gelu(self, rows: Tensor) -> Tensor:
        """With the exact GELU after it."""
        return self._unary(rows, "gelu", "none")

    def plus(self, rows: Tensor, residual: Tensor) -> Tensor:
        sums: Tensor = self._product.binary(rows, residual, self._weight, self._bias, "add")
        return sums

    def _unary(self, rows: Tensor, then: str, how: str) -> Tensor:
        product: Tensor = self._product(rows, self._weight, self._bias, then, [], how)
        return product


def _groups(texts: Sequence[Sequence[int]]) -> list[_Group]:
    groups, row = [], 0
    for length, some in groupby(map(len, texts)):
        count = len(list(some))
        groups.append((row, count, length))
        row += count * length
    return groups


def _part(rows: Tensor, group: _Group) -> Tensor:
    """The rows of a group's texts: (texts, tokens, columns)."""
    first, texts, length = group
    return rows[first : first + texts * length].view(texts, length, -1)


def _norm(module: Any) -> _Norm:
    """What `layer_norm` takes after its input."""
    return list(module.normalized_shape), module.weight.detach(), module.bias.detach(), module.eps
