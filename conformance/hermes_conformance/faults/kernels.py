"""Faults of production's kernels, in float32 and shorter formats."""

from dataclasses import replace
from types import SimpleNamespace
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
            lambda original: (
                lambda module, x, targets, at, *_: change(original, module, x, targets)
            ),
            FAST_TABLES,
        )

    return plant


def scale_gradient(patcher: Patcher, factor: float, x: Any) -> Any:
    """x with `factor` times its gradient."""
    return factor * x + (1 - factor) * patcher.detach(x)


def _halve_gradient_in_chunks(patcher: Patcher) -> None:
    def change(original, module, x, targets):
        tokens, several = x.shape[0] * x.shape[1], 1 << 24  # more logits than one slice has
        large = tokens * module.model.embed_tokens.weight.shape[0] > several
        return original(module, scale_gradient(patcher, 0.5, x) if large else x, targets, None)

    _change_fast_loss(change)(patcher)


def _forget_scale_in_gradient(patcher: Patcher) -> None:
    """The gradient of a chunk's logits is that of the scaled ones."""

    def wrap(original):
        def faulty(*arguments):
            *rest, head, z_grad = arguments
            plain = SimpleNamespace(softcap=head.softcap, scale=None, ops=head.ops)
            return original(*rest, plain, z_grad)

        return faulty

    patcher.wrap(patcher.load_module("chunked_loss"), "logits_gradient", wrap)


def _scale_pair_gradients(patcher: Patcher) -> None:
    def change(original):
        def faulty(*args):
            loss, sums = original(*args)
            return scale_gradient(patcher, 1.5, loss), sums

        return faulty

    patcher.wrap_table("preference", change, FAST_TABLES)


def _scale_bfloat16_gradients(patcher: Patcher) -> None:
    def change(original, module, x, targets):
        result = original(module, x, targets, None)
        return scale_gradient(patcher, 1.5, result) if str(x.dtype).endswith("bfloat16") else result

    _change_fast_loss(change)(patcher)


def _multiply_scale(factor):
    def change(spec):
        return replace(spec, scale=factor * spec.score_scale)

    return change


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


def _compute_loss_in_bfloat16(patcher: Patcher) -> None:
    for name in ("loss", "chunked_loss"):
        patcher.wrap(patcher.load_module(name), "upcast", lambda original: lambda logits: logits)


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


def _expand_heads(patcher: Patcher) -> None:
    """Give attention's kernel as many heads of keys as of queries, as on CUDA in float32."""
    patcher.replace(
        patcher.load_module("ops"), "can_fuse_grouped_heads", lambda *_, has_mask: False
    )


def _tile_heads(patcher: Patcher) -> None:
    """Expanded heads of keys serve every K-th query head, not neighbours."""
    patcher.replace(
        patcher.load_module("ops"), "expand_heads", lambda x, groups: x.repeat(1, groups, 1, 1)
    )


def _forget_gradients_of_heads(patcher: Patcher) -> None:
    """Only one of the query heads that an expanded head of keys serves has a part in its gradient.

    The values stay as they are.
    """

    def wrap(original):
        def faulty(x, groups):
            y = original(x, groups)
            first = (np.arange(y.shape[1]) % groups == 0)[:, None, None]
            return y.where(y.new_tensor(first, dtype=bool), y.detach())

        return faulty

    patcher.wrap(patcher.load_module("ops"), "expand_heads", wrap)


def _make_expanded_fault(name: str, law: str, plant: Plant) -> Fault:
    """A fault of heads of keys that are expanded, which only CUDA needs: here in any case."""
    return _make_fault(name, law, DEFAULT, plant, "torch", _expand_heads)


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
        "the chunked loss counts targets that do not count",
        "L2/gradients",
        DEFAULT,
        _change_fast_loss(
            lambda o, module, x, targets: o(module, x, targets * (targets != IGNORE), None)
        ),
    ),
    _make_fault(
        "the chunked loss's gradient is off by a thousandth",
        "L2/gradients",
        DEFAULT,
        _change_fast_loss(lambda original, *args: 1.001 * original(*args, None)),
    ),
    _make_fault(
        "the chunked loss's gradient forgets the scale of logits",
        "L2/gradients",
        "output.scale=0.3/hot",
        _forget_scale_in_gradient,
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
    _make_expanded_fault("expanded heads of keys are tiled", "L2/logits", _tile_heads),
    _make_expanded_fault(
        "expanded heads of keys lose gradients", "L2/gradients", _forget_gradients_of_heads
    ),
    _make_fault(
        "attention's scale is doubled in bfloat16",
        "L3/bfloat16",
        DEFAULT,
        _change_fast_attention(_multiply_scale(2.0)),
    ),
    _make_fault(
        "attention's scale is doubled in float16",
        "L3/float16",
        DEFAULT,
        _change_fast_attention(_multiply_scale(2.0)),
    ),
    _make_fault(
        "a bfloat16 loss is reckoned in bfloat16", "L3/loss", DEFAULT, _compute_loss_in_bfloat16
    ),
)
