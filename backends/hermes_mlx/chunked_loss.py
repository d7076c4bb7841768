"""The objectives of loss.py in chunks: the logits of a few tokens exist at a time.

With a large vocabulary the logits of a micro-batch are the largest tensor of a step, and moving
them through memory a good part of its time. The gradient of a token's logits needs nothing beyond
the loss that the token belongs to: its own, or its pair's. So the forward pass computes the
gradients of x, W and b chunk by chunk, keeps those, and lets go of the logits.

With adapters, a few rows of W may be trained beside a frozen W: those of some tokens, R (r, C),
which take the place of W's. Their logits are computed apart and put into their columns.

Letters: N tokens to score, n those of one chunk or group, C hidden size, V vocabulary, P pairs, k
those of one group.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx.core import array as Array

from hermes.numerics.chunking import Span, count_chunk_tokens, make_spans
from hermes.recipe import Preference
from hermes_mlx.logits_gradient import logits_gradient, score_z
from hermes_mlx.loss import Transformer, preference_loss, target_logprobs, upcast
from hermes_mlx.pair_groups import PairGroups, PairLayout

CHUNK_LOGITS = 1 << 23  # 32 MB of float32
GPU_CHUNK_LOGITS = 1 << 27  # GPUs need many rows per matrix product to be busy

Head = Any  # Transformer.lm_head

ScoreGroup = Callable[[int, Array], tuple[Array, Array | None, Array]]
"""(group, its tokens' log p(target) (n,)) to (loss, gradient of that (n,), auxiliary result).

None for the gradient stands for -1. Auxiliary results are concatenated along their last axis.
"""


def choose_chunk_size(module: Transformer) -> int:
    """How many tokens' logits exist at a time."""
    vocabulary = len(module.model.embed_tokens.weight)
    # The default device is the one that computes, as Runtime.apply_options has it.
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    logits = GPU_CHUNK_LOGITS if on_gpu else CHUNK_LOGITS
    return count_chunk_tokens(vocabulary, logits)


def select_targets(x: Array, targets: Array, indices: Array | None) -> tuple[Array, Array]:
    """The tokens at `indices` of the flattened batch, all for None. -> (N, C), (N,)."""
    x, targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    return (x, targets) if indices is None else (x[indices], targets[indices])


def project(head: Head, x: Array, weight: Array, bias: Array | None, rows: Array | None) -> Array:
    """Logits, with the columns of head.token_ids from `rows`, where given. (..., C) -> (..., V)."""
    y = head.project(x, weight, bias)
    if rows is None:
        return y
    z = head.project(x, rows, None if bias is None else bias[head.token_ids])  # (..., r)
    return mx.put_along_axis(y, mx.broadcast_to(head.token_ids, z.shape), z, axis=-1)


def find_token_rows(head: Head) -> Array | None:
    """The trained rows of tokens of a head that has some (lora.TokenHead). -> (r, C)."""
    return getattr(head, "token_rows", None)


def score_chunk(
    head: Head, x: Array, targets: Array, weight: Array, bias: Array | None, rows: Array | None
) -> tuple[Array, Array]:
    """log p(target), 0 where IGNORE; and the logits.

    (n, C), (n,), (V, C), (V,), (r, C) -> (n,), (n, V).
    """
    logits = upcast(project(head, x, weight, bias, rows))
    return target_logprobs(logits, targets, head.ops), logits


def logprobs(module: Transformer, x: Array, targets: Array, target_indices: Array | None) -> Array:
    """loss.logprobs, to evaluate. target_indices: where targets count, (N,); None for all."""
    flat_x, flat_targets = select_targets(x, targets, target_indices)
    spans = make_spans(0, len(flat_targets), choose_chunk_size(module))
    groups = [[span] for span in spans]
    result = mx.concatenate([*score_groups(module, flat_x, flat_targets, groups)])
    if target_indices is not None:
        result = mx.zeros(targets.size, result.dtype).at[target_indices].add(result)
    return result.reshape(targets.shape)


def next_token(
    module: Transformer,
    x: Array,
    targets: Array,
    target_indices: Array | None,
    weights: Array | None = None,
    z_weight: float = 0.0,
    factor: Array | None = None,
) -> Array:
    """loss.next_token. target_indices: where targets count, (N,); None for all. weights: (B, T)."""
    return _score_tokens(module, x, targets, target_indices, weights, z_weight, factor)[0]


def next_token_by_row(
    module: Transformer,
    x: Array,
    targets: Array,
    target_indices: Array | None,
    z_weight: float = 0.0,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """loss.next_token_by_row; the rows are sums of what the loss is made of. -> (), (B,)."""
    loss, logp = _score_tokens(module, x, targets, target_indices, None, z_weight, factor)
    if target_indices is not None:
        logp = mx.zeros(targets.size, logp.dtype).at[target_indices].add(logp)
    return loss, logp.reshape(targets.shape).sum(axis=-1)


def _score_tokens(
    module: Transformer,
    x: Array,
    targets: Array,
    target_indices: Array | None,
    weights: Array | None = None,
    z_weight: float = 0.0,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """The summed loss, and log p(target) of each token at `target_indices`. -> (), (N,)."""
    flat_x, flat_targets = select_targets(x, targets, target_indices)
    spans = make_spans(0, len(flat_targets), choose_chunk_size(module))

    if weights is not None:
        flat = weights.reshape(-1)
        weights = flat if target_indices is None else flat[target_indices]

    def score_group(index: int, logp: Array) -> tuple[Array, Array | None, Array]:
        if weights is None:
            return -logp.sum(), None, logp
        begin, end = spans[index]
        w = weights[begin:end]
        return -(w * logp).sum(), -w, logp

    groups = [[span] for span in spans]
    return compute_loss(module, flat_x, flat_targets, groups, score_group, z_weight, factor)


def row_logprobs(module: Transformer, x: Array, targets: Array, pair_layout: PairLayout) -> Array:
    """loss.row_logprobs, to evaluate, from the same chunks as preference.

    The same chunks give the same bits: policy and reference must agree where their weights do.
    """
    pairs = PairGroups(targets.shape, pair_layout, choose_chunk_size(module))
    flat_x, flat_targets = select_targets(x, targets, pairs.indices)
    scores = score_groups(module, flat_x, flat_targets, pairs.groups)
    sums = [pairs.sum_rows(index, logp) for index, logp in enumerate(scores)]
    return mx.concatenate(sums, axis=-1).flatten()


def preference(
    module: Transformer,
    x: Array,
    targets: Array,
    pair_layout: PairLayout,
    reference: Array,
    rule: Preference,
    weights: Array | None = None,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """loss.preference. -> (), (2 P,)."""
    pairs = PairGroups(targets.shape, pair_layout, choose_chunk_size(module))
    flat_x, flat_targets = select_targets(x, targets, pairs.indices)

    def score_group(index: int, logp: Array) -> tuple[Array, Array, Array]:
        sums = pairs.sum_rows(index, logp)  # (2, k)
        group_targets, group_reference = (
            pairs.select_rows(index, targets),
            pairs.select_rows(index, reference),
        )
        group_weights = None if weights is None else pairs.select_rows(index, weights)
        loss, grad = mx.value_and_grad(preference_loss)(
            sums.flatten(), group_targets, group_reference, rule, group_weights
        )
        return loss, pairs.expand_to_tokens(index, grad), sums

    parts = flat_x, flat_targets, pairs.groups, score_group
    loss, sums = compute_loss(module, *parts, factor=factor)
    return loss, sums.flatten()


def score_groups(
    module: Transformer, x: Array, targets: Array, groups: Sequence[Sequence[Span]]
) -> Iterator[Array]:
    """log p(target) of each group's tokens, one chunk after another. (N, C), (N,) -> (n,) each."""
    head = module.lm_head
    weight, bias = head.get_weights(module.model.embed_tokens.weight)
    rows = find_token_rows(head)
    previous: list[Array] = []
    for spans in groups:
        logps = []
        for begin, end in spans:
            # MLX runs a lazy graph in an order of its own, and might keep every chunk's logits at
            # once: each chunk is made to depend on the one before.
            chunk = mx.depends([x[begin:end]], previous)[0]
            logps.append(score_chunk(head, chunk, targets[begin:end], weight, bias, rows)[0])
            previous = logps[-1:]
        yield mx.concatenate(logps)


def compute_loss(
    module: Transformer,
    x: Array,
    targets: Array,
    groups: Sequence[Sequence[Span]],
    score_group: ScoreGroup,
    z_weight: float = 0.0,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """The summed loss of groups of tokens, and their auxiliary results. (N, C), (N,) -> (), ...

    groups: of each group the (begin, end) of its chunks. z_weight: of loss.z_loss, which is added.
    The gradients of x, W and b are computed with the loss: it is a scalar, so the backward pass
    only has to scale them. factor: what the loss will be multiplied by, (); its gradients are then
    computed with it, as a float16 could not hold them without. A frozen W gets zeros, which nothing
    reads.
    """
    head = module.lm_head
    head_weight, head_bias = head.get_weights(module.model.embed_tokens.weight)
    head_rows = find_token_rows(head)
    trains_weight = head.trains_weight

    @mx.custom_function
    def forward(x: Array, weight: Array, *more: Array) -> tuple[Array, ...]:
        matrix, bias = weight.astype(x.dtype), None if head_bias is None else more[0]
        rows = None if head_rows is None else more[-1].astype(x.dtype)
        total, aux = mx.zeros((), upcast(x).dtype), []
        dx: list[Array] = []
        dw: Array = mx.zeros_like(weight)
        db: Any = 0
        dr: Any = 0
        for index, spans in enumerate(groups):
            # As in score_groups: one chunk after another, or all logits exist at once. Of the one
            # before all results must be there: each that is not yet holds its logits.
            logps, previous = [], [*[dw] * trains_weight, total, *dx[-1:]]
            for begin, end in spans:
                chunk = mx.depends([x[begin:end]], previous)[0]
                logp, logits = score_chunk(head, chunk, targets[begin:end], matrix, bias, rows)
                logps.append(logp)
                previous = [logp]
            loss, logp_grad, group_aux = score_group(index, mx.concatenate(logps))
            total = total + loss
            aux.append(group_aux)
            first = spans[0][0]
            for begin, end in spans:
                chunk = x[begin:end]
                if len(spans) > 1:
                    # A pair's loss needs all of its chunks, whose logits do not fit in memory
                    # together: they are computed a second time, chunk by chunk.
                    chunk = mx.depends([chunk], [loss, *[dw] * trains_weight, *dx[-1:]])[0]
                    _, logits = score_chunk(head, chunk, targets[begin:end], matrix, bias, rows)
                chunk_grad = None if logp_grad is None else logp_grad[begin - first : end - first]
                z_grad = None
                if z_weight:
                    z, z_grad = score_z(logits, targets[begin:end], chunk_grad, head, z_weight)
                    total = total + z
                d = logits_gradient(logits, targets[begin:end], chunk_grad, head, z_grad)
                d = (d if factor is None else d * factor).astype(x.dtype)
                dx.append(d @ matrix)
                db = db + d.sum(axis=0)
                if trains_weight:
                    dw = dw + d.T @ chunk
                if rows is not None:
                    own = d[:, head.token_ids]  # (n, r)
                    dx[-1] = dx[-1] + own @ (rows - matrix[head.token_ids])
                    dr = dr + upcast(own.T @ chunk)
        all_aux = mx.concatenate(aux, axis=-1)
        grads = [mx.concatenate(dx), *[dw] * trains_weight]
        if bias is not None:
            grads.append(db.astype(bias.dtype))
        if rows is not None:
            grads.append(dr.astype(more[-1].dtype))
        return total, all_aux, *grads

    @forward.vjp
    def scale(
        primals: Sequence[Array], cotangents: Sequence[Array], outputs: Sequence[Array]
    ) -> tuple:
        by = cotangents[0] if factor is None else cotangents[0] / factor
        grads = [(upcast(d) * by).astype(d.dtype) for d in outputs[2:]]
        if not trains_weight:
            grads.insert(1, mx.zeros_like(primals[1]))
        return tuple(grads)

    more = [tensor for tensor in (head_bias, head_rows) if tensor is not None]
    outputs: Any = forward(x, head_weight, *more)
    loss, aux = outputs[:2]
    return loss, mx.stop_gradient(aux)
