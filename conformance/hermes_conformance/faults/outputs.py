"""Faults of what models and learners give: logits, rows, weights, and the steps of a run."""

import random
from typing import Any

import numpy as np

from hermes_conformance.faults.fault import Fault, Plant, change_step
from hermes_conformance.faults.patcher import Function, Patcher

DEFAULT = "default/hot"


def _change_untrained_weights(patcher: Patcher) -> None:
    """A model that is not trained has weights that are wrong in their last bit."""

    def wrap(original):
        def faulty(self, spec, params, options, *rest, training, **kwargs):
            if not training:
                params = {name: np.nextafter(params[name], np.float32(9)) for name in params}
            return original(self, spec, params, options, *rest, training=training, **kwargs)

        return faulty

    patcher.wrap_method("runtime", "Runtime", "__init__", wrap)


def _change_short_reference(patcher: Patcher) -> None:
    """A model in bfloat16 that is not trained has other norms."""

    def wrap(original):
        def faulty(self, spec, params, options, *rest, training, **kwargs):
            if options.precision == "bfloat16" and not training:
                params = {n: x * np.float32(1.001) if x.ndim == 1 else x for n, x in params.items()}
            return original(self, spec, params, options, *rest, training=training, **kwargs)

        return faulty

    patcher.wrap_method("runtime", "Runtime", "__init__", wrap)


def _double_short_weights(patcher: Patcher) -> None:
    """Weights given in bfloat16 or float16 are doubled, as if their bits were misread."""

    def wrap(original):
        def faulty(self, spec, params, options, *rest, **kwargs):
            if any(value.dtype.itemsize == 2 for value in params.values()):
                params = {name: 2 * value for name, value in params.items()}
            return original(self, spec, params, options, *rest, **kwargs)

        return faulty

    patcher.wrap_method("runtime", "Runtime", "__init__", wrap)


def _change_model(name: str, change: Function) -> Plant:
    """Call a method of the built model by change(original, self, *args)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "inference",
            "Model",
            name,
            lambda original: lambda self, *args: change(original, self, *args),
        )

    return plant


def _change_single_row(original, self, tokens, *args):
    result = original(self, tokens, *args)
    return result * 1.001 if len(tokens) == 1 else result


def _mix_rows(original, self, tokens, *args):
    result = original(self, tokens, *args)
    return result + 1e-9 * result.mean(axis=0, keepdims=True)


def _leak_last_token(original, self, tokens, *args):
    result = original(self, tokens, *args)
    return result + 1e-9 * result[:, -1:]


def _change_last_bit(original, self, tokens, *args):
    result = original(self, tokens, *args)
    return result * (1 + 1e-7)


def _reverse_params(original, self):
    result = original(self)
    return {name: result[name] for name in reversed(list(result))}


def _vary_rate(original, self, batch, lr):
    return original(self, batch, lr * (1 + 1e-5 * random.random()))


def _round_weights(original, self, batch, lr):
    """A learner keeps its weights in bfloat16, so that small changes of large weights are lost."""
    report = original(self, batch, lr)
    if self.runtime.options.precision in ("bfloat16", "float16"):
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


def _change_recomputation(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, layer, x):
            y = original(self, layer, x)
            return y * (1 + 1e-9) if self.recompute else y

        return faulty

    patcher.wrap_method("context", "Context", "run_block", wrap)


def _make_fault(name: str, law: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "kernels", law, case, plant)


FAULTS = (
    _make_fault(
        "a row alone goes another way",
        "L2/batching",
        DEFAULT,
        _change_model("logits", _change_single_row),
    ),
    _make_fault(
        "weights are bfloat16, too",
        "L4/update-bfloat16",
        "train.hot/hot",
        change_step(_round_weights),
    ),
    _make_fault(
        "weights are short in float16, too",
        "L4/update-float16",
        "train.hot/hot",
        change_step(_round_weights),
    ),
    _make_fault(
        "the fast update's rate is off by a thousandth",
        "L4/update-float32",
        "train.hot/hot",
        change_step(lambda original, self, batch, lr: original(self, batch, 1.001 * lr)),
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
            "row_logprobs", lambda o, self, tokens, *args: o(self, tokens, *args) / len(tokens[0])
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
        "a reference in bfloat16 has other weights by a thousandth",
        "L3/reference",
        "preference.sigmoid/hot",
        _change_short_reference,
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
        "no two runs are the same", "L4/repeat", "train.dropout/fresh", change_step(_vary_rate)
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
        change_step(
            lambda original, self, batch, lr: original(
                self, batch, lr * (1.001 if self.runtime.options.precision == "float32" else 1)
            )
        ),
    ),
)
