"""Moments rounded at random: the same on every backend, exact when repeated, right on average."""

import importlib

import numpy as np
import pytest

from hermes.numerics.moment_format import FORMATS, compute_rounding_keys, count_blocks
from hermes_numpy.moment_format import decode_moments, encode_moments, round_stochastically


def draw_numbers(slot, shape=(7, 600)):
    draw = np.random.default_rng(4)
    x = draw.normal(size=shape) * 10.0 ** draw.uniform(-12, 3, size=shape)
    x[0], x[1, :256] = 0, 1e-40
    x[2, 0] = 1.999 * 2.0**30  # the largest of its block, above every mantissa of 3 bits
    return (x if slot == "exp_avg" else x * x).astype(np.float32)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("slot", FORMATS)
def test_every_backend_has_the_oracles_codes(backend, slot):
    module, form, x = importlib.import_module(f"hermes_{backend}.moment_format"), FORMATS[slot], {}
    own = draw_numbers(slot)
    key = int(compute_rounding_keys(3, 9, [(slot, "a")])[0])
    if backend == "torch":
        import torch

        x = torch.from_numpy(own)
        codes, exponents = module.encode_moments(x, form, key)
        rows = module.encode_moments(x[3:], form, key, 3 * x.shape[1])
        assert torch.equal(rows[0], codes[3:])
    else:
        import mlx.core as mx

        x = mx.array(own)
        codes, exponents = module.encode_moments(x, form, mx.array(key, mx.uint32))
    expected = encode_moments(own, form, key)
    np.testing.assert_array_equal(np.asarray(codes), expected[0])
    np.testing.assert_array_equal(np.asarray(exponents), expected[1])
    numbers = np.asarray(module.decode_moments(codes, exponents, form))
    np.testing.assert_array_equal(numbers, decode_moments(*expected, form))


@pytest.mark.parametrize("slot", FORMATS)
def test_numbers_are_kept_to_a_unit_exactly_when_repeated_and_on_average(slot):
    form, x = FORMATS[slot], draw_numbers(slot)
    codes, exponents = encode_moments(x, form, 5)
    assert exponents.shape == (7, count_blocks(600))
    y = decode_moments(codes, exponents, form)
    for key in (1, 2):  # whatever the key is
        np.testing.assert_array_equal(decode_moments(*encode_moments(y, form, key), form), y)
    scale = np.repeat(np.exp2(exponents - 127.0), 256, 1)[:, :600]
    unit = np.maximum(
        np.exp2(np.floor(np.log2(np.abs(x, dtype=np.float64) + 1e-300)) - 3), form.unit * scale
    )
    assert np.all(np.abs(y - x.astype(np.float64)) <= unit)
    assert np.all(np.sign(y[y != 0]) == np.sign(x[y != 0]))
    if form.never_zero:
        assert np.all((y > 0) == (x > 0))
    means = np.mean(
        [decode_moments(*encode_moments(x, form, 77 * k), form) for k in range(1, 401)],
        axis=0, dtype=np.float64,
    )  # fmt: skip
    large = np.abs(x) > form.unit * scale
    off = ((means - x) / unit)[large]
    assert abs(off.mean()) < 0.002
    assert np.abs(off).max() < 0.15  # six deviations of 400 draws


def test_keys_differ_by_seed_step_slot_and_name():
    pairs = [("exp_avg", "a"), ("exp_avg", "b"), ("exp_avg_sq", "a")]
    keys = [compute_rounding_keys(seed, step, pairs) for seed in (0, 1) for step in (1, 2)]
    assert len(set(np.concatenate(keys).tolist())) == 12


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_backend_rounds_to_bfloat16_as_the_oracle_does(backend):
    module, own = (
        importlib.import_module(f"hermes_{backend}.moment_format"),
        draw_numbers("exp_avg"),
    )
    key = int(compute_rounding_keys(3, 9, [("exp_avg", "a")])[0])
    expected = round_stochastically(own, key)
    if backend == "torch":
        import torch

        x = torch.from_numpy(own)
        found = module.round_stochastically(x, key).double().numpy()
        rows = module.round_stochastically(x[3:], key, 3 * x.shape[1]).double().numpy()
        np.testing.assert_array_equal(rows, expected[3:])
    else:
        import mlx.core as mx

        rounded = module.round_stochastically(mx.array(own), mx.array(key, mx.uint32))
        found = np.asarray(rounded.astype(mx.float32))
    np.testing.assert_array_equal(found, expected)


def test_random_rounding_takes_a_neighbour_keeps_what_is_short_and_is_right_on_average():
    x = draw_numbers("exp_avg").astype(np.float64)
    once = round_stochastically(x, 5)
    unit = np.exp2(np.frexp(x)[1] - 8.0)
    assert np.all(np.abs(once - x) < np.maximum(unit, 2.0**-133))
    for key in (1, 2):
        np.testing.assert_array_equal(round_stochastically(once, key), once)
    means = np.mean([round_stochastically(x, 77 * k) for k in range(1, 401)], axis=0)
    off = ((means - x) / unit)[np.abs(x) > 1e-30]
    assert abs(off.mean()) < 0.002
    assert np.abs(off).max() < 0.15
