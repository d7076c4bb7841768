"""Text datasets: every target once an epoch, and the same however a step is split."""

import numpy as np
import pytest

import hermes
from hermes.data import (
    Cursor,
    TextDataset,
    TokenStream,
    dataset,
    tokenize,
)
from hermes.data.dataset import UpdateLayout, count_target_bytes
from hermes.data.order import order_samples
from hermes.errors import DataError, HermesError
from hermes.interface import IGNORE
from tests.data.recorded import LITTLE
from tests.data.support import TEXT, corpus, stream_of


def test_every_token_but_the_first_is_a_target_once_an_epoch():
    data = TextDataset(stream_of(101), seq_len=10, vocab_size=101)
    batch, cursor = data.draw_batch(Cursor(), samples=10, micro_batch=10, accum=1)
    assert sorted(batch.targets.ravel().tolist()) == list(range(1, 101))
    assert cursor == Cursor(1, 0)


def test_targets_are_the_tokens_that_follow():
    data = TextDataset(stream_of(101), seq_len=10, vocab_size=101)
    batch, _ = data.draw_batch(Cursor(), samples=4, micro_batch=2, accum=2)
    assert batch.tokens.shape == batch.targets.shape == (2, 2, 10)
    assert (batch.tokens.dtype, batch.targets.dtype) == (np.int32, np.int32)
    assert batch.rows.dtype == np.uint32
    np.testing.assert_array_equal(batch.targets, batch.tokens + 1)
    assert (batch.tokens[..., 0] % 10 == 0).all()


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own():
    orders = [order_samples(0, Cursor(epoch), 57, 57).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(57)) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_an_update_runs_on_over_the_end_of_an_epoch():
    joined = order_samples(3, Cursor(0, 5), 9, 7).tolist()
    parts = [(Cursor(0, 5), 2), (Cursor(1, 0), 7)]
    assert joined == [n for at, count in parts for n in order_samples(3, at, count, 7).tolist()]
    assert Cursor(0, 5).advance(9, 7) == Cursor(2, 0)


def test_more_epochs_than_one_fit_in_an_update():
    assert sorted(order_samples(0, Cursor(), 9, 3).tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


SPLITS = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8), (1, 2, 4), (4, 1, 2)]


def rows_of(data, cursor, samples, micro_batch, accum, world_size):
    """Each row's tokens and targets by its number, over all processes."""
    found, after = {}, set()
    for rank in range(world_size):
        batch, then = data.draw_batch(
            cursor,
            samples=samples,
            micro_batch=micro_batch,
            accum=accum,
            rank=rank,
            world_size=world_size,
        )
        after.add(then)
        for a in range(accum):
            for b in range(micro_batch):
                row = int(batch.rows[a, b])
                assert row not in found
                found[row] = (batch.tokens[a, b].tolist(), batch.targets[a, b].tolist())
    return found, after


@pytest.mark.parametrize("samples", [8, 5, 1])
@pytest.mark.parametrize("at", [Cursor(), Cursor(0, 13), Cursor(2, 1)])
@pytest.mark.parametrize("how", SPLITS)
def test_an_update_has_the_same_rows_however_it_is_split(how, at, samples):
    data = TextDataset(stream_of(200), seq_len=12, vocab_size=200, seed=4)
    assert rows_of(data, at, samples, *how) == rows_of(data, at, samples, *SPLITS[0])


def test_a_run_stopped_anywhere_goes_on_with_the_next_sample():
    """Stopped and resumed twice, with other batch sizes, it sees what an unbroken run sees."""

    def seen(*updates):
        data = TextDataset(stream_of(100), seq_len=5, vocab_size=100, seed=9)
        cursor, tokens = Cursor(), []
        for samples in updates:
            batch, cursor = data.draw_batch(cursor, samples=samples, micro_batch=samples, accum=1)
            tokens += batch.tokens[0].tolist()
        return tokens, cursor

    assert seen(6, 6, 6, 6, 6) == seen(6, 10, 2, 1, 11)


def test_a_short_last_update_keeps_its_shape_and_counts_only_real_samples():
    data = TextDataset(stream_of(101), seq_len=10, vocab_size=101)
    batch, cursor = data.draw_batch(Cursor(0, 8), samples=2, micro_batch=2, accum=2)
    assert batch.tokens.shape == (2, 2, 10)
    assert batch.num_terms == 20
    assert (batch.targets[1] == IGNORE).all()
    assert ((batch.tokens >= 0) & (batch.tokens < 101)).all()
    assert cursor == Cursor(1, 0)


def test_an_update_of_impossible_size_is_refused():
    data = TextDataset(stream_of(101), seq_len=10, vocab_size=101)
    for samples in (0, 5):
        with pytest.raises(DataError, match=f"^{samples} samples do not fit a step of 4 rows$"):
            data.draw_batch(Cursor(), samples=samples, micro_batch=2, accum=2)


def test_no_layout_of_a_step_leaves_out_samples():
    """Examples and pairs are laid out by it, too."""
    for samples in (0, 9):
        with pytest.raises(DataError, match=f"^{samples} samples do not fit a step of 8 rows$"):
            UpdateLayout.build(samples, 2, 2, 0, 2)


def test_the_cursor_of_other_data_is_refused():
    with pytest.raises(DataError, match=r"^sample 10 of epoch 0 is not in data of 10 samples"):
        order_samples(0, Cursor(0, 10), 1, 10)


def test_the_seed_decides_the_order():
    orders = {tuple(order_samples(seed, Cursor(), 20, 20).tolist()) for seed in range(3)}
    assert len(orders) == 3


def test_the_last_part_of_the_text_is_held_out_and_never_trained_on():
    data = TextDataset(stream_of(1001), seq_len=10, vocab_size=1001, val_fraction=0.1)
    batch, _ = data.draw_batch(Cursor(), samples=90, micro_batch=90, accum=1)
    held_out = [b for b in data.iterate_validation(4)]
    targets = np.concatenate([b.targets.ravel() for b in held_out])
    assert sorted(batch.targets.ravel().tolist()) == list(range(1, 901))
    assert targets[targets != IGNORE].tolist() == list(range(901, 1001))
    assert [b.tokens.shape for b in held_out] == [(1, 4, 10)] * 3


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_is_the_same_over_any_number_of_processes(world_size):
    data = TextDataset(stream_of(1001), seq_len=10, vocab_size=1001, val_fraction=0.1)
    shares = [
        list(data.iterate_validation(3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    targets = sorted(t for share in shares for b in share for t in b.targets.ravel().tolist())
    assert [t for t in targets if t != IGNORE] == list(range(901, 1001))


def test_validation_bytes_are_those_of_the_held_out_targets(tokenizer):
    with tokenize(corpus(TEXT), tokenizer) as stream:
        data = TextDataset(stream, seq_len=8, vocab_size=300, val_fraction=0.3)
        targets = [
            t for b in data.iterate_validation(5) for t in b.targets.ravel().tolist() if t >= 0
        ]
        expected = sum(len(tokenizer.get_token_bytes(t)) for t in targets if t != 1)
        assert data.count_validation_bytes(tokenizer.count_bytes) == expected > 0


@pytest.mark.parametrize("mask_id", [None, 1])
def test_bytes_are_counted_a_stretch_at_a_time(tokenizer, monkeypatch, mask_id):
    with tokenize(corpus(TEXT), tokenizer) as stream:
        count, size = tokenizer.count_bytes, len(stream)
        whole = count_target_bytes(stream, 3, size, count, mask_id)
        read, sizes = TokenStream.read, []

        def observe(self, start, stop):
            sizes.append(stop - start)
            return read(self, start, stop)

        monkeypatch.setattr(TokenStream, "read", observe)
        for most in (1, 7, 100):
            monkeypatch.setattr(dataset, "COUNTED", most)
            assert count_target_bytes(stream, 3, size, count, mask_id) == whole > 0
            assert max(sizes) == min(most + 1, size - 3)
            sizes.clear()
        assert count_target_bytes(stream, 5, 6, count) == 0


def test_an_evaluation_holds_a_batch_of_the_text_and_not_the_whole(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the cat sat on the mat and then it ran off to see\n" * 100)
    tokenizer = hermes.train_tokenizer(tmp_path / "a.txt", vocab_size=270)
    given = {"seq_len": 16, "batch_size": 4, "backend": "torch", "device": "cpu"}
    hermes.train(LITTLE, tmp_path / "a.txt", tokenizer=tokenizer, output=tmp_path / "run",
                 max_steps=1, **given)  # fmt: skip
    whole = hermes.evaluate(tmp_path / "run", tmp_path / "a.txt", **given)
    assert whole.tokens > 1000
    read, sizes = TokenStream.read, []

    def observe(self, start, stop):
        sizes.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(TokenStream, "read", observe)
    monkeypatch.setattr(dataset, "COUNTED", 50)
    assert hermes.evaluate(tmp_path / "run", tmp_path / "a.txt", **given) == whole
    assert max(sizes) == 4 * 16 + 1


def test_nothing_is_held_out_unless_asked():
    data = TextDataset(stream_of(101), seq_len=10, vocab_size=101)
    assert list(data.iterate_validation(4)) == []
    assert (len(data.train), len(data.held_out)) == (10, 0)


def test_an_id_that_the_model_has_no_row_for_is_refused():
    with pytest.raises(HermesError, match=r"^the data has token id 100, outside the model's voc"):
        TextDataset(stream_of(101), seq_len=10, vocab_size=100)
