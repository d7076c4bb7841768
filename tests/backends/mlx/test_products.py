"""Products in bfloat16 by way of float32: the same but for the order of sums, where it holds."""

import numpy as np
import pytest

from hermes.interface import Options, find_backend
from hermes.numerics.params import init_weights
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec
from hermes_mlx import FAST_BLAS
from hermes_mlx.products import project, suit_borrowed_blas

mx = pytest.importorskip("mlx.core")
SPEC = ModelSpec(
    (BlockSpec(AttentionSpec(4), FfnSpec(hidden_dim=96)),), "little", "", 100, 32, 64, 2,
    EmbeddingsSpec(tie_weights=True),
)  # fmt: skip


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_a_product_by_float32_is_the_exact_one_rounded_once(rows):
    random = np.random.default_rng(rows)
    with mx.stream(mx.cpu):
        x = mx.array(random.normal(size=(2, rows, 64))).astype(mx.bfloat16)
        w = mx.array(random.normal(size=(96, 64))).astype(mx.bfloat16)
        with suit_borrowed_blas(True):
            found = project(x, w)
        assert found.dtype == mx.bfloat16
        exact = (
            np.array(x.astype(mx.float32), np.float64)
            @ np.array(w.astype(mx.float32), np.float64).T
        )
        error = np.abs(np.array(found.astype(mx.float32)) - exact)
        # Half a unit of bfloat16's last place, and what float32 may add by rounding its sums.
        assert (error <= np.abs(exact) * 2**-8 + 1e-4).all()
        other = project(x, w)  # outside of it, MLX's own
        assert (np.abs(np.array((found - other).astype(mx.float32))) <= np.abs(exact) / 100).all()


def count_left_products(rows, **options):
    """How many products of a step have the matrix on the left, and the step's logits by row."""
    weights = init_weights(SPEC, 0)
    model = find_backend("mlx").build(SPEC, weights, Options(device="cpu", **options))
    decoder = model.row_decoder(rows, 8)
    ids = np.random.default_rng(0).integers(0, 100, (rows, 3)).astype(np.int32)
    for row in range(rows):
        decoder.open_row(row, 8)
    decoder.advance(list(range(rows)), ids[:, :2], [2] * rows)
    seen, plain = [], mx.array.__matmul__

    def multiply(a, b):
        seen.append(b.shape[-1] == rows and a.ndim == 2)
        return plain(a, b)

    mx.array.__matmul__ = multiply
    try:
        logits = decoder.advance(list(range(rows)), ids[:, 2:], [1] * rows)
    finally:
        mx.array.__matmul__ = plain
    return sum(seen), logits, model.logits(ids)[:, -1]


@pytest.mark.skipif(not FAST_BLAS, reason="no BLAS is borrowed here")
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 48])
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_whole_tiles_of_rows_have_the_matrix_on_the_left_and_the_same_logits(
    rows, precision, error
):
    found, logits, whole = count_left_products(rows, precision=precision)
    # q k v, o, gate and up, down of two layers, and the head.
    assert found == (2 * 4 + 1 if rows in (16, 48) else 0)
    assert np.abs(logits - whole).max() <= error * np.sqrt(np.mean(whole**2))
    assert count_left_products(rows, precision=precision, as_trained=True)[0] == 0


def count_conversions(**options):
    """How many products of a pass are of float32 in a bfloat16 model."""
    weights = init_weights(SPEC, 0)
    model = find_backend("mlx").build(SPEC, weights, Options(precision="bfloat16", **options))
    seen, plain = [], mx.array.__matmul__

    def multiply(a, b):
        seen.append(a.dtype)
        return plain(a, b)

    mx.array.__matmul__ = multiply
    try:
        model.logits(np.array([[1, 2, 3]]))
    finally:
        mx.array.__matmul__ = plain
    return sum(one == mx.float32 for one in seen), len(seen)


@pytest.mark.skipif(not FAST_BLAS, reason="no BLAS is borrowed here")
def test_every_projection_of_a_model_that_only_runs_goes_by_float32():
    by_float32, _ = count_conversions(device="cpu")
    # q k v, o, gate and up, down of two layers, and the head.
    assert by_float32 >= 2 * 4 + 1
    assert count_conversions(device="cpu", as_trained=True)[0] <= by_float32 - (2 * 4 + 1)


def test_the_way_ends_with_its_context_also_by_an_error():
    x = mx.ones((1, 4), mx.bfloat16)
    with pytest.raises(ZeroDivisionError), suit_borrowed_blas(True):
        raise ZeroDivisionError
    assert project(x, x).dtype == mx.bfloat16
    from hermes_mlx.products import _WAY

    assert not _WAY.is_borrowed
