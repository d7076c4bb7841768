"""Attention by kernels that keep no (T, S): documents, windows, soft cap, ALiBi, sinks, dropout.

ops.attention_exact is the definition of what these compute, and what runs where they do not. The
plain causal triangle needs neither: scaled_dot_product_attention has a flag for it.

Letters: B batch, T queries and keys, H query heads, K key/value heads, D head size, E that of
values, N documents, n blocks of BLOCK positions.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor as Array
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from hermes.formatting import format_count
from hermes.interface import Options
from hermes.spec import Alibi, AttentionSpec, ModelSpec
from hermes_torch import block_attention

BLOCK = 128  # positions in a block of a BlockMask; torch's own default
LEAST_HEAD_SIZE = 16  # of FlexAttention's kernel
MOST_HEAD_SIZE = 256  # of flash attention's
# What the two kernels are in a graph; private names.
FUSED_OPERATORS = ("torch_attn._varlen_attn.default", "flex_attention")

Kernel = Literal["varlen", "flex", "blocks", "sdpa", "written out"]
Mod = Callable[[Array, Array, Array, Array, Array], Array]


@dataclass
class Kernels:
    """Which kernels a model may use. varlen: flash attention over documents of any length.

    flex: FlexAttention, which torch.compile makes for each formula; turned off where that fails.
    atomic: where gradients of learned slopes may be summed in any order, as FlexAttention sums
    them. blocks: block_attention.py, in compiled passes.
    """

    varlen: bool = False
    flex: bool = False
    atomic: bool = True
    blocks: bool = False


NO_KERNELS = Kernels()


def find_kernels(device: torch.device, dtype: torch.dtype, options: Options) -> Kernels:
    """The kernels of a device; none where `exact` or a CPU makes the written-out form the choice.

    FlexAttention without the compiler is the written-out form with a mask of (T, S) besides.
    """
    if device.type == "cpu":
        compiles = options.compile is True and dtype == torch.bfloat16
        return Kernels(blocks=compiles and block_attention.FASTER)
    if device.type != "cuda":
        return NO_KERNELS
    is_low = dtype in (torch.bfloat16, torch.float16)
    has_flash = is_low and torch.cuda.get_device_capability(device)[0] >= 8
    return Kernels(
        varlen=has_flash,
        flex=options.compile is not False and has_triton(),
        atomic=not options.deterministic,
    )


def has_triton() -> bool:
    """Whether torch.compile can make kernels for CUDA here."""
    from torch.utils._triton import has_triton as find  # private, and what torch.compile asks

    return bool(find())


def choose_kernel(
    kernels: Kernels,
    spec: AttentionSpec,
    T: int,
    *,
    has_segments: bool,
    has_dropout: bool,
    is_whole: bool = True,
) -> Kernel:
    """What computes a layer's attention. is_whole: T queries read the same T keys, and no cache."""
    is_written = spec.softcap is not None or spec.sinks or has_dropout
    fallback: Kernel = "written out" if is_written else "sdpa"
    positions, D, E = spec.position_encoding, spec.head_size, spec.value_size
    has_bias = isinstance(positions, Alibi)
    has_mask = has_segments or (spec.window_size is not None and spec.window_size < T)
    if not is_whole or T == 1:
        return fallback
    if not (is_written or has_bias or has_mask):
        in_blocks = kernels.blocks and spec.causal and block_attention.takes_rows(T)
        return "blocks" if in_blocks and torch.compiler.is_compiling() else fallback
    takes_size = D == E and D % 8 == 0 and D <= MOST_HEAD_SIZE
    if kernels.varlen and takes_size and not (is_written or has_bias):
        return "varlen"
    sums_slopes = isinstance(positions, Alibi) and positions.learned
    if kernels.flex and min(D, E) >= LEAST_HEAD_SIZE and (kernels.atomic or not sums_slopes):
        return "flex"
    return fallback


def describe_slow_layers(
    kernels: Kernels, spec: ModelSpec, *, has_segments: bool, has_dropout: bool
) -> str | None:
    """What attention costs where no kernel has what a layer asks for; None where one always has."""
    slow = []
    for attention in spec.attentions:
        drops = has_dropout and attention.dropout > 0
        chosen = choose_kernel(
            kernels, attention, spec.max_seq_len, has_segments=has_segments, has_dropout=drops
        )
        window, T = attention.window_size, spec.max_seq_len
        has_mask = has_segments or (window is not None and window < T)
        has_mask = has_mask or isinstance(attention.position_encoding, Alibi)
        if chosen == "written out" or (chosen == "sdpa" and has_mask):
            slow.append(attention)
    if not slow:
        return None
    sums_slopes = any(
        isinstance(one.position_encoding, Alibi) and one.position_encoding.learned for one in slow
    )
    if not kernels.flex:
        reason = "FlexAttention needs torch.compile and Triton here; leave out --no-compile"
    elif sums_slopes and not kernels.atomic:
        reason = "FlexAttention sums learned slopes in any order; leave out --deterministic"
    else:
        reason = f"FlexAttention takes heads of {LEAST_HEAD_SIZE} numbers and more"
    return (
        f"attention of {len(slow)} of {format_count(len(spec.attentions), 'layers')} moves tensors "
        f"of every query and key: {reason}"
    )


def attend_varlen(
    q: Array, k: Array, v: Array, spec: AttentionSpec, boundaries: Array | None
) -> Array:
    """Attention inside documents and windows. (B, H, T, D), (B, K, T, D) -> (B, H, T, D).

    boundaries (N + 1,) int32: where each document begins in the flattened batch, and its end; None
    where each row is one. Source: Dao 2023, FlashAttention-2, arXiv:2307.08691.
    """
    # It imports the compiler, which takes longer than all else of a start that does not compile.
    from torch.nn.attention.varlen import varlen_attn

    B, H, T, _ = q.shape
    if boundaries is None:
        boundaries = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=q.device)
    q, k, v = (x.swapaxes(1, 2).flatten(0, 1) for x in (q, k, v))  # (B T, H or K, D)
    window = spec.window_size
    left = -1 if window is None or window >= T else window - 1
    y: Any = varlen_attn(
        q,
        k,
        v,
        boundaries,
        boundaries,
        T,
        T,
        scale=spec.score_scale,
        window_size=(left, 0 if spec.causal else left),
        enable_gqa=k.shape[1] != H,
    )
    result: Array = y.unflatten(0, (B, T)).swapaxes(1, 2)
    return result


def make_block_mask(T: int, spec: AttentionSpec, segments: Array | None, device: Any) -> BlockMask:
    """Which blocks of keys each block of queries reads, and the rule inside a block.

    From the first and last position and the least and greatest segment of each block, so that no
    (T, T) is made, as torch's create_block_mask makes one. A block counts as read in full only
    where that is certain.
    """
    n = -(-T // BLOCK)
    first = torch.arange(0, n * BLOCK, BLOCK, device=device)
    last = (first + BLOCK - 1).clamp(max=T - 1)
    q_first, q_last, k_first, k_last = first[:, None], last[:, None], first[None], last[None]
    some = torch.ones((1, n, n), dtype=torch.bool, device=device)
    whole = (q_last - q_first == BLOCK - 1) & (k_last - k_first == BLOCK - 1) & some
    if spec.causal:
        some, whole = some & (k_first <= q_last), whole & (k_last <= q_first)
    window = spec.window_size
    if window is not None and window < T:
        nearest = torch.maximum(k_first - q_last, q_first - k_last)
        farthest = torch.maximum(q_last - k_first, k_last - q_first)
        some, whole = some & (nearest < window), whole & (farthest < window)
    if segments is not None:
        positions = torch.arange(n * BLOCK, device=device).clamp(max=T - 1)
        blocks = segments[:, positions].unflatten(1, (n, BLOCK))
        least, most = blocks.amin(-1), blocks.amax(-1)  # (B, n)
        overlap = (least[:, :, None] <= most[:, None]) & (least[:, None] <= most[:, :, None])
        one = (least == most)[:, :, None] & (least == most)[:, None]
        some, whole = some & overlap, whole & one & overlap
    partial = _order_blocks(some & ~whole)
    return BlockMask.from_kv_blocks(
        *partial,
        *_order_blocks(some & whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=_make_mask_mod(spec, window if window is None or window < T else None, segments),
        seq_lengths=(T, T),
    )


def _order_blocks(reads: Array) -> tuple[Array, Array]:
    """How many blocks of keys each block of queries reads, and which, those first. (B, n, n)."""
    count = reads.sum(-1, dtype=torch.int32)[:, None]
    order = torch.argsort(reads.int(), dim=-1, descending=True, stable=True).int()[:, None]
    return count, order


def _make_mask_mod(
    spec: AttentionSpec, window: int | None, segments: Array | None
) -> Callable[[Array, Array, Array, Array], Array]:
    """ctx.attention_mask as a function of a row, a head, a query and a key."""
    causal = spec.causal

    def allows(b: Array, h: Array, i: Array, j: Array) -> Array:
        reads = i >= j if causal else i >= 0
        if window is not None:
            reads = reads & ((i - j).abs() < window)
        if segments is not None:
            reads = reads & (segments[b, i] == segments[b, j])
        return reads

    return allows


def attend_flex(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    slopes: Array | None,
    sinks: Array | None,
    mask: BlockMask,
    dropout: Callable[[Array, Array], Array] | None,
) -> Array:
    """ops.attention_exact by FlexAttention. (B, H, T, D), (B, K, T, D or E) -> (B, H, T, E).

    dropout: which weights are kept, by row and by element of a row's (H, T, T). It acts after the
    softmax, and FlexAttention only before. With Z the softmax's sum, and Z' that of the kept
    terms, sum(kept p v) = (sum(kept exp(s) v) / Z') (Z' / Z): attention over the kept keys alone,
    times the ratio of the two sums. Both are by-products of the kernel, which evaluates the hash
    in its tile. Z takes a pass over the keys of its own, with 16 numbers a value.
    Source: Dong et al. 2024, FlexAttention, arXiv:2412.05496.
    """
    T, cap = q.shape[2], spec.softcap

    def modify(score: Array, b: Array, h: Array, i: Array, j: Array) -> Array:
        if cap is not None:
            score = cap * torch.tanh(score / cap)
        return score if slopes is None else score - slopes[h] * (i - j).abs()

    def modify_kept(score: Array, b: Array, h: Array, i: Array, j: Array) -> Array:
        assert dropout is not None
        # By way of int64, since tracing leaves a cast of int32 to int32 out, and the indices of
        # torch's reference are int64.
        element = ((h * T + i) * T + j).long().int()
        return torch.where(dropout(b, element), modify(score, b, h, i, j), -math.inf)

    attend = functools.partial(_run_flex, q, k, mask=mask, scale=spec.score_scale)
    if dropout is None:
        y, lse = attend(v, mod=None if cap is None and slopes is None else modify)
        # A sink is one more term of the sum: the values of all others shrink by its share.
        return y if sinks is None else (y * torch.sigmoid(lse - sinks[:, None])[..., None]).to(q)
    _, lse = attend(v[..., :LEAST_HEAD_SIZE].detach(), mod=modify)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks[:, None].to(lse.dtype))
    y, kept = attend(v, mod=modify_kept)
    return (y * ((kept - lse).exp() / (1 - spec.dropout))[..., None]).to(q.dtype)


def _run_flex(
    q: Array, k: Array, v: Array, *, mask: BlockMask, scale: float, mod: Mod | None
) -> tuple[Array, Array]:
    """The kernel's output and the log of its softmax's sum. -> (B, H, T, E), (B, H, T)."""
    call: Any = flex_attention if torch.compiler.is_compiling() else _compile_flex()
    y, aux = call(
        q,
        k,
        v,
        score_mod=mod,
        block_mask=mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True),
        # Of torch's kernels the one that gives gradients by way of the sum, too.
        kernel_options={"BACKEND": "TRITON"},
    )
    return y, aux.lse


@functools.cache
def _compile_flex() -> Any:
    # Its formulas hold caps and rates, which must stay the numbers they are.
    return torch.compile(flex_attention, dynamic=False)
