"""The objectives, as sums over counted targets, in float32 at least.

next_token and target_logprobs define them, on logits that exist all at once. The tables of ops.py
choose between those and the same in slices, where the logits of a few tokens exist at a time: with
large vocabularies they would be most of a step's memory, and of its memory traffic.
"""

import mlx.core as mx

from hermes.seam import IGNORE
from hermes_mlx.preference import pair_losses

SLICE = 1 << 23  # logits of a slice where there is no GPU: 32 MB
LARGE_SLICE = 1 << 27  # where matrix products want many rows


def wide(logits):
    """Logits in the type that losses are computed in."""
    return logits if logits.dtype == mx.float64 else logits.astype(mx.float32)


def target_logprobs(logits, targets, ops):
    """log p(target), 0 where IGNORE. (..., V), (...) -> (...)."""
    logits, counted = wide(logits), targets != IGNORE
    chosen = mx.take_along_axis(logits, mx.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return mx.where(counted, chosen - ops.log_sum_exp(logits), 0.0)


def next_token(logits, targets, ops):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return -target_logprobs(logits, targets, ops).sum()


def preference(sums, targets, reference, rule):
    """The summed loss of a micro-batch's pairs, of each row's log-probability. -> ()."""
    counts = (targets != IGNORE).sum(axis=-1)
    return pair_losses(sums, counts, reference, rule).sum()


def whole_logprobs(module, x, targets, at):
    """target_logprobs of the stack's output, `at` or not. (B, T, C), (B, T) -> (B, T)."""
    return target_logprobs(module.logits(x), targets, module.lm_head.ops)


def whole_next_token(module, x, targets, at):
    """next_token of the stack's output, `at` or not. (B, T, C), (B, T) -> ()."""
    return next_token(module.logits(x), targets, module.lm_head.ops)


def slices(count, vocabulary):
    """The (begin, end) of each slice of so many tokens."""
    rows = max(1, (LARGE_SLICE if mx.is_available(mx.gpu) else SLICE) // vocabulary)
    return [(begin, min(begin + rows, count)) for begin in range(0, count, rows)]


def head_weights(module):
    """What the head multiplies and adds: W (V, C), and b (V,) where it has one."""
    head = module.lm_head
    weight = module.model.embed_tokens.weight if head.weight is None else head.weight
    return (weight,) if head.bias is None else (weight, head.bias)


def counted_only(x, targets, at):
    """The tokens at `at`, or all for None: no others need logits. -> (N, C), (N,)."""
    flat, wanted = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    return (flat, wanted) if at is None else (flat[at], wanted[at])


def sliced_logprobs(module, x, targets, at):
    """whole_logprobs, its logits made again in the backward pass where they are many.

    at: where targets count, (N,); None for everywhere.
    """
    weights, cap, ops = head_weights(module), module.lm_head.softcap, module.lm_head.ops
    flat, wanted = counted_only(x, targets, at)
    parts, found = slices(len(wanted), len(weights[0])), []

    def piece(targets):
        return lambda x, *weights: target_logprobs(scores(x, cap, *weights), targets, ops)

    if len(parts) == 1:
        found = piece(wanted)(flat, *weights)
    else:
        for begin, end in parts:
            some = mx.depends([flat[begin:end]], found[-1:])[0]  # one slice after the other
            found.append(mx.checkpoint(piece(wanted[begin:end]))(some, *weights))
        found = mx.concatenate(found)
    if at is not None:
        found = mx.zeros(targets.size, found.dtype).at[at].add(found)
    return found.reshape(targets.shape)


def scores(x, cap, weight, bias=None):
    """softcap(x W^T + b), in the type of losses. (N, C) -> (N, V)."""
    logits = x @ weight.astype(x.dtype).T
    logits = logits if bias is None else logits + bias.astype(x.dtype)
    return wide(logits if cap is None else cap * mx.tanh(logits / cap))


def sliced_next_token(module, x, targets, at):
    """whole_next_token, with its gradient made in the same pass over the logits.

    The loss is a sum, so what arrives in the backward pass is one number: the gradients of x, W
    and b are made with the loss, up to that number, and no logits are kept or made again.
    at: where targets count, (N,); None for everywhere.
    """
    weights, cap, ops = head_weights(module), module.lm_head.softcap, module.lm_head.ops
    flat, wanted = counted_only(x, targets, at)

    @mx.custom_function
    def summed(x, weight, *bias):
        total, dx, dw, db = mx.zeros((), wide(x).dtype), [], mx.zeros_like(weight), 0
        for begin, end in slices(len(x), len(weight)):
            some, at = mx.depends([x[begin:end], wanted[begin:end]], [dw])  # one after the other
            logits = scores(some, cap, weight, *bias)
            total = total + next_token(logits, at, ops)
            d = mx.where(mx.arange(len(weight)) == at[:, None], -1.0, 0.0) + ops.softmax(logits)
            d = mx.where(at[:, None] == IGNORE, 0.0, d)  # p - [v = target]
            d = d if cap is None else d * (1 - mx.square(logits / cap))
            d = d.astype(x.dtype)
            dx.append(d @ weight.astype(x.dtype))
            dw, db = dw + d.T @ some, db + d.sum(axis=0)
        return total, mx.concatenate(dx), dw, *(db.astype(b.dtype) for b in bias)

    @summed.vjp
    def scaled(primals, cotangents, outputs):
        return tuple((wide(d) * cotangents[0]).astype(d.dtype) for d in outputs[1:])

    return summed(flat, *weights)[0]
