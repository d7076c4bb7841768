"""The objectives, as sums over counted targets, in float32 at least.

next_token and target_logprobs define them, on logits that exist all at once. The tables of ops.py
choose between those and the same in slices, where the logits of a few tokens exist at a time: with
large vocabularies they would be most of a step's memory, and of its memory traffic.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from hermes.seam import IGNORE
from hermes_torch.preference import pair_losses

SLICE = {"cpu": 1 << 23}  # logits of a slice: on CPUs 32 MB, which the allocator keeps
LARGE_SLICE = 1 << 28  # where matrix products want many rows


def wide(logits):
    """Logits in the type that losses are computed in."""
    return logits if logits.dtype == torch.float64 else logits.float()


def target_logprobs(logits, targets):
    """log p(target), 0 where IGNORE. (..., V), (...) -> (...)."""
    flat = F.cross_entropy(
        wide(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -flat.reshape(targets.shape)


def next_token(logits, targets):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return F.cross_entropy(
        wide(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def preference(sums, targets, reference, rule):
    """The summed loss of a micro-batch's pairs, of each row's log-probability. -> ()."""
    counts = (targets != IGNORE).sum(-1)
    return pair_losses(sums, counts, reference, rule).sum()


def whole_logprobs(module, x, targets, at):
    """target_logprobs of the stack's output, `at` or not. (B, T, C), (B, T) -> (B, T)."""
    return target_logprobs(module.logits(x), targets)


def whole_next_token(module, x, targets, at):
    """next_token of the stack's output, `at` or not. (B, T, C), (B, T) -> ()."""
    return next_token(module.logits(x), targets)


def slice_rows(x, vocabulary):
    """How many tokens' logits may exist at once."""
    return max(1, SLICE.get(x.device.type, LARGE_SLICE) // vocabulary)


def counted_only(x, targets, at):
    """The tokens at `at`, or all for None: no others need logits. -> (N, C), (N,)."""
    flat, wanted = x.flatten(0, 1), targets.flatten()
    return (flat, wanted) if at is None else (flat.index_select(0, at), wanted[at])


def sliced_logprobs(module, x, targets, at):
    """whole_logprobs, its logits made again in the backward pass where they are many.

    at: where targets count, (N,); None for everywhere.
    """
    flat, wanted = counted_only(x, targets, at)
    rows = slice_rows(x, len(module.model.embed_tokens.weight))

    def piece(x, targets):
        return target_logprobs(module.logits(x), targets)

    if len(wanted) <= rows:
        found = piece(flat, wanted)
    else:
        found = torch.cat(
            [
                checkpoint(piece, *some, use_reentrant=False, preserve_rng_state=False)
                for some in zip(flat.split(rows), wanted.split(rows), strict=True)
            ]
        )
    if at is not None:
        found = found.new_zeros(targets.numel()).index_copy(0, at, found)
    return found.reshape(targets.shape)


def sliced_next_token(module, x, targets, at):
    """whole_next_token, with its gradient made in the same pass over the logits.

    at: where targets count, (N,); None for everywhere.
    """
    head, weight = module.lm_head, module.model.embed_tokens.weight
    rows = slice_rows(x, len(weight))
    weight = weight if head.weight is None else head.weight
    flat, wanted = counted_only(x, targets, at)
    return SlicedLoss.apply(flat, weight, head.bias, wanted, head.softcap, rows)


class SlicedLoss(torch.autograd.Function):
    """next_token of softcap(x W^T + b). (N, C), (V, C), (V,) or None, (N,) -> ().

    The loss is a sum, so what arrives in the backward pass is one number: the gradients of x, W
    and b are made with the loss, up to that number, and no logits are kept or made again.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, targets, cap, rows):
        """The loss, and what the backward pass will scale."""
        matrix = weight.to(x.dtype)
        shift = None if bias is None else bias.to(x.dtype)
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        total, dx = wide(x.new_zeros(())), []
        dw = torch.zeros_like(wide(weight)) if for_weight else None
        db = torch.zeros_like(wide(bias)) if for_bias else None
        for some, wanted in zip(x.split(rows), targets.split(rows), strict=True):
            logits = F.linear(some, matrix, shift)
            logits = wide(logits if cap is None else cap * torch.tanh(logits / cap))
            counted = (wanted != IGNORE)[:, None]
            at = wanted[:, None].where(counted, 0)
            logp = torch.log_softmax(logits, -1)
            total = total - logp.gather(1, at).where(counted, 0).sum()
            d = logp.exp_().scatter_add_(1, at, torch.full_like(at, -1, dtype=logp.dtype))
            d = d.mul_(counted)  # the gradient of the logits: p - [v = target]
            if cap is not None:
                d = d.mul_(1 - (logits / cap).square())
            d = d.to(x.dtype)
            if for_x:
                dx.append(d @ matrix)
            if for_weight:
                dw += d.T @ some
            if for_bias:
                db += d.sum(0)
        ctx.dtypes = x.dtype, weight.dtype, bias is not None and bias.dtype
        ctx.save_for_backward(torch.cat(dx) if for_x else None, dw, db)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, scale):
        """The gradients of x, W and b."""
        # A short type's product with 0-dimensional `scale` would round that, too.
        made = [
            None if d is None else (wide(d) * scale).to(dtype)
            for d, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*made, None, None, None)
