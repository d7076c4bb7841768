"""Examples in rows: packed or padded, the loss is that of each alone."""

import numpy as np
import pytest

from hermes.chat_templates.example import Example
from hermes.data import Cursor
from hermes.data.example_dataset import ExampleDataset, fit_examples, split_examples
from hermes.data.example_rows import pack_rows, round_width
from hermes.errors import DataError
from hermes.interface import IGNORE, Batch, Options, find_backend
from hermes.numerics.params import init_weights
from tests.finetuning.support import (
    small_spec,
)

BACKENDS = ["torch", "mlx"]


def example(length, number=0, learnt=None):
    ids = (np.arange(length) * 7 + 11 * number) % 290
    flags = np.arange(length) >= (length // 2 if learnt is None else learnt)
    flags[0] = False
    return Example(ids.astype(np.int32), flags, f"f:{number}")


def examples(count=9):
    return [example(3 + 5 * (i % 4), i) for i in range(count)]


def data(some=None, **settings):
    some = examples() if some is None else some
    return ExampleDataset(some, **{"seq_len": 24, "vocab_size": 300, **settings})


def whole_update(made, micro_batch=8):
    rows = len(made.train)
    return made.draw_batch(Cursor(), samples=rows, micro_batch=rows, accum=1)[0]


def test_rows_are_filled_by_best_fit_and_hold_every_example_once():
    assert pack_rows([5, 3, 8, 2, 2], 10) == [[2, 4], [0, 1, 3]]
    lengths = [1 + (13 * i) % 17 for i in range(100)]
    rows = pack_rows(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(100))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 20
    assert len(rows) <= 1.05 * sum(lengths) / 20 + 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_packed_losses_are_those_of_the_examples_alone(backend, precision):
    """Attention and positions stay inside each example, and no last token predicts a first."""
    spec = small_spec()
    model = find_backend(backend).build(
        spec, init_weights(spec, 0), Options(device="cpu", precision=precision)
    )
    one_by_one = sum(
        model.loss(batch) * batch.num_terms
        for some in examples()
        for batch in [whole_update(data([some], pack=False))]
    )
    for pack in (True, False):
        batch = whole_update(data(pack=pack))
        assert batch.num_terms == sum(int(some.loss_mask.sum()) for some in examples())
        bound = 1e-6 if precision == "float32" else 1e-12
        assert model.loss(batch) * batch.num_terms == pytest.approx(one_by_one, rel=bound)
    mixed = whole_update(data())
    leaking = Batch(mixed.tokens, mixed.targets, mixed.rows)
    assert abs(model.loss(leaking) * leaking.num_terms - one_by_one) > 1e-4 * one_by_one


def test_no_token_of_one_example_predicts_anothers():
    batch = whole_update(data())
    for tokens, targets, segments in zip(
        batch.tokens[0], batch.targets[0], batch.segments[0], strict=True
    ):
        for place in np.flatnonzero(targets != IGNORE):
            after = place + 1
            inside = after < len(tokens) and segments[after] == segments[place]
            assert segments[place] > 0
            assert not inside or tokens[after] == targets[place]


def test_the_order_is_a_function_of_the_seed_and_of_no_split():
    made = data(seed=3)
    samples = len(made.train)
    whole, after = made.draw_batch(Cursor(), samples=samples, micro_batch=samples, accum=1)
    parts, _ = made.draw_batch(Cursor(), samples=samples, micro_batch=1, accum=samples)
    np.testing.assert_array_equal(whole.tokens[0], parts.tokens[:, 0])
    assert after == Cursor(1, 0)
    other = data(seed=4).draw_batch(Cursor(), samples=samples, micro_batch=samples, accum=1)[0]
    assert not np.array_equal(other.tokens, whole.tokens)


def test_what_is_held_out_is_in_no_update():
    made = data(val_fraction=0.3)
    training = whole_update(made)
    out = next(made.iterate_validation(len(made.held_out)))
    assert training.num_terms + out.num_terms == sum(int(e.loss_mask.sum()) for e in examples())
    assert split_examples(10, 0.3, 1) == split_examples(10, 0.3, 1)
    assert len(split_examples(10, 0.3, 1)[1]) == 3


def test_a_padded_batch_is_no_wider_than_one_of_four_widths():
    assert [round_width(n, 512) for n in (1, 128, 129, 500)] == [128, 128, 256, 512]
    assert round_width(3, 10) == 10
    assert whole_update(data([example(5)], pack=False, seq_len=128)).tokens.shape[-1] == 32


def test_a_place_without_an_example_counts_for_nothing():
    batch, _ = data([example(5)]).draw_batch(Cursor(), samples=1, micro_batch=3, accum=2)
    assert batch.tokens.shape == (2, 3, 24)
    assert batch.num_terms == int(example(5).loss_mask.sum())


def test_a_conversation_that_does_not_fit_is_refused_dropped_or_cut():
    some = [example(30, 1), example(9, 2)]
    with pytest.raises(DataError) as refused:
        fit_examples(some, 24)
    assert str(refused.value) == (
        "f:1: 30 tokens, more than --seq-len 24 has room for; choose a longer one, or --overlong "
        "drop or truncate"
    )
    dropped = fit_examples(some, 24, "drop")
    assert ([len(e) for e in dropped.examples], dropped.dropped, dropped.cut) == ([9], 1, 0)
    cut = fit_examples(some, 24, "truncate")
    assert ([len(e) for e in cut.examples], cut.dropped, cut.cut) == ([25, 9], 0, 1)
    with pytest.raises(DataError, match="no example is left: all 1 are longer than --seq-len 24"):
        fit_examples(some[:1], 24, "drop")
    with pytest.raises(DataError, match="overlong is 'cut'; it must be one of error, drop, trunc"):
        fit_examples(some, 24, "cut")


def test_a_token_that_the_model_has_no_row_for_is_refused():
    with pytest.raises(DataError) as refused:
        data([example(9, 2)], vocab_size=50)
    assert str(refused.value) == (
        "f:2: token id 78 is outside the model's vocabulary of 50; use the tokenizer that belongs "
        "to the model"
    )
