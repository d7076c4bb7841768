"""The Transformer, as the specification defines it. One text in three dialects: this is PyTorch.

Read beside hermes_numpy/model.py and hermes_mlx/model.py: same classes, names and order.
Attribute paths are tensor names. The formulas are in ops.py; what the layers of one forward pass
share (positions, KV cache, masks, dropout) is `ctx`, in context.py.

Letters: B batch, T positions, S keys (those of the KV cache and the T new ones), C hidden size,
H query heads, K key/value heads, D head size, E that of values, R rotated size, F feed-forward
size, V vocabulary.
A site numbers a place of dropout, so that each has a mask of its own: specs/numerics.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor as Array
from torch.nn import Module, ModuleList, Parameter

from hermes.numerics.params import list_norms
from hermes.spec import Alibi, BlockSpec, LayerNorm, ModelSpec
from hermes.spec.parts import Norm as NormSpec
from hermes_torch.context import Context
from hermes_torch.ops import Ops, linear, multiply


def Tensor(*shape: int) -> Parameter:
    """A parameter that is not loaded yet."""
    return Parameter(torch.empty(shape, device="meta"))


class Linear(Module):
    """x W^T + b. (..., in) -> (..., out)."""

    leads_product, joined, joined_bias, joined_sizes = False, None, None, None  # joined_weights.py

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = Tensor(outputs, inputs)
        self.bias = Tensor(outputs) if bias else None

    def forward(self, x: Array) -> Array:
        return linear(x, self.weight, self.bias)


class Embedding(Module):
    """The row of each id. (...) -> (..., C)."""

    def __init__(self, rows: int, C: int):
        super().__init__()
        self.weight = Tensor(rows, C)

    def forward(self, ids: Array) -> Array:
        return F.embedding(ids, self.weight)  # torch: indexing adds gradients in any order


class Norm(Module):
    """rmsnorm, layernorm or nothing, over the last axis. (..., C) -> (..., C)."""

    def __init__(self, norm: NormSpec, C: int, ops: Ops):
        super().__init__()
        self.norm, self.ops = norm, ops
        self.weight = Tensor(C) if norm.weight else None
        self.bias = Tensor(C) if isinstance(norm, LayerNorm) and norm.bias else None

    def forward(self, x: Array) -> Array:
        return self.ops.normalize(x, self.norm, self.weight, self.bias)


class HeadNorm(Module):
    """The norm of queries or of keys, whose heads are H here. (B, T, H, D) -> (B, T, H, D)."""

    def __init__(self, block: BlockSpec, H: int, ops: Ops):
        super().__init__()
        self.norm, self.ops = block.qk_norm, ops
        assert block.attention is not None, "the layer has attention"
        form, D = block.attention.query_key_norm, block.attention.head_size
        self.over = form.over if form else "head"
        size = D if self.over == "head" else H * D
        self.weight = Tensor(size) if self.norm.weight else None
        self.bias = Tensor(size) if form and form.bias else None

    def forward(self, x: Array) -> Array:
        B, T, H, D = x.shape
        if self.over == "flat":
            y = self.ops.normalize(x.reshape(B, T, H * D), self.norm, self.weight, self.bias)
            return y.reshape(B, T, H, D)
        weight: Array | None = self.weight
        bias: Array | None = self.bias
        if weight is not None and self.over == "each_head":
            weight, bias = weight.reshape(H, D), None if bias is None else bias.reshape(H, D)
        return self.ops.normalize(x, self.norm, weight, bias)


class Attention(Module):
    """Grouped-query attention with its positions. (B, T, C) -> (B, T, C)."""

    def __init__(self, block: BlockSpec, C: int, layer: int, ops: Ops):
        super().__init__()
        spec = block.attention
        assert spec is not None, "the layer has attention"
        self.spec, self.layer, self.site, self.ops = spec, layer, 1 + 4 * layer, ops
        self.H, self.K = spec.num_heads, spec.kv_heads
        self.D, self.E = spec.head_size, spec.value_size
        self.q_proj = Linear(C, self.H * self.D, spec.has_qkv_bias)
        self.k_proj = Linear(C, self.K * self.D, spec.has_qkv_bias)
        self.v_proj = Linear(C, self.K * self.E, spec.has_qkv_bias)
        gated = spec.output_gate
        self.gate_proj = Linear(C, self.H * self.E, spec.has_qkv_bias) if gated else None
        self.o_proj = Linear(self.H * self.E, C, spec.has_output_bias)
        self.sinks = Tensor(self.H) if spec.sinks else None
        if spec.qk_norm != "none":
            self.q_norm = HeadNorm(block, self.H, ops)
            self.k_norm = HeadNorm(block, self.K, ops)
        form, positions = spec.query_key_norm, spec.position_encoding
        self.norms_before = form is not None and not form.after_rope
        self.norms_after = form is not None and form.after_rope
        if isinstance(positions, Alibi) and positions.learned:
            self.alibi_slopes = Tensor(self.H)

    def forward(self, x: Array, ctx: Context) -> Array:
        B, T, C = x.shape
        q, k, v = self.ops.project(x, self.q_proj, self.k_proj, self.v_proj)
        if self.spec.clip_qkv is not None:
            q, k, v = (self.ops.clip(y, self.spec.clip_qkv) for y in (q, k, v))
        q = q.reshape(B, T, self.H, self.D)  # and after swapaxes (B, H, T, D)
        k = k.reshape(B, T, self.K, self.D)  # (B, K, T, D)
        v = v.reshape(B, T, self.K, self.E)  # (B, K, T, E)
        if self.norms_before:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.swapaxes(1, 2) for y in (q, k, v))
        if self.spec.rotary_size:
            q, k = ctx.rotate(self.ops, q, k, self.spec)
        if self.norms_after:
            q = self.q_norm(q.swapaxes(1, 2)).swapaxes(1, 2)
            k = self.k_norm(k.swapaxes(1, 2)).swapaxes(1, 2)
        k, v = ctx.update(self.layer, k, v)  # (B, K, S, D), (B, K, S, E)
        slopes = self.get_slopes(ctx)  # (H,) or None
        y = ctx.attend(self.ops.attention, q, k, v, self.spec, slopes, self.sinks, self.site)
        y = y.swapaxes(1, 2).reshape(B, T, self.H * self.E)
        if self.gate_proj is not None:
            y = y * self.ops.sigmoid(self.gate_proj(x))
        return self.o_proj(y)  # (B, T, C)

    def get_slopes(self, ctx: Context) -> Array | None:
        """ALiBi's slope of each head, (H,); None without ALiBi."""
        positions = self.spec.position_encoding
        if not isinstance(positions, Alibi):
            return None
        slopes = self.alibi_slopes if positions.learned else ctx.alibi_slopes(self.H)
        return slopes if positions.scale is None else slopes * positions.scale


class FeedForward(Module):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)). (B, T, C) -> (B, T, C)."""

    def __init__(self, block: BlockSpec, C: int, layer: int, ops: Ops):
        super().__init__()
        spec = block.ffn
        assert spec is not None, "the layer has a feed-forward network"
        self.spec, self.site, self.ops = spec, 2 + 4 * layer, ops
        self.act = ops.activations[spec.function]
        self.gate_proj = Linear(C, spec.hidden_size, spec.bias) if spec.gated else None
        self.up_proj = Linear(C, spec.hidden_size, spec.bias)
        self.down_proj = Linear(spec.hidden_size, C, spec.bias)

    def forward(self, x: Array, ctx: Context) -> Array:
        up, gate = self.ops.project(x, self.up_proj, self.gate_proj)  # (B, T, F), or None
        h = self.act(up) if gate is None else self.open_gate(gate, up)
        return ctx.dropout(self.down_proj(h), self.spec.dropout, self.site)  # (B, T, C)

    def open_gate(self, gate: Array, up: Array) -> Array:
        """act(gate) * up, or the clamped swiglu. (B, T, F), (B, T, F) -> (B, T, F)."""
        limit, alpha = self.spec.limit, self.spec.alpha
        if limit is None or alpha is None:
            return self.act(gate) * up
        return self.ops.clamp_swiglu(gate, up, limit, alpha)


class Block(Module):
    """Attention and feed-forward, or one, with norms and residual. (B, T, C) -> (B, T, C)."""

    def __init__(self, block: BlockSpec, C: int, layer: int, ops: Ops):
        super().__init__()
        self.block, self.site = block, 3 + 4 * layer
        self.self_attn = Attention(block, C, layer, ops) if block.attention else None
        self.mlp = FeedForward(block, C, layer, ops) if block.ffn else None
        self.norms = list_norms(block)
        for name in self.norms.values():
            setattr(self, name, Norm(block.norm, C, ops))

    def forward(self, x: Array, ctx: Context) -> Array:
        block, h, n = self.block, x, self.apply_norm("attention_in", x)
        if self.self_attn is not None:
            h = self.add_output("attention", x, self.self_attn(n, ctx), ctx)
        if not block.shared_norm:
            n = self.apply_norm("ffn_in", x if block.parallel else h)
        return h if self.mlp is None else self.add_output("ffn", h, self.mlp(n, ctx), ctx)

    def add_output(self, part: str, x: Array, y: Array, ctx: Context) -> Array:
        """Add a sublayer's output y, normed, dropped and scaled, to x. (B, T, C) -> (B, T, C)."""
        block, is_ffn = self.block, part == "ffn"
        y = ctx.dropout(self.apply_norm(f"{part}_out", y), block.dropout, self.site + is_ffn)
        y = multiply(y, block.residual_scale)
        is_sum = block.residual or (is_ffn and block.parallel)
        return self.apply_norm(f"{part}_sum", x + y if is_sum else y)

    def apply_norm(self, where: str, x: Array) -> Array:
        """Apply the norm that norm_position puts there, if any. (B, T, C) -> (B, T, C)."""
        return getattr(self, self.norms[where])(x) if where in self.norms else x


class Stack(Module):
    """Embeddings, the blocks and the final norm. (B, T) ids -> (B, T, C)."""

    def __init__(self, spec: ModelSpec, ops: Ops):
        super().__init__()
        C, positions = spec.hidden_size, spec.learned_positions
        self.spec = spec.embeddings
        self.embed_tokens = Embedding(spec.vocab_size, C)
        self.embed_norm = Norm(self.spec.norm, C, ops) if self.spec.norm else None
        self.embed_positions = Embedding(positions, C) if positions else None
        self.layers = ModuleList(Block(block, C, i, ops) for i, block in enumerate(spec.layers))
        self.norm = Norm(spec.final_norm, C, ops)

    def forward(self, tokens: Array, ctx: Context) -> Array:
        x = ctx.cast(self.embed_tokens(tokens))  # (B, T, C)
        x = multiply(x, self.spec.scale)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        if self.embed_positions is not None:
            x = x + ctx.cast(self.embed_positions(ctx.positions(tokens.shape[1])))
        x = ctx.dropout(x, self.spec.dropout, 0)
        for layer in self.layers:
            x = ctx.run_block(layer, x)
        return self.norm(x)


class Head(Module):
    """Logits: x W^T + b, scaled and capped; W is the embedding's if tied. (..., C) -> (..., V)."""

    def __init__(self, spec: ModelSpec, ops: Ops):
        super().__init__()
        self.scale, self.softcap, self.ops = spec.output.scale, spec.output.softcap, ops
        tied = spec.embeddings.tie_weights
        self.weight = None if tied else Tensor(spec.vocab_size, spec.hidden_size)
        self.bias = Tensor(spec.vocab_size) if spec.output.bias else None

    def forward(self, x: Array, embedding: Array) -> Array:
        return self.project(x, *self.get_weights(embedding))

    def get_weights(self, embedding: Array) -> tuple[Array, Array | None]:
        """W, (V, C), and b, (V,) or None."""
        return embedding if self.weight is None else self.weight, self.bias

    def project(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """softcap(scale (x W^T + b)), in x's dtype. (..., C) -> (..., V)."""
        y = multiply(linear(x, weight, bias), self.scale)  # (..., V)
        return y if self.softcap is None else self.ops.soft_cap(y, self.softcap)


class Transformer(Module):
    """A language model: the stack and its head. (B, T) ids -> (B, T, V) logits."""

    def __init__(self, spec: ModelSpec, ops: Ops):
        super().__init__()
        self.model = Stack(spec, ops)
        self.lm_head = Head(spec, ops)

    def forward(self, tokens: Array, ctx: Context) -> Array:
        return self.compute_logits(self.model(tokens, ctx))

    def compute_logits(self, x: Array) -> Array:
        """Apply the head to the stack's output, tied where the spec ties. (..., C) -> (..., V)."""
        return self.lm_head(x, self.model.embed_tokens.weight)
