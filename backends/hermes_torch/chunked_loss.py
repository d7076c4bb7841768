"""The objectives of loss.py in slices, where the logits of a few tokens exist at a time.

With large vocabularies logits would be most of a step's memory, and of its memory traffic. The
gradient of a token's logits is known once the loss of what it belongs to is: the token's own, or
its pair's. So it is made in the same pass, and no logits are kept.
"""

import torch
from torch.autograd.function import once_differentiable

from hermes.interface import IGNORE
from hermes.numerics.chunking import group_pairs, make_spans
from hermes_torch.loss import preference, wide

CHUNK = {"cpu": 1 << 23}  # logits of a slice: on CPUs 32 MB, which the allocator keeps
LARGE_CHUNK = 1 << 28  # where matrix products want many rows


def tokens_per_chunk(module, x):
    """How many tokens' logits may exist at once."""
    vocabulary = len(module.model.embed_tokens.weight)
    return max(1, CHUNK.get(x.device.type, LARGE_CHUNK) // vocabulary)


def select_targets(x, targets, at):
    """The tokens at `at`, or all for None: no others need logits. -> (N, C), (N,)."""
    flat, wanted = x.flatten(0, 1), targets.flatten()
    return (flat, wanted) if at is None else (flat.index_select(0, at), wanted[at])


def token_logprobs(head, x, targets, weight, bias):
    """A slice's log p(target), 0 where IGNORE; its logits, log p and places of the targets.

    (n, C), (n,), (V, C), (V,) or None -> (n,), (n, V), (n, V), (n, 1).
    """
    logits = wide(head.scores(x, weight, bias))
    logp = torch.log_softmax(logits, -1)
    counted = targets != IGNORE
    at = targets.where(counted, 0)[:, None]
    return logp.gather(1, at)[:, 0].where(counted, 0), logits, logp, at


def chunked_logprobs(module, x, targets, at):
    """whole_logprobs, to evaluate. at: where targets count, (N,); None for everywhere."""
    flat, wanted = select_targets(x, targets, at)
    groups = [[part] for part in make_spans(0, len(wanted), tokens_per_chunk(module, x))]
    with torch.no_grad():
        found = torch.cat([*logprobs_of_groups(module, flat, wanted, groups)])
    if at is not None:
        found = found.new_zeros(targets.numel()).index_copy(0, at, found)
    return found.reshape(targets.shape)


def chunked_next_token(module, x, targets, at):
    """whole_next_token. at: where targets count, (N,); None for everywhere."""
    flat, wanted = select_targets(x, targets, at)
    groups = [[part] for part in make_spans(0, len(wanted), tokens_per_chunk(module, x))]

    def judge(number, logp):
        return -logp.sum(), None, logp

    return chunked_loss(module, flat, wanted, groups, judge)[0]


def chunked_row_logprobs(module, x, targets, pair_layout):
    """whole_row_logprobs of pairs, from the same slices as sliced_preference, to evaluate."""
    pairs = Pairs(module, x, targets, pair_layout)
    flat, wanted = select_targets(x, targets, pairs.at)
    with torch.no_grad():
        found = logprobs_of_groups(module, flat, wanted, pairs.groups)
        return torch.cat([pairs.sums(*one) for one in enumerate(found)], -1).flatten()


def chunked_preference(module, x, targets, pair_layout, reference, rule):
    """whole_preference. by_pair: pair_tokens' word, its places on the device."""
    pairs = Pairs(module, x, targets, pair_layout)
    flat, wanted = select_targets(x, targets, pairs.at)

    def judge(number, logp):
        sums = pairs.sums(number, logp)  # (2, k)
        here = pairs.rows(number, targets), pairs.rows(number, reference), rule
        loss, derivative = value_and_derivative(preference, sums.flatten(), *here)
        return loss, pairs.of_tokens(number, derivative), sums

    loss, sums = chunked_loss(module, flat, wanted, pairs.groups, judge)
    return loss, sums.flatten()


def value_and_derivative(function, x, *more):
    """What function(x, *more) is, and its derivative for x."""
    if torch.compiler.is_compiling():  # elsewhere it would load the compiler: 70 MB
        derivative, value = torch.func.grad_and_value(function)(x, *more)
        return value, derivative
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x, *more)
        (derivative,) = torch.autograd.grad(value, x)
    return value.detach(), derivative


class Pairs:
    """A micro-batch's P pairs in groups: what a slice holds, or one pair that takes several.

    at: where targets count, pair after pair, (N,). groups: of each its slices of these.
    """

    def __init__(self, module, x, targets, pair_layout):
        self.at, ends = pair_layout
        self._shape, tokens = targets.shape, tokens_per_chunk(module, x)
        self._bounds = group_pairs(ends, tokens)
        starts = [ends[first - 1] if first else 0 for first, _ in self._bounds]
        ends = [ends[last - 1] for _, last in self._bounds]
        self.groups = [make_spans(*of, tokens) for of in zip(starts, ends, strict=True)]

    def _places(self, number):
        spans = self.groups[number]
        return self.at[spans[0][0] : spans[-1][1]]

    def rows(self, number, held):
        """What a group has of something that every row has. (2 P, ...) -> (2 k, ...)."""
        first, last = self._bounds[number]
        return held.unflatten(0, (2, -1))[:, first:last].flatten(0, 1)

    def sums(self, number, logp):
        """The sum of each row of a group. (n,) -> (2, k)."""
        spread = logp.new_zeros(self._shape).flatten().index_copy(0, self._places(number), logp)
        return self.rows(number, spread.reshape(self._shape)).sum(-1).reshape(2, -1)

    def of_tokens(self, number, held):
        """What each token of a group has of its row's. (2 k,) -> (n,)."""
        first, last = self._bounds[number]
        whole = held.new_zeros(2, self._shape[0] // 2)
        whole[:, first:last] = held.reshape(2, -1)
        return whole.flatten()[self._places(number) // self._shape[1]]


def logprobs_of_groups(module, x, targets, groups):
    """The log-probabilities of each group's targets, one slice after another. (N, C), (N,)."""
    head = module.lm_head
    weight, bias = head.weights(module.model.embed_tokens.weight)
    for spans in groups:
        make_spans = [(x[a:b], targets[a:b]) for a, b in spans]
        yield torch.cat([token_logprobs(head, *some, weight, bias)[0] for some in make_spans])


def chunked_loss(module, x, targets, groups, judge):
    """The summed loss of groups of tokens, and what `judge` tells of them. (N, C), (N,).

    groups: of each group its slices, (begin, end). judge(number, logp (n,)) gives a group's loss,
    its derivative for each logp, (n,) or None for -1, and what to tell, joined along its last axis.
    """
    head = module.lm_head
    weight, bias = head.weights(module.model.embed_tokens.weight)
    return ChunkedLoss.apply(x, weight, bias, targets, head, groups, judge)


class ChunkedLoss(torch.autograd.Function):
    """The summed loss of groups, with the gradients of x, W and b; and what was told of groups.

    What arrives in the backward pass is one number, which those are scaled with.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, targets, head, groups, judge):
        """(N, C), (V, C), (V,) or None, (N,) -> (), and what is told."""
        matrix = weight.to(x.dtype)
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        total, told = wide(x.new_zeros(())), []
        dx = torch.empty_like(x) if for_x else None
        dw = torch.zeros_like(wide(weight)) if for_weight else None
        db = torch.zeros_like(wide(bias)) if for_bias else None
        for number, spans in enumerate(groups):
            found = []
            for a, b in spans:
                made = token_logprobs(head, x[a:b], targets[a:b], matrix, bias)
                found.append(made[0])
            loss, derivative, word = judge(number, torch.cat(found))
            total = total + loss
            told.append(word)
            for a, b in spans:
                if len(spans) > 1:  # made again, as they do not fit together
                    made = token_logprobs(head, x[a:b], targets[a:b], matrix, bias)
                begin = spans[0][0]
                some = None if derivative is None else derivative[a - begin : b - begin]
                d = logits_gradient(*made[1:], targets[a:b], some, head.softcap).to(x.dtype)
                if for_x:
                    dx[a:b] = d @ matrix
                if for_weight:
                    dw += d.T @ x[a:b]
                if for_bias:
                    db += d.sum(0)
        told = torch.cat(told, -1)
        ctx.dtypes = x.dtype, weight.dtype, bias is not None and bias.dtype
        ctx.save_for_backward(dx, dw, db)
        ctx.mark_non_differentiable(told)
        return total, told

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, _):
        """The gradients of x, W and b."""
        # A short type's product with 0-dimensional `scale` would round that, too.
        made = [
            None if d is None else (wide(d) * scale).to(dtype)
            for d, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*made, None, None, None, None)


def logits_gradient(logits, logp, at, targets, derivative, cap):
    """The gradient of a slice's logits before their cap, in the memory of `logp`. -> (n, V).

    slope: the loss's derivative for each log p(target), (n,); None for -1.
    """
    d = logp.exp_().scatter_add_(1, at, torch.full_like(at, -1, dtype=logp.dtype))
    counted = (targets != IGNORE)[:, None]
    d = d.mul_(counted if derivative is None else -derivative[:, None].where(counted, 0))
    return d if cap is None else d.mul_(1 - (logits / cap).square())
