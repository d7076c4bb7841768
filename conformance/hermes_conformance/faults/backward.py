"""Faults of gradients, gradient accumulation and dropout."""

from dataclasses import replace
from itertools import count

import numpy as np

from hermes.interface import Batch
from hermes.numerics import randomness
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

DEFAULT = "default/hot"
DROPS = "every dropout/hot"


def _select_micro_batches(batch: Batch, a: slice) -> Batch:
    """The micro-batches of the slice, as a batch of their own."""
    return Batch(
        batch.tokens[a],
        batch.targets[a],
        batch.rows[a],
        None if batch.segments is None else batch.segments[a],
        batch.pairs and replace(batch.pairs, reference=batch.pairs.reference[a]),
        weights=None if batch.weights is None else batch.weights[a],
    )


def _change_grads(change: Function) -> Plant:
    """Compute a learner's gradients by change(original, self, batch)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "learner",
            "Learner",
            "grads",
            lambda original: lambda self, batch: change(original, self, batch),
        )

    return plant


def _keep_last_micro_batch(original, self, batch):
    return original(self, _select_micro_batches(batch, slice(-1, None)))


def _average_means(original, self, batch):
    parts = [
        original(self, _select_micro_batches(batch, slice(a, a + 1)))
        for a in range(len(batch.tokens))
    ]
    names = parts[0][1]
    grads = {name: np.mean([np.asarray(g[name]) for _, g in parts], axis=0) for name in names}
    return float(np.mean([loss for loss, _ in parts])), grads


def _drop_lookup_gradient(patcher: Patcher) -> None:
    """A tied embedding has only the part of its gradient that comes from the head."""
    patcher.wrap_forward(
        "Embedding", lambda original: lambda self, ids: patcher.detach(original(self, ids))
    )


def _drop_head_gradient(patcher: Patcher) -> None:
    patcher.wrap_forward(
        "Head",
        lambda original: lambda self, x, embedding: original(self, x, patcher.detach(embedding)),
    )


def _detach_statistics(patcher: Patcher) -> None:
    """The backward pass takes the norm's root for a constant."""

    def wrap(normalize):
        def faulty(x, norm, weight, bias):
            if not hasattr(norm, "unit_offset"):
                return normalize(x, norm, weight, bias)
            scale = 1 + weight if norm.unit_offset else weight
            root = ((x * x).mean(-1)[..., None] + norm.eps) ** 0.5
            return x / patcher.detach(root) * scale

        return faulty

    patcher.wrap_table("normalize", wrap)


def _detach_keys(patcher: Patcher) -> None:
    patcher.wrap_table(
        "attention",
        lambda attention: lambda q, k, v, *rest: attention(q, patcher.detach(k), v, *rest),
    )


def _scale_residual_gradient(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, x, ctx):
            y = original(self, x, ctx)
            return y - 1e-6 * (x - patcher.detach(x))

        return faulty

    patcher.wrap_forward("Block", wrap)


def _swap_gelu_derivative(patcher: Patcher) -> None:
    """gelu has its own value and the derivative of its tanh approximation."""

    def make(functions):
        def faulty(x):
            smooth = functions["gelu_tanh"](x)
            return smooth + patcher.detach(functions["gelu"](x) - smooth)

        return faulty

    patcher.wrap_activation("gelu", make)


def _reorder_embedding_gradients(patcher: Patcher) -> None:
    """Gradients of rows are summed in another order at each call, as in a race of threads."""
    calls = count(1)

    def wrap(original):
        def faulty(self, ids):
            flat = ids.reshape(-1)
            order = np.roll(np.arange(len(flat)), next(calls))
            back = patcher.gather(original(self, patcher.gather(flat, order)), np.argsort(order))
            return back.reshape(*ids.shape, -1)

        return faulty

    patcher.wrap_forward("Embedding", wrap)


def _change_dropout(change: Function) -> Plant:
    """Drop by change(original, self, x, rate, site)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "context",
            "Context",
            "dropout",
            lambda original: lambda self, x, rate, site: change(original, self, x, rate, site),
        )

    return plant


def _skip_scaling(original, self, x, rate, site):
    return original(self, x, rate, site) * (1 - rate)


def _share_masks(original, self, x, rate, site):
    return original(self, x, rate, site % 4)


def _drop_threshold(original, self, x, rate, site):
    """The element whose hash is the threshold is dropped, too: > for >=."""
    return original(self, x, rate + 2.0**-32 if rate else rate, site)


def _drop_nothing(original, self, x, rate, site):
    return x


def _change_dropout_keys(change: Function) -> Plant:
    """Make the keys of dropout by change(original, seed, step, rows)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            randomness.dropout_row_keys,
            lambda original: lambda seed, step, rows: change(original, seed, step, rows),
        )

    return plant


def _train_frozen(**changes: object) -> Plant:
    """Make learners of a recipe that freezes less."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            return lambda self, spec, state, recipe, *rest, **kwargs: original(
                self, spec, state, replace(recipe, **changes), *rest, **kwargs
            )

        patcher.wrap_method("backend", "Backend", "learner", wrap)

    return plant


def _average_over_padding(original, self, batch):
    """The loss is a mean over all positions, padding included."""
    loss, grads = original(self, batch)
    share = batch.num_terms / batch.targets.size
    return loss * share, {name: share * np.asarray(grads[name]) for name in grads}


def _average_over_share(original, self, batch):
    """The loss of a rank's share is the mean over its own targets, not the whole step's."""
    return original(self, replace(batch, global_counts=None))


def _divide_by_targets(original, self, batch):
    """A weighted loss is divided by the number of targets, not by the sum of their weights."""
    return original(self, replace(batch, global_counts=replace(batch.counts, weight=None)))


def _make_fault(
    name: str, law: str, case: str, plant: Plant, part: str = "gradient", only: str | None = None
) -> Fault:
    return Fault(name, part, law, case, plant, only)


GRADIENT = "L1/derivatives"
LAST, RESIDUAL = _change_grads(_keep_last_micro_batch), _scale_residual_gradient

FAULTS = (
    _make_fault(
        "only the last micro-batch counts", GRADIENT, DEFAULT, _change_grads(_keep_last_micro_batch)
    ),
    _make_fault(
        "the mean of the micro-batches' means", GRADIENT, DEFAULT, _change_grads(_average_means)
    ),
    _make_fault(
        "the same, by splitting", "L1/micro-batches", DEFAULT, _change_grads(_average_means)
    ),
    _make_fault(
        "a tied embedding's lookup has no gradient",
        GRADIENT,
        "embeddings.tie_weights=true/hot",
        _drop_lookup_gradient,
    ),
    _make_fault(
        "a tied head has no gradient",
        GRADIENT,
        "embeddings.tie_weights=true/hot",
        _drop_head_gradient,
    ),
    _make_fault("the norm's statistics have no gradient", GRADIENT, DEFAULT, _detach_statistics),
    _make_fault("keys have no gradient", GRADIENT, DEFAULT, _detach_keys),
    _make_fault(
        "a residual's gradient is off by 1e-6", GRADIENT, DEFAULT, _scale_residual_gradient
    ),
    _make_fault(
        "gelu has tanh gelu's derivative",
        GRADIENT,
        "ffn.activation=gelu/hot",
        _swap_gelu_derivative,
    ),
    _make_fault(
        "frozen layers are trained", "L0/frozen", "default/hot", _train_frozen(freeze_layers=0)
    ),
    _make_fault(
        "tensors that are frozen by name are trained",
        "L4/update",
        "train.frozen names/fresh",
        _train_frozen(freeze=()),
    ),
    _make_fault(
        "a share's mean is over its own targets",
        "L1/shares",
        DEFAULT,
        _change_grads(_average_over_share),
    ),
    _make_fault(
        "embeddings' gradients are added in any order",
        "L4/repeat",
        "train.preference/fresh",
        _reorder_embedding_gradients,
    ),
    _make_fault(
        "the mean is over all positions", GRADIENT, DEFAULT, _change_grads(_average_over_padding)
    ),
    _make_fault(
        "weighted losses are divided by their number",
        GRADIENT,
        "weighted.targets/hot",
        _change_grads(_divide_by_targets),
    ),
    _make_fault(
        "dropout does not scale", "L1/dropout", DROPS, _change_dropout(_skip_scaling), "dropout"
    ),
    _make_fault(
        "layers share their masks", "L1/dropout", DROPS, _change_dropout(_share_masks), "dropout"
    ),
    _make_fault(
        "layers share their masks, seen",
        "L0/masks",
        "dropout.ffn/hot",
        _change_dropout(_share_masks),
        "dropout",
    ),
    *(
        _make_fault(
            f"the hash at the threshold is dropped, {kind}",
            "L0/masks",
            f"dropout.{kind}/hot",
            _change_dropout(_drop_threshold),
            "dropout",
        )
        for kind in ("embeddings", "attention", "ffn", "block")
    ),
    _make_fault(
        "dropout drops nothing", "L1/dropout", DROPS, _change_dropout(_drop_nothing), "dropout"
    ),
    _make_fault(
        "masks are those of the step before",
        "L1/dropout",
        DROPS,
        _change_dropout_keys(lambda original, seed, step, rows: original(seed, step - 1, rows)),
        "dropout",
    ),
    _make_fault(
        "masks begin anew in each micro-batch",
        "L1/dropout",
        DROPS,
        _change_dropout_keys(
            lambda original, seed, step, rows: original(seed, step, rows % len(rows))
        ),
        "dropout",
    ),
    _make_fault(
        "masks do not depend on the seed",
        "L0/masks",
        "dropout.embeddings/hot",
        _change_dropout_keys(lambda original, seed, step, rows: original(0, step, rows)),
        "dropout",
    ),
)
