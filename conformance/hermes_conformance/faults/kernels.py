"""Faults of production's kernels, of repeatability, and of what models and learners hand over."""

import random
from dataclasses import replace
from typing import Any

import numpy as np

from hermes.interface import IGNORE
from hermes_conformance.faults import tf32
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, Function, Patcher
from hermes_conformance.oracle.tracing_arrays import make_rounding_rule

DEFAULT = "default/hot"


def _round_inputs(precision):
    """Round the inputs of matrix products, as hardware of reduced precision does."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_forward(
            "Linear",
            lambda original: lambda self, x: original(self, patcher.round_to(x, precision)),
        )

    return plant


def _change_untrained_weights(patcher: Patcher) -> None:
    """A model that is not trained has weights that are wrong in their last bit."""

    def wrap(original):
        def faulty(self, spec, params, options, *rest, training, **more):
            if not training:
                params = {name: np.nextafter(params[name], np.float32(9)) for name in params}
            return original(self, spec, params, options, *rest, training=training, **more)

        return faulty

    patcher.wrap_method("runtime", "Runtime", "__init__", wrap)


def _double_short_weights(patcher: Patcher) -> None:
    """Weights given in bfloat16 or float16 are doubled, as if their bits were misread."""

    def wrap(original):
        def faulty(self, spec, params, options, *rest, **more):
            if any(value.dtype.itemsize == 2 for value in params.values()):
                params = {name: 2 * value for name, value in params.items()}
            return original(self, spec, params, options, *rest, **more)

        return faulty

    patcher.wrap_method("runtime", "Runtime", "__init__", wrap)


def _round_rotation(patcher: Patcher) -> None:
    patcher.wrap_table(
        "rotate",
        lambda rotate: lambda x, cos, sin: rotate(x, patcher.round_to(cos), patcher.round_to(sin)),
        FAST_TABLES,
    )


def _change_fast_attention(change: Function) -> Plant:
    """Call attention with change(spec), in the fast tables only."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table(
            "attention",
            lambda attention: lambda q, k, v, spec, *rest: attention(q, k, v, change(spec), *rest),
            FAST_TABLES,
        )

    return plant


def _change_fast_loss(change: Function) -> Plant:
    """Compute the next-token loss of the fast tables by change(original, module, x, targets)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table(
            "next_token",
            lambda original: lambda module, x, targets, at: change(original, module, x, targets),
            FAST_TABLES,
        )

    return plant


def scale_gradient(patcher: Patcher, factor: float, x: Any) -> Any:
    """x with `factor` times its gradient."""
    return factor * x + (1 - factor) * patcher.detach(x)


def _halve_gradient_in_chunks(patcher: Patcher) -> None:
    def change(original, module, x, targets):
        tokens, several = x.shape[0] * x.shape[1], 1 << 23  # more logits than one slice has
        large = tokens * module.model.embed_tokens.weight.shape[0] > several
        return original(module, scale_gradient(patcher, 0.5, x) if large else x, targets, None)

    _change_fast_loss(change)(patcher)


def _scale_pair_gradients(patcher: Patcher) -> None:
    def change(original):
        def faulty(*given):
            loss, sums = original(*given)
            return scale_gradient(patcher, 1.5, loss), sums

        return faulty

    patcher.wrap_table("preference", change, FAST_TABLES)


def _scale_bfloat16_gradients(patcher: Patcher) -> None:
    def change(original, module, x, targets):
        found = original(module, x, targets, None)
        return scale_gradient(patcher, 1.5, found) if str(x.dtype).endswith("bfloat16") else found

    _change_fast_loss(change)(patcher)


def _multiply_scale(factor):
    def change(spec):
        return replace(spec, scale=factor * spec.score_scale)

    return change


def _change_model(name: str, change: Function) -> Plant:
    """Call a method of the built model by change(original, self, *given)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "inference",
            "Model",
            name,
            lambda original: lambda self, *given: change(original, self, *given),
        )

    return plant


def _change_single_row(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found * 1.001 if len(tokens) == 1 else found


def _mix_rows(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found + 1e-9 * found.mean(axis=0, keepdims=True)


def _leak_last_token(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found + 1e-9 * found[:, -1:]


def _change_last_bit(original, self, tokens, *more):
    found = original(self, tokens, *more)
    return found * (1 + 1e-7)


def _vary_rate(original, self, batch, lr):
    return original(self, batch, lr * (1 + 1e-5 * random.random()))


def _change_recomputation(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, layer, x):
            y = original(self, layer, x)
            return y * (1 + 1e-9) if self.recompute else y

        return faulty

    patcher.wrap_method("context", "Context", "run_block", wrap)


def _reverse_params(original, self):
    found = original(self)
    return {name: found[name] for name in reversed(list(found))}


def _round_gradients(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, batch):
            loss, grads = original(self, batch)
            if self.runtime.options.precision == "float64":
                return loss, grads
            return loss, {
                name: make_rounding_rule("bfloat16")(np.asarray(grads[name])) for name in grads
            }

        return faulty

    patcher.wrap_method("learner", "Learner", "grads", wrap)


def _change_step(change: Function) -> Plant:
    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "learner",
            "Learner",
            "step",
            lambda original: lambda self, batch, lr: change(original, self, batch, lr),
        )

    return plant


def _compute_loss_in_bfloat16(patcher: Patcher) -> None:
    for name in ("loss", "chunked_loss"):
        patcher.wrap(patcher.load_module(name), "upcast", lambda original: lambda logits: logits)


def _round_weights(original, self, batch, lr):
    """A learner keeps its weights in bfloat16, so that small changes of large weights are lost."""
    report = original(self, batch, lr)
    if self.runtime.options.precision == "bfloat16":
        _round_learner_weights(self)
    return report


def _round_learner_weights(learner):
    """Round a learner's weights to bfloat16, in place."""
    if hasattr(learner, "_tensors"):  # torch
        for p in learner._tensors.values():
            p.data = p.data.bfloat16().to(p.dtype)
        return
    from mlx import core, utils

    module = learner.runtime.module
    params: Any = utils.tree_flatten(module.parameters())
    short = [(name, x.astype(core.bfloat16).astype(x.dtype)) for name, x in params]
    module.update(utils.tree_unflatten(short))


def _make_fault(
    name: str,
    law: str,
    case: str,
    plant: Plant,
    only: str | None = None,
    under: Plant | None = None,
) -> Fault:
    return Fault(name, "kernels", law, case, plant, only, under)


def _make_tf32_fault(name: str, law: str, plant: Plant) -> Fault:
    """A fault of tf32, in hermes_torch with tf32 emulated: few machines have it."""
    return _make_fault(name, law, DEFAULT, plant, "torch", tf32.emulate_tf32)


FLOAT16 = _round_inputs("float16")
SHORTER = tf32.round_products(tf32.BFLOAT16_BITS, "tf32")

FAULTS = (
    _make_fault("products take bfloat16", "L2/logits", DEFAULT, _round_inputs("bfloat16")),
    _make_fault("products take float16", "L2/logits", DEFAULT, _round_inputs("float16")),
    _make_fault(
        "the exact table's products take float16", "L2/exact", DEFAULT, _round_inputs("float16")
    ),
    _make_fault(
        "float32's products take tf32",
        "L2/logits",
        DEFAULT,
        tf32.round_products(tf32.TF32_BITS, "float32"),
        "torch",
    ),
    _make_tf32_fault("tf32's products take bfloat16", "L3/tf32", SHORTER),
    _make_tf32_fault("tf32's gradients take bfloat16", "L3/tf32-gradients", SHORTER),
    _make_fault("the fast rotation takes bfloat16", "L2/logits", DEFAULT, _round_rotation),
    _make_fault(
        "the fast attention's scale is off by a thousandth",
        "L2/logits",
        DEFAULT,
        _change_fast_attention(_multiply_scale(1.001)),
    ),
    _make_fault(
        "cached attention's scale is off by half",
        "L2/decoding",
        "default/fresh",
        _change_fast_attention(_multiply_scale(1.5)),
    ),
    _make_fault(
        "a row alone goes another way",
        "L2/batching",
        DEFAULT,
        _change_model("logits", _change_single_row),
    ),
    _make_fault(
        "the sliced loss counts targets that do not count",
        "L2/gradients",
        DEFAULT,
        _change_fast_loss(
            lambda o, module, x, targets: o(module, x, targets * (targets != IGNORE), None)
        ),
    ),
    _make_fault(
        "the sliced loss's gradient is off by a thousandth",
        "L2/gradients",
        DEFAULT,
        _change_fast_loss(lambda original, *given: 1.001 * original(*given, None)),
    ),
    _make_fault(
        "a loss of several slices has half its gradient",
        "L2/gradients",
        "slices.next token/hot",
        _halve_gradient_in_chunks,
    ),
    _make_fault(
        "pairs in float32 have half as much gradient again",
        "L2/gradients",
        "preference.sigmoid/hot",
        _scale_pair_gradients,
    ),
    _make_fault(
        "bfloat16's gradients are half as large again",
        "L3/gradients",
        DEFAULT,
        _scale_bfloat16_gradients,
    ),
    _make_fault("float32 gradients are bfloat16's", "L2/gradients", DEFAULT, _round_gradients),
    _make_fault(
        "greedy texts are another model's",
        "L2/greedy",
        "greedy.rope/hot",
        _change_fast_attention(_multiply_scale(1.5)),
    ),
    _make_fault(
        "attention's scale is doubled in bfloat16",
        "L3/bfloat16",
        DEFAULT,
        _change_fast_attention(_multiply_scale(2.0)),
    ),
    _make_fault(
        "a bfloat16 loss is reckoned in bfloat16", "L3/loss", DEFAULT, _compute_loss_in_bfloat16
    ),
    _make_fault(
        "weights are bfloat16, too",
        "L4/update-bfloat16",
        "train.hot/hot",
        _change_step(_round_weights),
    ),
    _make_fault(
        "the fast update's rate is off by a thousandth",
        "L4/update-float32",
        "train.hot/hot",
        _change_step(lambda original, self, batch, lr: original(self, batch, 1.001 * lr)),
    ),
    _make_fault("rows meet by 1e-9", "L1/batching", DEFAULT, _change_model("logits", _mix_rows)),
    _make_fault(
        "the last token leaks by 1e-9",
        "L1/batching",
        DEFAULT,
        _change_model("logits", _leak_last_token),
    ),
    _make_fault(
        "logits are off by a float32's last bit",
        "L1/float32",
        DEFAULT,
        _change_model("logits", _change_last_bit),
    ),
    _make_fault(
        "rows' log-probabilities are means",
        "L1/row-logprobs",
        "preference.sigmoid/hot",
        _change_model(
            "row_logprobs", lambda o, self, tokens, *more: o(self, tokens, *more) / len(tokens[0])
        ),
    ),
    _make_fault(
        "rows of pairs are exchanged",
        "L1/row-logprobs",
        "preference.sigmoid/hot",
        _change_model(
            "preferences", lambda o, self, batch: (o(self, batch)[0], o(self, batch)[1][:, ::-1])
        ),
    ),
    _make_fault(
        "a reference has other weights by a last bit",
        "L2/reference",
        "preference.sigmoid/hot",
        _change_untrained_weights,
    ),
    _make_fault(
        "weights in a short type are other numbers",
        "L0/weights",
        "default/hot",
        _double_short_weights,
    ),
    _make_fault(
        "tensors come in another order",
        "L0/names",
        "default/fresh",
        _change_model("params", _reverse_params),
    ),
    _make_fault(
        "no two runs are the same", "L4/repeat", "train.dropout/fresh", _change_step(_vary_rate)
    ),
    _make_fault(
        "recomputing gives other numbers",
        "L4/checkpointing",
        "train.frozen/fresh",
        _change_recomputation,
    ),
    _make_fault(
        "float32 trains at another rate",
        "L4/float32",
        "train.gpt2/fresh",
        _change_step(
            lambda original, self, batch, lr: original(
                self, batch, lr * (1.001 if self.runtime.options.precision == "float32" else 1)
            )
        ),
    ),
)
