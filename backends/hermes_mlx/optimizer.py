"""What a learner keeps beside its weights, and how a step changes both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.core import array as Array
from mlx.utils import tree_map
from numpy.typing import NDArray

from hermes.interface import LazyTensors, Tensors, TrainState
from hermes.numerics.moment_format import FORMATS, compute_rounding_keys
from hermes.numerics.update_rules import (
    EMA,
    UpdateRule,
    choose_update_rules,
    compute_decay_of_squares,
    is_coded_slot,
    is_short_slot,
    list_keyed_moments,
    list_state_shapes,
)
from hermes.recipe import Recipe
from hermes_mlx.compiler import uses_compile
from hermes_mlx.loss_scale import Scaling, update_loss_scale
from hermes_mlx.moment_format import decode_moments, encode_moments, round_stochastically
from hermes_mlx.optim import adamw, clip_scale, global_norm, is_applied
from hermes_mlx.runtime import Runtime
from hermes_mlx.update_rules import average_weights, compute_step

Arrays = dict[str, Array]
# By slot and name; codes and exponents where they have 8 bits.
Kept = dict[str, dict[str, Any]]

# Numbers of a matrix that are updated at a time on a CPU, where each operation makes a whole array,
# and up to ten are made ahead of their results.
UPDATED_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class _Rows:
    """A tensor's rows: weights, gradient, what is kept, and the number of the first element."""

    name: str
    rule: UpdateRule
    p: Array
    g: Array
    stored: dict[str, Any]
    first: int


class Optimizer:
    """Updates the trained tensors by their rules. kept: what these need, by slot and name."""

    def __init__(self, runtime: Runtime, state: TrainState, recipe: Recipe, params: Arrays):
        self._runtime, self._recipe = runtime, recipe
        self._rules = choose_update_rules(runtime.spec, recipe)
        shapes_by_slot = list_state_shapes(runtime.spec, recipe)
        self._keyed = list_keyed_moments(shapes_by_slot, recipe)
        self._numbers = {moment: index for index, moment in enumerate(self._keyed)}
        self._eager = not runtime.is_on_gpu and not uses_compile(runtime)
        self.kept: Kept = {
            slot: self._load(slot, state.slots.get(slot, {}), shapes, params)
            for slot, shapes in shapes_by_slot.items()
        }

    def _load(
        self, slot: str, held: Tensors, shapes: Mapping[str, tuple[int, ...]], params: Arrays
    ) -> dict[str, Any]:
        """A slot's tensors; where the state has none, zeros, or of the average the weights."""
        loaded: dict[str, Any] = {}
        for name, shape in shapes.items():
            p = params[name]
            if name in held:
                loaded[name] = self._runtime.to_device(held[name], p.dtype)
            else:
                loaded[name] = p if slot == EMA else mx.zeros(shape, p.dtype)
            if is_short_slot(slot, self._recipe):
                loaded[name] = loaded[name].astype(mx.bfloat16)
            if is_coded_slot(slot, self._recipe):
                loaded[name] = _encode_by_rows(loaded[name], slot)
            mx.eval(loaded[name])  # so that one wide tensor is there at a time
        return loaded

    def compute_scalars(self, lr: float, step: int) -> list[Array]:
        """What `compute_update` needs of a step, counted from 1.

        lr, AdamW's two, Adafactor's, and the keys by which moments of 8 bits are rounded.
        """
        rule, runtime = self._recipe.optimizer, self._runtime
        values = (
            lr,
            lr / (1 - rule.beta1**step),
            (1 - rule.beta2**step) ** -0.5,
            compute_decay_of_squares(step),
        )
        scalars = [runtime.to_device(np.float64(value), runtime.master) for value in values]
        if self._keyed:
            keys = compute_rounding_keys(self._recipe.seed, step, self._keyed)
            scalars.append(runtime.to_device(keys, mx.uint32))
        return scalars

    def compute_update(
        self,
        params: Arrays,
        kept: Kept,
        grads: Arrays,
        loss: Array,
        scalars: Sequence[Array],
        scaling: Scaling | None,
        limit: Array | None,
    ) -> tuple[Arrays, Kept, Array, Scaling | None, Array | None]:
        """Clip and update: new params and what is kept, the norm before clipping, the loss scale.

        And whether it was applied, where the loss has a `limit`, a (). Nothing changes where loss
        or norm is not finite, or the loss above the limit. That is chosen element by element, not
        by an if: reading the norm would make the host wait, and a compiled function cannot.
        """
        norm = global_norm(grads.values())
        scale = clip_scale(norm, self._recipe.grad_clip)
        finite = mx.isfinite(norm) & mx.isfinite(loss)
        applied = is_applied(finite, loss, limit)
        new_params: Arrays = {}
        new_kept: Kept = {slot: {} for slot in kept}
        for name, rule in self._rules.items():
            stored = {slot: held[name] for slot, held in kept.items() if name in held}
            found = []
            for begin, end in self._split_rows(params[name].shape, rule):
                some = params[name], grads[name], stored
                if (begin, end) != (0, len(params[name])):
                    some = slice_rows(some, begin, end)
                tensor = _Rows(name, rule, *some, begin * params[name].shape[-1])
                found.append(self._update_rows(tensor, scale, scalars, applied))
                if self._eager:
                    mx.eval(found[-1])
            new_params[name], after = found[0] if len(found) == 1 else join_rows(found)
            if len(found) > 1:
                mx.eval(new_params[name], after)
            for slot, value in after.items():
                new_kept[slot][name] = value
        if scaling is not None:
            scaling = update_loss_scale(*scaling, finite, self._recipe.loss_scaling)
        return new_params, new_kept, norm, scaling, None if limit is None else applied

    def _split_rows(self, shape: tuple[int, ...], rule: UpdateRule) -> list[tuple[int, int]]:
        """The rows of a tensor that are updated at a time: all, where a kernel computes them."""
        rows = shape[0]
        by_element = rule.algorithm in ("adamw", "lion") and len(shape) == 2
        size = max(1, UPDATED_AT_ONCE // shape[-1]) if self._eager and by_element else rows
        return [(begin, min(begin + size, rows)) for begin in range(0, rows, size)]

    def _update_rows(
        self, rows: _Rows, scale: Array, scalars: Sequence[Array], applied: Array
    ) -> tuple[Array, dict[str, Any]]:
        """New weights of a tensor's rows, and what is kept of them, by slot."""
        # Moments in a shorter type are computed in that of the weights, and rounded at the end.
        before = {slot: _widen(slot, value, rows.p.dtype) for slot, value in rows.stored.items()}
        p, after = _update_tensor(rows.p, scale * rows.g, before, scalars, rows.rule)
        if EMA in before:
            after[EMA] = average_weights(before[EMA], p, self._recipe.ema)
        kept: dict[str, Any] = {}
        for slot, value in after.items():
            new = mx.where(applied, value, before[slot])
            if (slot, rows.name) in self._numbers:
                key = scalars[4][self._numbers[slot, rows.name]]
                kept[slot] = self._round(slot, new, key, rows.first)
            else:
                kept[slot] = new.astype(rows.stored[slot].dtype)
        return mx.where(applied, p, rows.p), kept

    def _round(self, slot: str, value: Array, key: Array, first: int) -> Any:
        """What is kept of a moment that is rounded at random, by the key of this step."""
        if is_coded_slot(slot, self._recipe):
            return encode_moments(value, FORMATS[slot], key, first)
        return round_stochastically(value, key, first)

    def copy_slots(self) -> Mapping[str, Tensors]:
        """What is kept, by slot; each tensor is copied when it is read."""

        # MLX's arrays never change: a later step makes new ones, so these can be read when asked.
        def make_tensors(slot: str, held: Mapping[str, Any]) -> Tensors:
            runtime = self._runtime

            def read(name: str) -> NDArray[Any]:
                with runtime.apply_options():
                    return runtime.to_numpy(_widen(slot, held[name]))

            def stage(name: str) -> Callable[[], NDArray[Any]]:
                with runtime.apply_options():
                    return runtime.stage(_widen(slot, held[name]))

            return LazyTensors(held, read, stage=stage)

        return {slot: make_tensors(slot, held) for slot, held in self.kept.items()}


def _encode_by_rows(value: Array, slot: str) -> Any:
    """Encode a moment as it is loaded. Having come from 8 bits, it has codes of its own."""
    rows, parts = len(value), []
    size = max(1, UPDATED_AT_ONCE // value.shape[-1]) if value.ndim == 2 else rows
    for begin in range(0, rows, size):
        some = value if size >= rows else value[begin : begin + size]
        parts.append(encode_moments(some, FORMATS[slot], mx.array(0, mx.uint32)))
        mx.eval(parts[-1])
    return parts[0] if len(parts) == 1 else join_rows(parts)


def slice_rows(arrays: Any, begin: int, end: int) -> Any:
    """These rows of each array."""
    return tree_map(lambda x: x[begin:end], arrays)


def join_rows(parts: Sequence[Any]) -> Any:
    """The arrays whose rows these are, one behind the other."""
    return tree_map(lambda *rows: mx.concatenate([*rows]), *parts)


def _widen(slot: str, value: Any, dtype: mx.Dtype | None = None) -> Array:
    """What is in a slot, in another type than it is kept in; None for its own, or of 8 bits 32."""
    if isinstance(value, tuple | list):
        codes, exponents = value
        value = decode_moments(codes, exponents, FORMATS[slot])
    wide: Array = value if dtype is None else value.astype(dtype)
    return wide


def _update_tensor(
    p: Array, g: Array, kept: Arrays, scalars: Sequence[Array], rule: UpdateRule
) -> tuple[Array, Arrays]:
    """One step of one tensor by its rule: the new p, and what is kept, by slot."""
    lr, first, second, square_decay = scalars[:4]
    if rule.lr_scale != 1.0:
        lr, first = lr * rule.lr_scale, first * rule.lr_scale
    if rule.algorithm != "adamw":
        u, after = compute_step(g, kept, rule, square_decay)
        return p * (1 - lr * rule.weight_decay) - lr * u, after
    p, m, v = adamw(
        p,
        g,
        kept["exp_avg"],
        kept["exp_avg_sq"],
        lr=lr,
        first=first,
        second=second,
        decay=float(rule.decay),
        rule=rule.recipe,
    )
    return p, {"exp_avg": m, "exp_avg_sq": v}
