"""Low-rank adapters: layers of a model replaced by adapted ones, at the same paths."""

from collections.abc import Sequence

import torch
from torch import Tensor as Array
from torch.nn import Module

from hermes.numerics.lora import find_adapted_paths, find_token_paths
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_torch.chunked_loss import project
from hermes_torch.context import Context
from hermes_torch.loss import upcast
from hermes_torch.model import Embedding, Head, Linear, Tensor, Transformer
from hermes_torch.ops import linear

FIRST_SITE = 1 << 20  # dropout sites of adapters, beyond those of any model's layers


class LoraLinear(Linear):
    """x W^T + b + scale B A dropout(x), and with DoRA its rows at a trained length.

    (..., in) -> (..., out). Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3.
    """

    ctx: Context  # of the pass under way: a Linear's forward has no argument for it

    def __init__(self, base: Linear, lora: Lora, site: int):
        outputs, inputs = base.weight.shape
        super().__init__(inputs, outputs, False)
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = Linear(inputs, lora.rank, False)
        self.lora_B = Linear(lora.rank, outputs, False)
        self.lora_magnitude_vector = Tensor(outputs) if lora.dora else None
        self.lora, self.site = lora, site

    def forward(self, x: Array) -> Array:
        """The product of the base and of the adapter, summed."""
        low = self.lora_A(self.ctx.dropout(x, self.lora.dropout, self.site))
        update = self.lora.scale * self.lora_B(low)
        if self.lora_magnitude_vector is None:
            return super().forward(x) + update
        y = linear(x, self.weight, None) + update
        y = y * (self.lora_magnitude_vector / self.measure_rows()).to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def measure_rows(self) -> Array:
        """The length of each row of W + scale B A, a constant of the gradient; 1 for 0. (out,)

        From |w + s u|^2 = w w + 2 s w u + s^2 u u, so that no second matrix of W's size is made.
        Source: Liu et al. 2024, DoRA, arXiv:2402.09353, eq. 5 and section 4.3.
        """
        parts = self.weight, self.lora_A.weight, self.lora_B.weight
        # A frozen matrix may be held in the dtype of products; a sharded module's are gathered so.
        w, a, b = map(upcast, parts)
        s = self.lora.scale
        squares = torch.linalg.vector_norm(w, dim=1).square()
        squares = squares + 2 * s * ((w @ a.T) * b).sum(1) + s * s * ((b @ (a @ a.T)) * b).sum(1)
        return squares.clamp(min=0).sqrt() + (squares <= 0)


class TokenRows(Module):
    """Trained rows of some tokens, under PEFT's name; whole rows, and no differences. (r, C)."""

    def __init__(self, count: int, C: int):
        super().__init__()
        self.trainable_tokens_delta = Tensor(count, C)


class TokenEmbedding(Embedding):
    """The row of each id, which is a trained one for some. (...) -> (..., C)."""

    def __init__(self, base: Embedding, token_ids: Array):
        super().__init__(*base.weight.shape)
        self.token_adapter = TokenRows(len(token_ids), base.weight.shape[1])
        order = torch.arange(len(token_ids), device=token_ids.device)
        self.slots = torch.full((len(base.weight),), -1, device=token_ids.device)
        self.slots[token_ids] = order

    def forward(self, ids: Array) -> Array:
        """Both rows are looked up, and the trained one is taken where there is one."""
        slots = self.slots[ids]
        rows = torch.nn.functional.embedding(
            slots.clamp(min=0), self.token_adapter.trainable_tokens_delta
        )
        return torch.where((slots >= 0)[..., None], rows, super().forward(ids))


class TokenHead(Head):
    """Logits, of which those of some tokens are of trained rows. (..., C) -> (..., V)."""

    def __init__(self, base: Head, spec: ModelSpec, embedding: TokenEmbedding, token_ids: Array):
        super().__init__(spec, base.ops)
        self.token_ids = token_ids
        tied = spec.embeddings.tie_weights
        self.token_adapter = None if tied else TokenRows(len(token_ids), spec.hidden_size)
        self._embedding = (embedding,)  # in a tuple, or its parameters would be the head's, too

    @property
    def token_rows(self) -> Array:
        """The trained rows: the embedding's where tied. (r, C)."""
        own, embedding = self.token_adapter, self._embedding[0]
        return (embedding.token_adapter if own is None else own).trainable_tokens_delta

    def forward(self, x: Array, embedding: Array) -> Array:
        """The base's logits, with columns of the trained rows put in."""
        return project(self, x, *self.get_weights(embedding), self.token_rows)


def adapt(
    module: Transformer, spec: ModelSpec, lora: Lora, device: torch.device
) -> list[LoraLinear]:
    """Replace every target of `lora` in the module by a LoraLinear, and return those.

    With rows of tokens, the embedding and the head are replaced too.
    """
    adapters = []
    for index, path in enumerate(find_adapted_paths(spec, lora)):
        parent_path, _, name = path.rpartition(".")
        parent = module.get_submodule(parent_path)
        adapters.append(LoraLinear(getattr(parent, name), lora, FIRST_SITE + index))
        setattr(parent, name, adapters[-1])
    if find_token_paths(spec, lora):
        _adapt_tokens(module, spec, lora.token_ids, device)
    return adapters


def _adapt_tokens(
    module: Transformer, spec: ModelSpec, ids: Sequence[int], device: torch.device
) -> None:
    token_ids = torch.tensor(ids, device=device)
    embedding = TokenEmbedding(module.model.embed_tokens, token_ids)
    module.lm_head = TokenHead(module.lm_head, spec, embedding, token_ids)
    module.model.embed_tokens = embedding
