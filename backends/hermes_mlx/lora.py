"""Low-rank adapters: layers of a model replaced by adapted ones, at the same paths."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.core import array as Array
from mlx.nn import Module

from hermes.numerics.lora import find_adapted_paths, find_token_paths
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_mlx.chunked_loss import project
from hermes_mlx.context import Context
from hermes_mlx.loss import upcast
from hermes_mlx.model import Embedding, Head, Linear, Tensor, Transformer
from hermes_mlx.ops import linear

FIRST_SITE = 1 << 20  # dropout sites of adapters, beyond those of any model's layers


class LoraLinear(Linear):
    """x W^T + b + scale B A dropout(x), and with DoRA its rows at a trained length.

    (..., in) -> (..., out). Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3.
    """

    ctx: Context  # of the pass under way: a Linear's call has no argument for it

    def __init__(self, base: Linear, lora: Lora, site: int):
        outputs, inputs = base.weight.shape
        super().__init__(inputs, outputs, False)
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = Linear(inputs, lora.rank, False)
        self.lora_B = Linear(lora.rank, outputs, False)
        self.lora_magnitude_vector = Tensor(outputs) if lora.dora else None
        self.lora, self.site = lora, site

    def __call__(self, x: Array) -> Array:
        """The product of the base and of the adapter, summed."""
        low = self.lora_A(self.ctx.dropout(x, self.lora.dropout, self.site))
        update = self.lora.scale * self.lora_B(low)
        if self.lora_magnitude_vector is None:
            return super().__call__(x) + update
        y = linear(x, self.weight, None) + update
        y = y * (self.lora_magnitude_vector / self.measure_rows()).astype(y.dtype)
        return y if self.bias is None else y + self.bias.astype(y.dtype)

    def measure_rows(self) -> Array:
        """The length of each row of W + scale B A, a constant of the gradient; 1 for 0. (out,)

        From |w + s u|^2 = w w + 2 s w u + s^2 u u, so that no second matrix of W's size is made.
        Source: Liu et al. 2024, DoRA, arXiv:2402.09353, eq. 5 and section 4.3.
        """
        parts = self.weight, self.lora_A.weight, self.lora_B.weight
        w, a, b = map(upcast, parts)  # a frozen matrix may be held in the type of products
        s = self.lora.scale
        squares = (w * w).sum(axis=1)
        squares = squares + 2 * s * ((w @ a.T) * b).sum(axis=1)
        squares = squares + s * s * ((b @ (a @ a.T)) * b).sum(axis=1)
        return mx.stop_gradient(mx.sqrt(mx.maximum(squares, 0)) + (squares <= 0))


class TokenRows(Module):
    """Trained rows of some tokens, under PEFT's name; whole rows, and no differences. (r, C)."""

    def __init__(self, count: int, C: int):
        super().__init__()
        self.trainable_tokens_delta = Tensor(count, C)


class TokenEmbedding(Embedding):
    """The row of each id, which is a trained one for some. (...) -> (..., C)."""

    def __init__(self, base: Embedding, token_ids: Sequence[int]):
        super().__init__(*base.weight.shape)
        self.token_adapter = TokenRows(len(token_ids), base.weight.shape[1])
        slots = [-1] * len(base.weight)
        for slot, token in enumerate(token_ids):
            slots[token] = slot
        self._slots = mx.array(slots)  # underscored, or it would be a parameter

    def __call__(self, ids: Array) -> Array:
        """Both rows are looked up, and the trained one is taken where there is one."""
        slots = self._slots[ids]
        rows = self.token_adapter.trainable_tokens_delta[mx.maximum(slots, 0)]
        return mx.where((slots >= 0)[..., None], rows, super().__call__(ids))


class TokenHead(Head):
    """Logits, of which those of some tokens are of trained rows. (..., C) -> (..., V)."""

    def __init__(
        self, base: Head, spec: ModelSpec, embedding: TokenEmbedding, token_ids: Sequence[int]
    ):
        super().__init__(spec, base.ops)
        self._token_ids = mx.array(list(token_ids))  # underscored: neither is the head's parameter
        tied = spec.embeddings.tie_weights
        self.token_adapter = None if tied else TokenRows(len(token_ids), spec.hidden_size)
        self._embedding = embedding

    @property
    def token_ids(self) -> Array:
        """The ids of the trained rows. (r,)"""
        return self._token_ids

    @property
    def token_rows(self) -> Array:
        """The trained rows: the embedding's where tied. (r, C)."""
        own, embedding = self.token_adapter, self._embedding
        return (embedding.token_adapter if own is None else own).trainable_tokens_delta

    def __call__(self, x: Array, embedding: Array) -> Array:
        """The base's logits, with columns of the trained rows put in."""
        return project(self, x, *self.get_weights(embedding), self.token_rows)


def adapt(module: Transformer, spec: ModelSpec, lora: Lora) -> list[LoraLinear]:
    """Replace every target of `lora` in the module by a LoraLinear, and return those.

    With rows of tokens, the embedding and the head are replaced too.
    """
    adapters = []
    for index, path in enumerate(find_adapted_paths(spec, lora)):
        *steps, name = path.split(".")
        parent: Any = module
        for step in steps:
            parent = parent[int(step)] if step.isdigit() else getattr(parent, step)
        adapters.append(LoraLinear(getattr(parent, name), lora, FIRST_SITE + index))
        setattr(parent, name, adapters[-1])
    if find_token_paths(spec, lora):
        embedding = TokenEmbedding(module.model.embed_tokens, lora.token_ids)
        module.lm_head = TokenHead(module.lm_head, spec, embedding, lora.token_ids)
        module.model.embed_tokens = embedding
    return adapters
