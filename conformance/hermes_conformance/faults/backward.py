"""Faults of gradients, of accumulation and of dropout."""

from dataclasses import replace
from itertools import count

import numpy as np

from hermes.interface import Batch
from hermes.numerics import randomness
from hermes_conformance.faults.fault import Fault, Inside

DEFAULT = "default/hot"
DROPS = "every dropout/hot"


def _part(batch: Batch, a: slice) -> Batch:
    """Only those micro-batches."""
    return Batch(
        batch.tokens[a],
        batch.targets[a],
        batch.rows[a],
        None if batch.segments is None else batch.segments[a],
        batch.pairs and replace(batch.pairs, reference=batch.pairs.reference[a]),
    )


def _grads(change):
    """change(original, self, batch) in the place of Learner.grads."""

    def plant(inside: Inside) -> None:
        inside.method(
            "learner",
            "Learner",
            "grads",
            lambda original: lambda self, batch: change(original, self, batch),
        )

    return plant


def _last_only(original, self, batch):
    return original(self, _part(batch, slice(-1, None)))


def _mean_of_means(original, self, batch):
    found = [original(self, _part(batch, slice(a, a + 1))) for a in range(len(batch.tokens))]
    names = found[0][1]
    grads = {name: np.mean([np.asarray(g[name]) for _, g in found], axis=0) for name in names}
    return float(np.mean([loss for loss, _ in found])), grads


def _lookup_only(inside: Inside) -> None:
    """Of a tied embedding, the part that comes from looking rows up is lost."""
    inside.forward(
        "Embedding", lambda original: lambda self, ids: inside.detached(original(self, ids))
    )


def _head_only(inside: Inside) -> None:
    inside.forward(
        "Head",
        lambda original: lambda self, x, embedding: original(self, x, inside.detached(embedding)),
    )


def _statistics(inside: Inside) -> None:
    """The norm's root is taken for a constant."""

    def make(normalize):
        def wrong(x, norm, weight, bias):
            if not hasattr(norm, "unit_offset"):
                return normalize(x, norm, weight, bias)
            scale = 1 + weight if norm.unit_offset else weight
            root = ((x * x).mean(-1)[..., None] + norm.eps) ** 0.5
            return x / inside.detached(root) * scale

        return wrong

    inside.table("normalize", make)


def _keys_detached(inside: Inside) -> None:
    inside.table(
        "attention",
        lambda attention: lambda q, k, v, *rest: attention(q, inside.detached(k), v, *rest),
    )


def _residual_detached(inside: Inside) -> None:
    def make(original):
        def wrong(self, x, ctx):
            y = original(self, x, ctx)
            return y - 1e-6 * (x - inside.detached(x))

        return wrong

    inside.forward("Block", make)


def _wrong_erf(inside: Inside) -> None:
    """The value of gelu is right, its derivative is the tanh form's."""

    def make(found):
        def wrong(x):
            smooth = found["gelu_tanh"](x)
            return smooth + inside.detached(found["gelu"](x) - smooth)

        return wrong

    inside.activation("gelu", make)


def _any_order(inside: Inside) -> None:
    """Gradients of rows are added in an order that is another at every call, as by a race."""
    calls = count(1)

    def make(original):
        def wrong(self, ids):
            flat = ids.reshape(-1)
            order = np.roll(np.arange(len(flat)), next(calls))
            back = inside.taken(original(self, inside.taken(flat, order)), np.argsort(order))
            return back.reshape(*ids.shape, -1)

        return wrong

    inside.forward("Embedding", make)


def _drop(change):
    """change(original, self, x, rate, site) in the place of dropout."""

    def plant(inside: Inside) -> None:
        inside.method(
            "context",
            "Context",
            "dropout",
            lambda original: lambda self, x, rate, site: change(original, self, x, rate, site),
        )

    return plant


def _unscaled(original, self, x, rate, site):
    return original(self, x, rate, site) * (1 - rate)


def _one_site(original, self, x, rate, site):
    return original(self, x, rate, site % 4)


def _never(original, self, x, rate, site):
    return x


def _keys(change):
    """change(original, seed, step, rows) in the place of the dropout keys."""

    def plant(inside: Inside) -> None:
        inside.function(
            randomness.dropout_row_keys,
            lambda original: lambda seed, step, rows: change(original, seed, step, rows),
        )

    return plant


def _frozen_trained(inside: Inside) -> None:
    def make(original):
        return lambda self, spec, state, recipe, *rest, **more: original(
            self, spec, state, replace(recipe, freeze_layers=0), *rest, **more
        )

    inside.method("backend", "Backend", "learner", make)


def _over_all(original, self, batch):
    """The mean is over padding too."""
    loss, grads = original(self, batch)
    share = batch.num_terms / batch.targets.size
    return loss * share, {name: share * np.asarray(grads[name]) for name in grads}


def _counts_here(original, self, batch):
    """A share's mean is over its own targets."""
    return original(self, replace(batch, global_counts=None))


def _fault(name, law, case, plant, part="gradient", only=None):
    return Fault(name, part, law, case, plant, only)


GRADIENT = "L1/derivatives"
LAST, RESIDUAL = _grads(_last_only), _residual_detached

FAULTS = (
    _fault("only the last micro-batch counts", GRADIENT, DEFAULT, _grads(_last_only)),
    _fault("the mean of the micro-batches' means", GRADIENT, DEFAULT, _grads(_mean_of_means)),
    _fault("the same, by splitting", "L1/micro-batches", DEFAULT, _grads(_mean_of_means)),
    _fault(
        "a tied embedding's lookup has no gradient",
        GRADIENT,
        "embeddings.tie_weights=true/hot",
        _lookup_only,
    ),
    _fault("a tied head has no gradient", GRADIENT, "embeddings.tie_weights=true/hot", _head_only),
    _fault("the norm's statistics have no gradient", GRADIENT, DEFAULT, _statistics),
    _fault("keys have no gradient", GRADIENT, DEFAULT, _keys_detached),
    _fault("a residual's gradient is off by 1e-6", GRADIENT, DEFAULT, _residual_detached),
    _fault("gelu has tanh gelu's derivative", GRADIENT, "ffn.activation=gelu/hot", _wrong_erf),
    _fault("frozen layers are trained", "L0/frozen", "default/hot", _frozen_trained),
    _fault("a share's mean is over its own targets", "L1/shares", DEFAULT, _grads(_counts_here)),
    _fault(
        "embeddings' gradients are added in any order",
        "L4/repeat",
        "train.preference/fresh",
        _any_order,
    ),
    _fault("the mean is over all positions", GRADIENT, DEFAULT, _grads(_over_all)),
    _fault("dropout does not scale", "L1/dropout", DROPS, _drop(_unscaled), "dropout"),
    _fault("layers share their masks", "L1/dropout", DROPS, _drop(_one_site), "dropout"),
    _fault(
        "layers share their masks, seen", "L0/masks", "dropout.ffn/hot", _drop(_one_site), "dropout"
    ),
    _fault("dropout drops nothing", "L1/dropout", DROPS, _drop(_never), "dropout"),
    _fault(
        "masks are those of the update before",
        "L1/dropout",
        DROPS,
        _keys(lambda original, seed, step, rows: original(seed, step - 1, rows)),
        "dropout",
    ),
    _fault(
        "masks begin anew in each micro-batch",
        "L1/dropout",
        DROPS,
        _keys(lambda original, seed, step, rows: original(seed, step, rows % len(rows))),
        "dropout",
    ),
    _fault(
        "masks do not depend on the seed",
        "L0/masks",
        "dropout.embeddings/hot",
        _keys(lambda original, seed, step, rows: original(0, step, rows)),
        "dropout",
    ),
)
