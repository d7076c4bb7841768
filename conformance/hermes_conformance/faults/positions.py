"""Faults of the forward pass: positions by rope and by ALiBi."""

from dataclasses import replace

import numpy as np

from hermes.numerics import positions
from hermes.spec import Alibi, Rope
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _interleave_pairs(patcher: Patcher) -> None:
    def wrap(rotate):
        def faulty(x, cos, sin):
            B, H, T, D = x.shape
            half = x.reshape(B, H, T, D // 2, 2).swapaxes(3, 4).reshape(B, H, T, D)
            turned = rotate(half, cos, sin)
            return turned.reshape(B, H, T, 2, D // 2).swapaxes(3, 4).reshape(B, H, T, D)

        return faulty

    patcher.wrap_table("rotate", wrap)


def _change_rotation(change: Function) -> Plant:
    def plant(patcher: Patcher) -> None:
        patcher.wrap_table("rotate", lambda rotate: lambda x, cos, sin: change(rotate, x, cos, sin))

    return plant


def _change_rope(change: Function) -> Plant:
    """Make rope's frequencies from change(rope)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            positions.rotary_frequencies,
            lambda original: lambda rope, *sizes: original(change(rope), *sizes),
        )

    return plant


def _change_angles(change: Function) -> Plant:
    """Change rope's tables of cosines and of sines to change(table)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            positions.rotary_table,
            lambda original: lambda *arguments: tuple(map(change, original(*arguments))),
        )

    return plant


def _compute_angles_in_float32(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(rope, size, length):
            frequencies, magnitude = positions.rotary_frequencies(rope, size, length)
            places = np.arange(length, dtype=np.float32)[:, None]
            angles = (places * frequencies.astype(np.float32)[None, :]).astype(np.float32)
            return magnitude * np.cos(angles, dtype=float), magnitude * np.sin(angles, dtype=float)

        return faulty

    patcher.wrap_function(positions.rotary_table, wrap)


def _skip_key_rotation(patcher: Patcher) -> None:
    turn = [0]

    def change(rotate, x, cos, sin):
        turn[0] += 1
        return rotate(x, cos, sin) if turn[0] % 2 else x

    _change_rotation(change)(patcher)


def _change_slopes(change: Function) -> Plant:
    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            positions.alibi_slopes, lambda original: lambda H: change(original, H)
        )

    return plant


def _ignore_slopes_factor(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, ctx):
            slopes, positions = original(self, ctx), self.spec.position_encoding
            factor = positions.scale if isinstance(positions, Alibi) else None
            return slopes if factor is None else slopes / factor

        return faulty

    patcher.wrap_method("model", "Attention", "get_slopes", wrap)


def _compute_plain_slopes(original, H):
    return 2.0 ** (-8.0 * (np.arange(H) + 1) / H)


def _change_scaling(change: Function) -> Plant:
    """Scale rope by change(scaling)."""
    return _change_rope(lambda rope: replace(rope, scaling=change(rope.scaling)))


def _choose_table_at_each_read(patcher: Patcher) -> None:
    """The keys read so far choose the table, not the cache's capacity: a cache then has both."""

    def wrap(original):
        def faulty(self, spec, T):
            if self.cache is None:
                return original(self, spec, T)
            capacity, self.cache.capacity = self.cache.capacity, self.cache.length + T
            try:
                return original(self, spec, T)
            finally:
                self.cache.capacity = capacity

        return faulty

    patcher.wrap_method("context", "Context", "angles", wrap)


def _use_one_table_length(patcher: Patcher) -> None:
    patcher.wrap_function(
        positions.choose_table_length,
        lambda original: lambda rope, length, max_seq_len: max_seq_len,
    )


def _make_fault(name: str, case: str, plant: Plant, law: str = "L1/logits") -> Fault:
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"

FAULTS = (
    _make_fault("rope interleaves its pairs", DEFAULT, _interleave_pairs),
    _make_fault("rope turns backwards", DEFAULT, _change_rotation(lambda r, x, c, s: r(x, c, -s))),
    _make_fault(
        "rope's base is 10,001", DEFAULT, _change_rope(lambda rope: replace(rope, theta=10_001.0))
    ),
    _make_fault("rope turns no keys", DEFAULT, _skip_key_rotation),
    _make_fault(
        "rope's tables are bfloat16",
        DEFAULT,
        _change_angles(lambda table: (table * 256).round() / 256),
    ),
    _make_fault(
        "rope's angles are float32", "edge.position 100,000/hot", _compute_angles_in_float32
    ),
    _make_fault(
        "rope's scaling is dropped",
        "attention.position_encoding=rope-linear/hot",
        _change_rope(lambda rope: replace(rope, scaling=None)),
    ),
    _make_fault(
        "llama3's high and low ends are plain linear",
        "attention.position_encoding=rope-llama3/hot",
        _change_rope(lambda rope: Rope(rope.theta / 8, rotary_dim=rope.rotary_dim)),
    ),
    _make_fault(
        "yarn's attention factor is left out",
        "attention.position_encoding=rope-yarn/hot",
        _change_angles(lambda table: table / (0.1 * np.log(4.0) + 1.0)),
    ),
    _make_fault(
        "yarn's given attention factor is ignored",
        "attention.position_encoding=rope-yarn-factor/hot",
        _change_scaling(lambda scaling: replace(scaling, attention_factor=None)),
    ),
    _make_fault(
        "yarn's ramp begins and ends at whole pairs",
        "attention.position_encoding=rope-yarn-smooth/hot",
        _change_scaling(lambda scaling: replace(scaling, truncate=True)),
    ),
    _make_fault(
        "longrope divides by the other list",
        "attention.position_encoding=rope-longrope/hot",
        _change_scaling(lambda scaling: replace(scaling, long_factor=scaling.short_factor)),
    ),
    _make_fault(
        "longrope multiplies by its factors",
        "attention.position_encoding=rope-longrope-short/hot",
        _change_scaling(
            lambda s: replace(s, short_factor=tuple(1 / factor for factor in s.short_factor))
        ),
    ),
    _make_fault(
        "longrope's attention factor is left out",
        "attention.position_encoding=rope-longrope/hot",
        _change_scaling(lambda scaling: replace(scaling, attention_factor=1.0)),
    ),
    _make_fault(
        "longrope chooses its list anew at each read",
        "attention.position_encoding=rope-longrope/hot",
        _choose_table_at_each_read,
        "L1/decoding",
    ),
    _make_fault(
        "dynamic scaling takes max_seq_len for the row's length",
        "attention.position_encoding=rope-dynamic/hot",
        _use_one_table_length,
    ),
    _make_fault(
        "dynamic scaling starts at the first token",
        "attention.position_encoding=rope-dynamic-short/hot",
        _change_scaling(lambda scaling: replace(scaling, original_max_seq_len=1)),
    ),
    _make_fault(
        "slopes of six heads as of eight",
        "attention.position_encoding=alibi/6/hot",
        _change_slopes(_compute_plain_slopes),
    ),
    _make_fault(
        "the factor of the slopes is left out",
        "attention.position_encoding=alibi-scaled/hot",
        _ignore_slopes_factor,
    ),
    _make_fault(
        "slopes in the wrong order",
        "attention.position_encoding=alibi/hot",
        _change_slopes(lambda original, H: original(H)[::-1].copy()),
    ),
)
