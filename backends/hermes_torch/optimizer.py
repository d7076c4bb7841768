"""What a learner keeps beside its weights, and how a step changes both, in place."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor as Array
from torch.nn import Parameter

from hermes.interface import LazyTensors, Tensors, TrainState
from hermes.numerics.moment_format import FORMATS, compute_rounding_keys
from hermes.numerics.update_rules import (
    EMA,
    UpdateRule,
    choose_update_rules,
    group_by_rule,
    is_coded_slot,
    is_keyed_slot,
    is_short_slot,
    list_keyed_moments,
    list_state_shapes,
)
from hermes.recipe import Recipe
from hermes_torch.moment_format import KeyedMoment, ShortMoment, StochasticMoment
from hermes_torch.optim import clip_scale, compute_clip_divisor, update_exact, update_fused
from hermes_torch.runtime import Runtime
from hermes_torch.update_rules import update_average, update_by_rule


class Optimizer:
    """Updates the trained tensors by their rules, and keeps what these need.

    tensors: every parameter by name. kept: of each trained tensor, what is kept by slot. names: of
    the trained tensors, those that decay first: the order of the sum in the norm.
    """

    def __init__(
        self, runtime: Runtime, state: TrainState, recipe: Recipe, tensors: Mapping[str, Parameter]
    ):
        self._runtime, self._recipe, self._tensors = runtime, recipe, tensors
        rules = choose_update_rules(runtime.spec, recipe)
        self.names = sorted(rules, key=lambda name: not rules[name].decay)
        self._groups = group_by_rule(self.names, rules)
        self._shapes = list_state_shapes(runtime.spec, recipe)
        self._keyed = list_keyed_moments(self._shapes, recipe)
        self.kept: dict[str, dict[str, Any]] = {name: {} for name in rules}
        for slot, shapes in self._shapes.items():
            held = state.slots.get(slot, {})
            for name, shape in shapes.items():
                kept = self._load(slot, held, name, shape)
                short = is_short_slot(slot, recipe)
                self.kept[name][slot] = kept.to(torch.bfloat16) if short else kept
                if is_keyed_slot(slot, recipe):
                    self.kept[name][slot] = self._encode(slot, name, kept)
        exact = runtime.options.exact or runtime.dtype == torch.float64
        # The fused kernel computes in the moments' type.
        exact = exact or recipe.optimizer.moments != "float32"
        self._is_fused = not exact

    def _load(self, slot: str, held: Tensors, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor of a slot; where the state has none, zeros, or of the average the weights."""
        p = self._tensors[name]
        if name in held:
            return self._runtime.load_parameter(held[name], training=True)
        if slot == EMA:
            return p.detach().clone()
        if shape == p.shape:
            return torch.zeros_like(p, requires_grad=False)
        return torch.zeros(shape, dtype=p.dtype, device=p.device)

    def _encode(self, slot: str, name: str, values: Array) -> KeyedMoment:
        """Keep in fewer bits what the state has, which came from there and so loses nothing."""
        shards, p = self._runtime.shards, self._tensors[name]
        first = shards.find_first_row(p) * p.shape[-1] if shards and p.ndim > 1 else 0
        empty = torch.empty(0, dtype=torch.uint8)
        moment: KeyedMoment = StochasticMoment(empty, first)
        if is_coded_slot(slot, self._recipe):
            moment = ShortMoment(empty, empty, FORMATS[slot], first)
        moment.write(self._runtime.to_local(values), 0)
        return moment

    def _decode(self, name: str, slot: str) -> Array:
        """What is in a slot, in the type of the weights where it is rounded at random."""
        kept, p = self.kept[name][slot], self._tensors[name]
        if not isinstance(kept, KeyedMoment):
            return kept
        local, shards = kept.read(p.dtype), self._runtime.shards
        return shards.join_like(local, p) if shards else local

    @contextmanager
    def _open(self, name: str, keys: Mapping[tuple[str, str], int]) -> Iterator[dict[str, Array]]:
        """A tensor's slots to be changed in place; those rounded at random are so at the end."""
        held = {slot: self._decode(name, slot) for slot in self.kept[name]}
        yield held
        for slot, kept in self.kept[name].items():
            if isinstance(kept, KeyedMoment):
                kept.write(self._runtime.to_local(held[slot]), keys[slot, name])

    @property
    def grads(self) -> list[Array]:
        """The gradients, in the order of `names`."""
        return [get_grad(self._tensors[name]) for name in self.names]

    def update(self, lr: float, step: int, applied: Array, norm: Array) -> None:
        """Clip and take the step, counted from 1, where it is `applied`, a bool ().

        norm: of all gradients, by which they are clipped; those of AdamW as its kernel reads them,
        without a pass of its own.
        """
        self._runtime.copies.hold_back()
        divisor = self._clip(norm)
        keys = compute_rounding_keys(self._recipe.seed, step, self._keyed)
        by_tensor = dict(zip(self._keyed, keys.tolist(), strict=True))
        for rule, names in self._groups.items():
            rate = lr * rule.lr_scale
            if not self._keyed:
                self._update_group(rule, names, self.kept, rate, step, applied, divisor)
                continue
            for name in names:  # one by one, as each is wide for a while
                with self._open(name, by_tensor) as held:
                    self._update_group(rule, [name], {name: held}, rate, step, applied, divisor)
        if self._recipe.ema:
            self._average(applied)

    def _update_group(
        self,
        rule: UpdateRule,
        names: Sequence[str],
        kept: Mapping[str, Mapping[str, Array]],
        lr: float,
        step: int,
        applied: Array,
        divisor: Array | None,
    ) -> None:
        """Update tensors of one rule, and what is kept of each, by name and slot.

        divisor: of AdamW's gradients; see _clip.
        """
        to_local, tensors = self._runtime.to_local, self._tensors
        if rule.algorithm == "adamw":
            group = [
                (
                    to_local(tensors[name]),
                    to_local(get_grad(tensors[name])),
                    to_local(kept[name]["exp_avg"]),
                    to_local(kept[name]["exp_avg_sq"]),
                )
                for name in names
            ]
            update = partial(update_fused, divisor=divisor) if self._is_fused else update_exact
            decay = float(rule.decay)
            update(group, lr=lr, step=step, decay=decay, rule=rule.recipe, applied=applied)
            return
        # Lion's steps are of single numbers, so that a shard of a tensor is enough for its own.
        shards = None if rule.algorithm == "lion" else self._runtime.shards
        for name in names:
            grad, held = get_grad(tensors[name]), kept[name]
            if shards is None:
                grad, held = to_local(grad), {slot: to_local(x) for slot, x in held.items()}
            p = to_local(tensors[name])
            update_by_rule(
                p, grad, held, lr=lr, step=step, rule=rule, applied=applied, shards=shards
            )

    def _clip(self, norm: Array) -> Array | None:
        """Clip gradients in place, but for those of a fused AdamW.

        It is to divide those by what is returned; None for as they are.
        """
        bound = self._recipe.grad_clip
        if not bound:
            return None
        in_place = [
            self._runtime.to_local(get_grad(self._tensors[name]))
            for rule, names in self._groups.items()
            for name in names
            if rule.algorithm != "adamw" or not self._is_fused
        ]
        if in_place:
            # Private, but what clip_grad_norm_ calls: one kernel for all tensors.
            torch._foreach_mul_(in_place, clip_scale(norm, bound))
        return compute_clip_divisor(norm, bound) if self._is_fused else None

    def _average(self, applied: Array) -> None:
        """Move the average of the weights towards them."""
        to_local = self._runtime.to_local
        for name in self.names:
            e, p = to_local(self.kept[name][EMA]), to_local(self._tensors[name])
            update_average(e, p, self._recipe.ema, applied)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the weights and their average."""
        to_local, shards = self._runtime.to_local, self._runtime.shards
        self._runtime.copies.hold_back()
        if shards:
            shards.forget_gathered()
        for name in self.names:
            e, p = to_local(self.kept[name][EMA]), to_local(self._tensors[name])
            held = p.detach().clone()
            p.copy_(e)
            e.copy_(held)

    @torch.no_grad()
    def compute_digests(self) -> Mapping[str, int]:
        """The sum of the words of each tensor and, times 2 and so on, of what is kept."""
        shards, sums, whole = self._runtime.shards, [], []
        for name, p in self._tensors.items():
            # Of a sharded matrix, what is kept of its rows and columns is whole in every process.
            own = torch.zeros((), dtype=torch.int64, device=p.device)
            others = own.clone()
            for k, x in enumerate((p, *self.kept.get(name, {}).values()), 1):
                if isinstance(x, KeyedMoment):
                    own += k * x.compute_digest()
                    continue
                local = self._runtime.to_local(x)
                short = local.dtype == torch.bfloat16
                words = local.view(torch.int16 if short else torch.int32)
                word = words.sum(dtype=torch.int64) * k
                if shards and x.ndim < p.ndim:
                    others += word
                else:
                    own += word
            sums.append(own)
            whole.append(others)
        if shards:
            sums = shards.sum_digests(sums, self._tensors.values())
        return {
            name: int(own) + int(others)
            for name, own, others in zip(self._tensors, sums, whole, strict=True)
        }

    def copy_slots(self) -> Mapping[str, Tensors]:
        """What is kept, by slot; each tensor is copied when it is read."""
        copy, read, runtime = self._runtime.copy_to_numpy, self._decode, self._runtime

        def make_tensors(slot: str, shapes: Iterable[str]) -> Tensors:
            return LazyTensors(
                shapes,
                lambda name: copy(read(name, slot)),
                stage=(lambda name: self._stage(name, slot)) if runtime.stages else None,
            )

        return {slot: make_tensors(slot, shapes) for slot, shapes in self._shapes.items()}

    def _stage(self, name: str, slot: str) -> Callable[[], NDArray[Any]]:
        """Begin to copy what is in a slot; codes are decoded where they arrive."""
        kept, runtime = self.kept[name][slot], self._runtime
        if not isinstance(kept, KeyedMoment):
            return runtime.stage(kept)
        parts = ("codes", "exponents") if isinstance(kept, ShortMoment) else ("values",)
        waits = {part: runtime.copies.begin(getattr(kept, part)) for part in parts}

        def read() -> Array:
            held: dict[str, Any] = {part: wait() for part, wait in waits.items()}
            return replace(kept, **held).read(torch.float32)

        return runtime.finish_staging(self._tensors[name], read)


def get_grad(p: Array) -> Array:
    """The gradient of a tensor, which the learner has made sure of."""
    assert p.grad is not None
    return p.grad
