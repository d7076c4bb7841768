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

import torch
from torch import Tensor as Array
from torch.autograd.function import once_differentiable

from hermes.interface import IGNORE
from hermes.numerics.chunking import Span, count_chunk_tokens, make_spans
from hermes.recipe import Preference
from hermes_torch.head_products import add_product
from hermes_torch.logits_gradient import logits_gradient, score_z
from hermes_torch.loss import Transformer, preference_loss, upcast
from hermes_torch.onednn_products import apply_matrix
from hermes_torch.pair_groups import PairGroups, PairLayout

CHUNK_LOGITS = {"cpu": 1 << 23}  # 32 MB of float32, which the CPU allocator reuses
GPU_CHUNK_LOGITS = 1 << 28  # GPUs need many rows per matrix product to be busy

Head = Any  # Transformer.lm_head

ScoreGroup = Callable[[int, Array], tuple[Array, Array | None, Array]]
"""(group, its tokens' log p(target) (n,)) to (loss, gradient of that (n,), auxiliary result).

None for the gradient stands for -1. Auxiliary results are concatenated along their last axis.
"""


def choose_chunk_size(module: Transformer, x: Array) -> int:
    """How many tokens' logits exist at a time."""
    vocabulary = len(module.model.embed_tokens.weight)
    logits = CHUNK_LOGITS.get(x.device.type, GPU_CHUNK_LOGITS)
    return count_chunk_tokens(vocabulary, logits, x.shape[-1])


def select_targets(x: Array, targets: Array, indices: Array | None) -> tuple[Array, Array]:
    """The tokens at `indices` of the flattened batch, all for None. -> (N, C), (N,)."""
    x, targets = x.flatten(0, 1), targets.flatten()
    return (x, targets) if indices is None else (x.index_select(0, indices), targets[indices])


def project(head: Head, x: Array, weight: Array, bias: Array | None, rows: Array | None) -> Array:
    """Logits, with the columns of head.token_ids from `rows`, where given. (..., C) -> (..., V)."""
    y = head.project(x, weight, bias)
    if rows is None:
        return y
    biases = None if bias is None else bias[head.token_ids]
    return y.index_copy(-1, head.token_ids, head.project(x, rows, biases))


def find_token_rows(head: Head) -> Array | None:
    """The trained rows of tokens of a head that has some (lora.TokenHead). -> (r, C)."""
    return getattr(head, "token_rows", None)


def score_chunk(
    head: Head, x: Array, targets: Array, weight: Array, bias: Array | None, rows: Array | None
) -> tuple[Array, Array, Array, Array]:
    """log p(target), 0 where IGNORE; then logits, log-softmax, and each target's column.

    (n, C), (n,), (V, C), (V,), (r, C) -> (n,), (n, V), (n, V), (n, 1).
    """
    logits = upcast(project(head, x, weight, bias, rows))
    log_softmax = torch.log_softmax(logits, -1)
    counted = targets != IGNORE
    columns = targets.where(counted, 0)[:, None]
    return log_softmax.gather(1, columns)[:, 0].where(counted, 0), logits, log_softmax, columns


def logprobs(module: Transformer, x: Array, targets: Array, target_indices: Array | None) -> Array:
    """loss.logprobs, without gradients. target_indices: where targets count, (N,); None for all."""
    flat_x, flat_targets = select_targets(x, targets, target_indices)
    spans = make_spans(0, len(flat_targets), choose_chunk_size(module, x))
    groups = [[span] for span in spans]
    with torch.no_grad():
        result = torch.cat([*score_groups(module, flat_x, flat_targets, groups)])
    if target_indices is not None:
        result = result.new_zeros(targets.numel()).index_copy(0, target_indices, result)
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
        logp = logp.new_zeros(targets.numel()).index_copy(0, target_indices, logp)
    return loss, logp.reshape(targets.shape).sum(-1)


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
    spans = make_spans(0, len(flat_targets), choose_chunk_size(module, x))

    if weights is not None:
        flat = weights.flatten()
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
    """loss.row_logprobs, without gradients, from the same chunks as preference.

    The same chunks give the same bits: policy and reference must agree where their weights do.
    """
    pairs = PairGroups(targets.shape, pair_layout, choose_chunk_size(module, x))
    flat_x, flat_targets = select_targets(x, targets, pairs.indices)
    with torch.no_grad():
        scores = score_groups(module, flat_x, flat_targets, pairs.groups)
        sums = [pairs.sum_rows(index, logp) for index, logp in enumerate(scores)]
        return torch.cat(sums, -1).flatten()


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
    pairs = PairGroups(targets.shape, pair_layout, choose_chunk_size(module, x))
    flat_x, flat_targets = select_targets(x, targets, pairs.indices)

    def score_group(index: int, logp: Array) -> tuple[Array, Array, Array]:
        sums = pairs.sum_rows(index, logp)  # (2, k)
        group_targets, group_reference = (
            pairs.select_rows(index, targets),
            pairs.select_rows(index, reference),
        )
        group_weights = None if weights is None else pairs.select_rows(index, weights)
        loss, grad = value_and_grad(
            preference_loss, sums.flatten(), group_targets, group_reference, rule, group_weights
        )
        return loss, pairs.expand_to_tokens(index, grad), sums

    parts = flat_x, flat_targets, pairs.groups, score_group
    loss, sums = compute_loss(module, *parts, factor=factor)
    return loss, sums.flatten()


def value_and_grad(function: Callable[..., Array], x: Array, *args: Any) -> tuple[Array, Array]:
    """function(x, *args), a scalar, and its gradient with respect to x."""
    # torch.compile cannot trace autograd.grad; outside of it, torch.func loads the compiler: 70 MB.
    if torch.compiler.is_compiling():
        grad, value = torch.func.grad_and_value(function)(x, *args)
        return value, grad
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x, *args)
        (grad,) = torch.autograd.grad(value, x)
    return value.detach(), grad


def score_groups(
    module: Transformer, x: Array, targets: Array, groups: Sequence[Sequence[Span]]
) -> Iterator[Array]:
    """log p(target) of each group's tokens, one chunk after another. (N, C), (N,) -> (n,) each."""
    head = module.lm_head
    weight, bias = head.get_weights(module.model.embed_tokens.weight)
    rows = find_token_rows(head)
    for spans in groups:
        chunks = [(x[begin:end], targets[begin:end]) for begin, end in spans]
        scores = [score_chunk(head, *chunk, weight, bias, rows)[0] for chunk in chunks]
        yield torch.cat(scores)


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
    factor: what the loss will be multiplied by, (); its gradients are then computed with it, as a
    float16 could not hold them without.
    """
    head = module.lm_head
    weight, bias = head.get_weights(module.model.embed_tokens.weight)
    rows = find_token_rows(head)
    more = head, groups, score_group, z_weight, factor
    return ChunkedLoss.apply(x, weight, bias, rows, targets, *more)


class ChunkedLoss(torch.autograd.Function):
    """compute_loss, which computes the gradients of x, W and b in the forward pass.

    The loss is a scalar, so the backward pass only has to scale them with the gradient it is given.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Array,
        weight: Array,
        bias: Array | None,
        rows: Array | None,
        targets: Array,
        head: Head,
        groups: Sequence[Sequence[Span]],
        score_group: ScoreGroup,
        z_weight: float,
        factor: Array | None,
    ) -> tuple[Array, Array]:
        """(N, C), (V, C), (V,) or None, (r, C) or None, (N,) -> (), auxiliary results."""
        matrix, token_matrix = weight.to(x.dtype), None if rows is None else rows.to(x.dtype)
        x_needs_grad, weight_needs_grad, bias_needs_grad, rows_need_grad = ctx.needs_input_grad[:4]
        total, aux = upcast(x.new_zeros(())), []
        dx = torch.empty_like(x) if x_needs_grad else None
        # Summed over chunks, so in float32 at least: bfloat16 would lose small terms.
        dw: Array | None = None
        db = torch.zeros_like(upcast(bias)) if bias is not None and bias_needs_grad else None
        dr = torch.zeros_like(upcast(rows)) if rows is not None and rows_need_grad else None
        for index, spans in enumerate(groups):
            logps = []
            for begin, end in spans:
                chunk = x[begin:end], targets[begin:end]
                scores = score_chunk(head, *chunk, matrix, bias, token_matrix)
                logps.append(scores[0])
            loss, logp_grad, group_aux = score_group(index, torch.cat(logps))
            total = total + loss
            aux.append(group_aux)
            first = spans[0][0]
            for begin, end in spans:
                if len(spans) > 1:
                    # A pair's loss needs all of its chunks, whose logits do not fit in memory
                    # together: they are computed a second time, chunk by chunk.
                    chunk = x[begin:end], targets[begin:end]
                    scores = score_chunk(head, *chunk, matrix, bias, token_matrix)
                chunk_grad = None if logp_grad is None else logp_grad[begin - first : end - first]
                z_grad = None
                if z_weight:
                    z, z_grad = score_z(scores, targets[begin:end], chunk_grad, z_weight)
                    total = total + z
                d = logits_gradient(*scores[1:], targets[begin:end], chunk_grad, head, z_grad)
                d = (d if factor is None else d.mul_(factor)).to(x.dtype)
                if dx is not None:
                    dx[begin:end] = apply_matrix(d, matrix.T)
                if token_matrix is not None:
                    own = d[:, head.token_ids]  # (n, r)
                    if dx is not None:
                        dx[begin:end] += own @ (token_matrix - matrix[head.token_ids])
                    if dr is not None:
                        dr += own.T @ x[begin:end]
                if weight_needs_grad and dw is None:
                    dw = upcast(d.T @ x[begin:end])
                elif dw is not None:
                    total = add_product(dw, d.T, x[begin:end], total)
                if db is not None:
                    db += d.sum(0)
        all_aux = torch.cat(aux, -1)
        ctx.dtypes = [None if part is None else part.dtype for part in (x, weight, bias, rows)]
        ctx.save_for_backward(dx, dw, db, dr, factor)
        ctx.mark_non_differentiable(all_aux)
        return total, all_aux

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Array, _: Array) -> tuple[Array | None, ...]:
        """Scale the gradients of x, W, b and R with that of the loss, (). The rest have none."""
        # In float32: bfloat16 times a tensor without axes would round `scale` to bfloat16.
        *parts, factor = ctx.saved_tensors
        scale = scale if factor is None else scale / factor
        grads = [
            None if d is None else (upcast(d) * scale).to(dtype)
            for d, dtype in zip(parts, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None, None, None, None, None)
