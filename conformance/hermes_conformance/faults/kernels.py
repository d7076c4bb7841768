"""Faults of the production kernels, of repeatability, and of what a model says of itself."""

import random
from dataclasses import replace

import numpy as np

from hermes.interface import IGNORE
from hermes_conformance.faults import tf32
from hermes_conformance.faults.fault import Fault, Inside
from hermes_conformance.oracle.tracing_arrays import rounded

FAST = ("FAST", "PLAIN")
DEFAULT = "default/hot"


def _rounded_inputs(precision):
    """Matrix products whose inputs are rounded first, as reduced-precision units do."""

    def plant(inside: Inside) -> None:
        inside.forward(
            "Linear",
            lambda original: lambda self, x: original(self, inside.shorter(x, precision)),
        )

    return plant


def _models_weights(inside: Inside) -> None:
    """The last bit of what is not trained is another one."""

    def made(original):
        def wrong(self, spec, params, options, *rest, training, **more):
            if not training:
                params = {name: np.nextafter(params[name], np.float32(9)) for name in params}
            return original(self, spec, params, options, *rest, training=training, **more)

        return wrong

    inside.method("runtime", "Runtime", "__init__", made)


def _misread_weights(inside: Inside) -> None:
    """Those of a file in bfloat16 or float16 are doubled, as where their bits are misread."""

    def made(original):
        def wrong(self, spec, params, options, *rest, **more):
            if any(value.dtype.itemsize == 2 for value in params.values()):
                params = {name: 2 * value for name, value in params.items()}
            return original(self, spec, params, options, *rest, **more)

        return wrong

    inside.method("runtime", "Runtime", "__init__", made)


def _rounded_rotation(inside: Inside) -> None:
    inside.table(
        "rotate",
        lambda rotate: lambda x, cos, sin: rotate(x, inside.shorter(cos), inside.shorter(sin)),
        FAST,
    )


def _fast_attend(change):
    """change(spec) in attention of the fast tables only."""

    def plant(inside: Inside) -> None:
        inside.table(
            "attention",
            lambda attention: lambda q, k, v, spec, *rest: attention(q, k, v, change(spec), *rest),
            FAST,
        )

    return plant


def _fast_loss(change):
    """change(original, module, x, targets) in the place of the fast tables' loss, everywhere."""

    def plant(inside: Inside) -> None:
        inside.table(
            "next_token",
            lambda original: lambda module, x, targets, at: change(original, module, x, targets),
            FAST,
        )

    return plant


def sloped(inside, factor, x):
    """x with `factor` times its gradient."""
    return factor * x + (1 - factor) * inside.detached(x)


def _flatter_in_slices(inside: Inside) -> None:
    def change(original, module, x, targets):
        tokens, several = x.shape[0] * x.shape[1], 1 << 23  # more logits than one slice has
        large = tokens * module.model.embed_tokens.weight.shape[0] > several
        return original(module, sloped(inside, 0.5, x) if large else x, targets, None)

    _fast_loss(change)(inside)


def _steeper_pairs(inside: Inside) -> None:
    def change(original):
        def wrong(*given):
            loss, sums = original(*given)
            return sloped(inside, 1.5, loss), sums

        return wrong

    inside.table("preference", change, FAST)


def _steeper_in_bfloat16(inside: Inside) -> None:
    def change(original, module, x, targets):
        found = original(module, x, targets, None)
        return sloped(inside, 1.5, found) if str(x.dtype).endswith("bfloat16") else found

    _fast_loss(change)(inside)


def _scale_of(factor):
    def change(spec):
        return replace(spec, scale=factor * spec.score_scale)

    return change


def _model(name, change):
    """change(original, self, *given) in the place of a method of the built model."""

    def plant(inside: Inside) -> None:
        inside.method(
            "inference",
            "Model",
            name,
            lambda original: lambda self, *given: change(original, self, *given),
        )

    return plant


def _row_of_one(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found * 1.001 if len(tokens) == 1 else found


def _rows_meet(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found + 1e-9 * found.mean(axis=0, keepdims=True)


def _later_leaks(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found + 1e-9 * found[:, -1:]


def _float32_logits(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found * (1 + 1e-7)


def _drifts(original, self, batch, lr):
    return original(self, batch, lr * (1 + 1e-5 * random.random()))


def _recomputed(inside: Inside) -> None:
    def make(original):
        def wrong(self, layer, x):
            y = original(self, layer, x)
            return y * (1 + 1e-9) if self.recompute else y

        return wrong

    inside.method("context", "Context", "run_block", make)


def _reversed(original, self):
    found = original(self)
    return {name: found[name] for name in reversed(list(found))}


def _gradients_in_bfloat16(inside: Inside) -> None:
    def make(original):
        def wrong(self, batch):
            loss, grads = original(self, batch)
            if self.runtime.options.precision == "float64":
                return loss, grads
            return loss, {name: rounded("bfloat16")(np.asarray(grads[name])) for name in grads}

        return wrong

    inside.method("learner", "Learner", "grads", make)


def _learner(change):
    def plant(inside: Inside) -> None:
        inside.method(
            "learner",
            "Learner",
            "step",
            lambda original: lambda self, batch, lr: change(original, self, batch, lr),
        )

    return plant


def _short_loss(inside: Inside) -> None:
    for name in ("loss", "chunked_loss"):
        inside.wrap(inside.module(name), "upcast", lambda original: lambda logits: logits)


def _short_weights(original, self, batch, lr):
    """Weights are bfloat16, so that small changes of large weights are lost."""
    report = original(self, batch, lr)
    if self.runtime.options.precision == "bfloat16":
        _shorten(self)
    return report


def _shorten(learner):
    """Round a learner's weights to bfloat16, in place."""
    if hasattr(learner, "_tensors"):  # torch
        for p in learner._tensors.values():
            p.data = p.data.bfloat16().to(p.dtype)
        return
    from mlx import core, utils

    module = learner.runtime.module
    short = [
        (name, x.astype(core.bfloat16).astype(x.dtype))
        for name, x in utils.tree_flatten(module.parameters())
    ]
    module.update(utils.tree_unflatten(short))


def _fault(name, law, case, plant, only=None, under=None):
    return Fault(name, "kernels", law, case, plant, only, under)


def _tf32(name, law, plant):
    """A fault of what is tf32 where nothing is: hermes_torch with products rounded."""
    return _fault(name, law, DEFAULT, plant, "torch", tf32.emulated)


FLOAT16 = _rounded_inputs("float16")
SHORTER = tf32.products_of(tf32.BFLOAT16_BITS, "tf32")

FAULTS = (
    _fault("products take bfloat16", "L2/logits", DEFAULT, _rounded_inputs("bfloat16")),
    _fault("products take float16", "L2/logits", DEFAULT, _rounded_inputs("float16")),
    _fault(
        "the exact table's products take float16", "L2/exact", DEFAULT, _rounded_inputs("float16")
    ),
    _fault(
        "float32's products take tf32",
        "L2/logits",
        DEFAULT,
        tf32.products_of(tf32.TF32_BITS, "float32"),
        "torch",
    ),
    _tf32("tf32's products take bfloat16", "L3/tf32", SHORTER),
    _tf32("tf32's gradients take bfloat16", "L3/tf32-gradients", SHORTER),
    _fault("the fast rotation takes bfloat16", "L2/logits", DEFAULT, _rounded_rotation),
    _fault(
        "the fast attention's scale is off by a thousandth",
        "L2/logits",
        DEFAULT,
        _fast_attend(_scale_of(1.001)),
    ),
    _fault(
        "cached attention's scale is off by half",
        "L2/decoding",
        "default/fresh",
        _fast_attend(_scale_of(1.5)),
    ),
    _fault("a row alone goes another way", "L2/batching", DEFAULT, _model("logits", _row_of_one)),
    _fault(
        "the sliced loss counts targets that do not count",
        "L2/gradients",
        DEFAULT,
        _fast_loss(lambda o, module, x, targets: o(module, x, targets * (targets != IGNORE), None)),
    ),
    _fault(
        "the sliced loss's gradient is off by a thousandth",
        "L2/gradients",
        DEFAULT,
        _fast_loss(lambda original, *given: 1.001 * original(*given, None)),
    ),
    _fault(
        "a loss of several slices has half its gradient",
        "L2/gradients",
        "slices.next token/hot",
        _flatter_in_slices,
    ),
    _fault(
        "pairs in float32 have half as much gradient again",
        "L2/gradients",
        "preference.sigmoid/hot",
        _steeper_pairs,
    ),
    _fault(
        "bfloat16's gradients are half as large again",
        "L3/gradients",
        DEFAULT,
        _steeper_in_bfloat16,
    ),
    _fault("float32 gradients are bfloat16's", "L2/gradients", DEFAULT, _gradients_in_bfloat16),
    _fault(
        "greedy texts are another model's",
        "L2/greedy",
        "greedy.rope/hot",
        _fast_attend(_scale_of(1.5)),
    ),
    _fault(
        "attention's scale is doubled in bfloat16",
        "L3/bfloat16",
        DEFAULT,
        _fast_attend(_scale_of(2.0)),
    ),
    _fault("a bfloat16 loss is reckoned in bfloat16", "L3/loss", DEFAULT, _short_loss),
    _fault(
        "weights are bfloat16, too",
        "L4/update-bfloat16",
        "train.hot/hot",
        _learner(_short_weights),
    ),
    _fault(
        "the fast update's rate is off by a thousandth",
        "L4/update-float32",
        "train.hot/hot",
        _learner(lambda original, self, batch, lr: original(self, batch, 1.001 * lr)),
    ),
    _fault("rows meet by 1e-9", "L1/batching", DEFAULT, _model("logits", _rows_meet)),
    _fault("the last token leaks by 1e-9", "L1/batching", DEFAULT, _model("logits", _later_leaks)),
    _fault(
        "logits are off by a float32's last bit",
        "L1/float32",
        DEFAULT,
        _model("logits", _float32_logits),
    ),
    _fault(
        "rows' log-probabilities are means",
        "L1/row-logprobs",
        "preference.sigmoid/hot",
        _model(
            "row_logprobs", lambda o, self, tokens, *more: o(self, tokens, *more) / len(tokens[0])
        ),
    ),
    _fault(
        "rows of pairs are exchanged",
        "L1/row-logprobs",
        "preference.sigmoid/hot",
        _model(
            "preferences", lambda o, self, batch: (o(self, batch)[0], o(self, batch)[1][:, ::-1])
        ),
    ),
    _fault(
        "a reference has other weights by a last bit",
        "L2/reference",
        "preference.sigmoid/hot",
        _models_weights,
    ),
    _fault(
        "weights in a short type are other numbers",
        "L0/weights",
        "default/hot",
        _misread_weights,
    ),
    _fault(
        "tensors come in another order", "L0/names", "default/fresh", _model("params", _reversed)
    ),
    _fault("no two runs are the same", "L4/repeat", "train.dropout/fresh", _learner(_drifts)),
    _fault(
        "recomputing gives other numbers", "L4/checkpointing", "train.frozen/fresh", _recomputed
    ),
    _fault(
        "float32 trains at another rate",
        "L4/float32",
        "train.gpt2/fresh",
        _learner(
            lambda original, self, batch, lr: original(
                self, batch, lr * (1.001 if self.runtime.options.precision == "float32" else 1)
            )
        ),
    ),
)
