"""The objectives of loss.py in slices, where the logits of a few tokens exist at a time.

With large vocabularies logits would be most of a step's memory, and of its memory traffic. The
gradient of a token's logits is known once the loss of what it belongs to is: the token's own, or
its pair's. So it is made in the same pass, and no logits are kept.
"""

import mlx.core as mx

from hermes.interface import IGNORE
from hermes.numerics.chunking import group_pairs, make_spans
from hermes_mlx.loss import preference, target_logprobs, wide

CHUNK = 1 << 23  # logits of a slice where there is no GPU: 32 MB
LARGE_CHUNK = 1 << 27  # where matrix products want many rows


def tokens_per_chunk(module):
    """How many tokens' logits may exist at once."""
    vocabulary = len(module.model.embed_tokens.weight)
    return max(1, (LARGE_CHUNK if mx.is_available(mx.gpu) else CHUNK) // vocabulary)


def select_targets(x, targets, at):
    """The tokens at `at`, or all for None: no others need logits. -> (N, C), (N,)."""
    flat, wanted = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    return (flat, wanted) if at is None else (flat[at], wanted[at])


def token_logprobs(head, x, targets, weight, bias):
    """A slice's log p(target), 0 where IGNORE, and its logits. -> (n,), (n, V).

    (n, C), (n,), (V, C), (V,) or None
    """
    logits = wide(head.scores(x, weight, bias))
    return target_logprobs(logits, targets, head.ops), logits


def chunked_logprobs(module, x, targets, at):
    """whole_logprobs, to evaluate. at: where targets count, (N,); None for everywhere."""
    flat, wanted = select_targets(x, targets, at)
    groups = [[part] for part in make_spans(0, len(wanted), tokens_per_chunk(module))]
    found = mx.concatenate([*logprobs_of_groups(module, flat, wanted, groups)])
    if at is not None:
        found = mx.zeros(targets.size, found.dtype).at[at].add(found)
    return found.reshape(targets.shape)


def chunked_next_token(module, x, targets, at):
    """whole_next_token. at: where targets count, (N,); None for everywhere."""
    flat, wanted = select_targets(x, targets, at)
    groups = [[part] for part in make_spans(0, len(wanted), tokens_per_chunk(module))]

    def judge(number, logp):
        return -logp.sum(), None, logp

    return chunked_loss(module, flat, wanted, groups, judge)[0]


def chunked_row_logprobs(module, x, targets, pair_layout):
    """whole_row_logprobs of pairs, from the same slices as sliced_preference, to evaluate."""
    pairs = Pairs(module, x, targets, pair_layout)
    flat, wanted = select_targets(x, targets, pairs.at)
    found = logprobs_of_groups(module, flat, wanted, pairs.groups)
    return mx.concatenate([pairs.sums(*one) for one in enumerate(found)], axis=-1).flatten()


def chunked_preference(module, x, targets, pair_layout, reference, rule):
    """whole_preference. by_pair: pair_tokens' word, its places on the device."""
    pairs = Pairs(module, x, targets, pair_layout)
    flat, wanted = select_targets(x, targets, pairs.at)

    def judge(number, logp):
        sums = pairs.sums(number, logp)  # (2, k)
        here = pairs.rows(number, targets), pairs.rows(number, reference), rule
        loss, derivative = mx.value_and_grad(preference)(sums.flatten(), *here)
        return loss, pairs.of_tokens(number, derivative), sums

    loss, sums = chunked_loss(module, flat, wanted, pairs.groups, judge)
    return loss, sums.flatten()


class Pairs:
    """A micro-batch's P pairs in groups: what a slice holds, or one pair that takes several.

    at: where targets count, pair after pair, (N,). groups: of each its slices of these.
    """

    def __init__(self, module, x, targets, pair_layout):
        self.at, ends = pair_layout
        self._shape, tokens = targets.shape, tokens_per_chunk(module)
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
        return held.reshape(2, -1, *held.shape[1:])[:, first:last].flatten(0, 1)

    def sums(self, number, logp):
        """The sum of each row of a group. (n,) -> (2, k)."""
        B, T = self._shape
        spread = mx.zeros(B * T, logp.dtype).at[self._places(number)].add(logp)
        return self.rows(number, spread.reshape(B, T)).sum(axis=-1).reshape(2, -1)

    def of_tokens(self, number, held):
        """What each token of a group has of its row's. (2 k,) -> (n,)."""
        first, last = self._bounds[number]
        whole = mx.zeros((2, self._shape[0] // 2), held.dtype)
        whole[:, first:last] = held.reshape(2, -1)
        return whole.flatten()[self._places(number) // self._shape[1]]


def logprobs_of_groups(module, x, targets, groups):
    """The log-probabilities of each group's targets, one slice after another. (N, C), (N,)."""
    head, found = module.lm_head, []
    weight, bias = head.weights(module.model.embed_tokens.weight)
    for spans in groups:
        found.append([])
        for a, b in spans:
            some = mx.depends([x[a:b]], [logp for group in found for logp in group][-1:])[0]
            found[-1].append(token_logprobs(head, some, targets[a:b], weight, bias)[0])
        yield mx.concatenate(found[-1])


def chunked_loss(module, x, targets, groups, judge):
    """The summed loss of groups of tokens, and what `judge` tells of them. (N, C), (N,).

    groups: of each group its slices, (begin, end). judge(number, logp (n,)) gives a group's loss,
    its derivative for each logp, (n,) or None for -1, and what to tell, joined along its last axis.
    What arrives in the backward pass is one number, which the gradients of x, W and b, made with
    the loss, are scaled with.
    """
    head = module.lm_head
    given, shift = head.weights(module.model.embed_tokens.weight)

    @mx.custom_function
    def forward(x, weight, *bias):
        matrix, shift = weight.astype(x.dtype), bias[0] if bias else None
        total, told, dx = mx.zeros((), wide(x).dtype), [], []
        dw, db = mx.zeros_like(weight), 0
        for number, spans in enumerate(groups):
            found, before = [], [dw]  # one slice after the other
            for a, b in spans:
                some = mx.depends([x[a:b]], before)[0]
                made = token_logprobs(head, some, targets[a:b], matrix, shift)
                found.append(made[0])
                before = found[-1:]
            loss, derivative, word = judge(number, mx.concatenate(found))
            total = total + loss
            told.append(word)
            for a, b in spans:
                some = x[a:b]
                if len(spans) > 1:  # made again, as they do not fit together
                    some = mx.depends([some], [loss, dw])[0]
                    made = token_logprobs(head, some, targets[a:b], matrix, shift)
                begin = spans[0][0]
                steep = None if derivative is None else derivative[a - begin : b - begin]
                d = logits_gradient(made[1], targets[a:b], steep, head).astype(x.dtype)
                dx.append(d @ matrix)
                dw, db = dw + d.T @ some, db + d.sum(axis=0)
        told = mx.concatenate(told, axis=-1)
        return total, told, mx.concatenate(dx), dw, *(db.astype(b.dtype) for b in bias)

    @forward.vjp
    def scaled(primals, cotangents, outputs):
        return tuple((wide(d) * cotangents[0]).astype(d.dtype) for d in outputs[2:])

    total, told, *_ = forward(x, given, *([] if shift is None else [shift]))
    return total, mx.stop_gradient(told)


def logits_gradient(logits, targets, derivative, head):
    """The gradient of a slice's logits before their cap. -> (n, V).

    slope: the loss's derivative for each log p(target), (n,); None for -1.
    """
    counted = (targets != IGNORE)[:, None]
    d = mx.where(mx.arange(logits.shape[-1]) == targets[:, None], -1.0, 0.0)
    d = mx.where(counted, d + head.ops.softmax(logits), 0.0)  # p - [v = target]
    d = d if derivative is None else d * -derivative[:, None]
    return d if head.softcap is None else d * (1 - mx.square(logits / head.softcap))
