"""Faults of the forward pass: positions, by rope and by ALiBi."""

from dataclasses import replace

import numpy as np

from hermes.numerics import positions
from hermes.spec import Rope
from hermes_conformance.faults.fault import Fault, Inside


def _interleaved(inside: Inside) -> None:
    def make(rotate):
        def wrong(x, cos, sin):
            B, H, T, D = x.shape
            half = x.reshape(B, H, T, D // 2, 2).swapaxes(3, 4).reshape(B, H, T, D)
            turned = rotate(half, cos, sin)
            return turned.reshape(B, H, T, 2, D // 2).swapaxes(3, 4).reshape(B, H, T, D)

        return wrong

    inside.table("rotate", make)


def _rotate(change):
    def plant(inside: Inside) -> None:
        inside.table("rotate", lambda rotate: lambda x, cos, sin: change(rotate, x, cos, sin))

    return plant


def _rope(change):
    """change(rope) in the place of the rope that tables are made of."""

    def plant(inside: Inside) -> None:
        inside.function(
            positions.rotary_frequencies,
            lambda original: lambda rope, size: original(change(rope), size),
        )

    return plant


def _angles(change):
    """change(cosines and sines) in the place of the tables."""

    def plant(inside: Inside) -> None:
        inside.function(
            positions.rotary_table,
            lambda original: lambda *arguments: tuple(map(change, original(*arguments))),
        )

    return plant


def _angles_in_float32(inside: Inside) -> None:
    def make(original):
        def wrong(rope, size, length):
            frequencies, magnitude = positions.rotary_frequencies(rope, size)
            places = np.arange(length, dtype=np.float32)[:, None]
            angles = (places * frequencies.astype(np.float32)[None, :]).astype(np.float32)
            return magnitude * np.cos(angles, dtype=float), magnitude * np.sin(angles, dtype=float)

        return wrong

    inside.function(positions.rotary_table, make)


def _keys_not_turned(inside: Inside) -> None:
    turn = [0]

    def change(rotate, x, cos, sin):
        turn[0] += 1
        return rotate(x, cos, sin) if turn[0] % 2 else x

    _rotate(change)(inside)


def _slopes(change):
    def plant(inside: Inside) -> None:
        inside.function(positions.alibi_slopes, lambda original: lambda H: change(original, H))

    return plant


def _plain_slopes(original, H):
    return 2.0 ** (-8.0 * (np.arange(H) + 1) / H)


def _field(name, case, plant, law="L1/logits"):
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"

FAULTS = (
    _field("rope interleaves its pairs", DEFAULT, _interleaved),
    _field("rope turns backwards", DEFAULT, _rotate(lambda r, x, c, s: r(x, c, -s))),
    _field("rope's base is 10,001", DEFAULT, _rope(lambda rope: replace(rope, theta=10_001.0))),
    _field("rope turns no keys", DEFAULT, _keys_not_turned),
    _field(
        "rope's tables are bfloat16",
        DEFAULT,
        _angles(lambda table: (table * 256).round() / 256),
    ),
    _field("rope's angles are float32", "edge.position 100,000/hot", _angles_in_float32),
    _field(
        "rope's scaling is dropped",
        "attention.position_encoding=rope-linear/hot",
        _rope(lambda rope: replace(rope, scaling=None)),
    ),
    _field(
        "llama3's high and low ends are plain linear",
        "attention.position_encoding=rope-llama3/hot",
        _rope(lambda rope: Rope(rope.theta / 8, rotary_dim=rope.rotary_dim)),
    ),
    _field(
        "yarn's attention factor is left out",
        "attention.position_encoding=rope-yarn/hot",
        _angles(lambda table: table / (0.1 * np.log(4.0) + 1.0)),
    ),
    _field(
        "slopes of six heads as of eight",
        "attention.position_encoding=alibi/6/hot",
        _slopes(_plain_slopes),
    ),
    _field(
        "slopes in the wrong order",
        "attention.position_encoding=alibi/hot",
        _slopes(lambda original, H: original(H)[::-1].copy()),
    ),
)
