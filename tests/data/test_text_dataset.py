"""Tokens, their order and batches: bounded, complete, and the same however an update is split."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from hermes.data import (
    Cursor,
    TextDataset,
    TokenStream,
    count_run_samples,
    read_documents,
    split_windows,
    tokenize,
)
from hermes.data.document_reader import Document
from hermes.data.order import order_samples
from hermes.errors import DataError, HermesError, StorageError
from hermes.interface import IGNORE
from hermes.tokenizer import train_tokenizer
from hermes.tokenizer.bytelevel import PIECE, split_text

TEXT = "the cat sat on the mat.\n\nThe dog didn't; 3 naïve dogs did!\n" * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], vocab_size=300)


def corpus(*texts):
    return [Document(text, "a.jsonl", line) for line, text in enumerate(texts, 1)]


def stream_of(count):
    return TokenStream.from_ids(range(count))


def test_an_end_of_text_follows_each_document(tokenizer):
    with tokenize(corpus("the cat", "a dog"), tokenizer) as stream:
        expected = [*tokenizer.encode("the cat"), 1, *tokenizer.encode("a dog"), 1]
        assert stream.tokens.tolist() == expected
        assert (stream.documents, stream.text_bytes, len(stream)) == (2, 12, len(expected))
        assert stream.largest == max(expected)


def test_the_name_of_a_special_token_in_a_document_does_not_end_it(tokenizer):
    with tokenize(corpus("the <|eos|> cat"), tokenizer) as stream:
        assert stream.tokens.tolist().count(1) == 1


SEAMS = "a b  c\n\n  d.\ne\n/f\n g\t h 1 2 'll 've\r\ni - 日本 語\n\nk ?! x\n...\n\u00a0l \u0301m "


@pytest.mark.parametrize("preset", ["gpt-2", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("size", [20, 33, 50])
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole(preset, size):
    text = (SEAMS + TEXT) * 10
    tokenizer = train_tokenizer([text], vocab_size=330, preset=preset)
    parts = [Document(piece, "a.txt", 1, more=True) for piece in split_text([text], size)]
    with tokenize([*parts, Document(" end", "a.txt", 9)], tokenizer) as stream:
        assert stream.tokens.tolist() == [*tokenizer.encode(text + " end"), 1]


def test_a_long_file_is_one_document(tmp_path, tokenizer):
    text = TEXT * (3 * PIECE // len(TEXT))
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    assert len(list(read_documents(path))) > 1
    with tokenize(read_documents(path), tokenizer) as stream:
        assert (stream.documents, stream.text_bytes) == (1, len(text.encode()))
        assert np.flatnonzero(stream.tokens == 1).tolist() == [len(stream) - 1]


def test_the_fingerprint_is_of_ids_and_tokenizer(tokenizer):
    other = train_tokenizer([TEXT], vocab_size=300, preset="qwen2")
    same = [tokenize(corpus("a", "b"), tokenizer).fingerprint for _ in range(2)]
    differ = {
        tokenize(corpus("a", "c"), tokenizer).fingerprint,
        tokenize(corpus("ab"), tokenizer).fingerprint,
        tokenize(corpus("a", "b"), other).fingerprint,
    }
    assert same[0] == same[1]
    assert len(differ - set(same)) == 3


def test_ids_beyond_two_bytes_are_kept(tokenizer):
    class Wide:
        vocab_size, eos_id, fingerprint = 100_000, 99_999, "w"

        def encode_batch(self, texts):
            return [[70_000] for _ in texts]

    with tokenize(corpus("a"), Wide()) as stream:
        assert stream.tokens.tolist() == [70_000, 99_999]


def test_the_temporary_file_goes_with_the_stream(tokenizer, tmp_path):
    stream = tokenize(corpus("the cat"), tokenizer, directory=tmp_path)
    assert stream.folder.parent == tmp_path
    stream.close()
    assert list(tmp_path.iterdir()) == []
    stream = tokenize(corpus("the cat"), tokenizer, directory=tmp_path)
    del stream
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_no_file(tokenizer, tmp_path):
    def failing():
        yield from corpus("the cat")
        raise DataError("a.txt:2: broken")

    with pytest.raises(DataError, match=r"^a.txt:2: broken$"):
        tokenize(failing(), tokenizer, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_text_and_no_folder_are_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"^there is no text to tokenize"):
        tokenize([], tokenizer)
    with pytest.raises(StorageError, match=r"^cannot write tokens to .*none: No such file"):
        tokenize(corpus("a"), tokenizer, directory=tmp_path / "none")


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hermes.data.token_stream._write", full)
    with pytest.raises(StorageError, match=r"^cannot write tokens to .*: No space left on device$"):
        tokenize(corpus("a"), tokenizer, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_ends_no_text_is_refused():
    endless = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<unk>"])
    with pytest.raises(DataError, match=r"^the tokenizer has no token that ends a text"):
        tokenize(corpus("a"), endless)


def test_another_process_opens_the_same_stream(tokenizer):
    with tokenize(corpus("the cat"), tokenizer) as stream:
        again = TokenStream.open(stream.folder)
        assert again.tokens.tolist() == stream.tokens.tolist()
        assert again.fingerprint == stream.fingerprint
        del again
        assert stream.folder.exists()


def test_a_torn_stream_is_refused(tokenizer, tmp_path):
    with tokenize(corpus("the cat"), tokenizer, directory=tmp_path) as stream:
        file = stream.folder / "tokens.bin"
        whole = file.read_bytes()
        file.write_bytes(whole[:-2])
        with pytest.raises(
            DataError, match=r"tokens where .* were written; tokenize the text again$"
        ):
            TokenStream.open(stream.folder)
        file.write_bytes(whole[:-1])
        with pytest.raises(DataError, match=r"not a folder of tokens"):
            TokenStream.open(stream.folder)
    with pytest.raises(StorageError, match=r"^cannot read tokens in .*: No such file"):
        TokenStream.open(tmp_path)


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


def test_the_order_is_pinned():
    """A change here changes what every resumed run sees next: it must not happen."""
    assert order_samples(7, Cursor(1, 2), 6, 10).tolist() == [4, 3, 1, 8, 5, 9]


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
        with pytest.raises(DataError, match=f"^{samples} samples do not fit an update of 4 rows$"):
            data.draw_batch(Cursor(), samples=samples, micro_batch=2, accum=2)


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
        assert data.count_validation_bytes(tokenizer.byte_lengths) == expected > 0


def test_nothing_is_held_out_unless_asked():
    data = TextDataset(stream_of(101), seq_len=10, vocab_size=101)
    assert list(data.iterate_validation(4)) == []
    assert (len(data.train), len(data.held_out)) == (10, 0)


def test_a_fraction_holds_out_at_least_one_sample_and_leaves_one():
    assert split_windows(101, 0.001, 10) == (range(9), range(9, 10))
    assert split_windows(21, 0.99, 10) == (range(1), range(1, 2))
    assert split_windows(1001, 0.25, 10) == (range(75), range(75, 100))


@pytest.mark.parametrize(
    ("tokens", "fraction", "expected"),
    [
        (
            10,
            0.0,
            "the text has 10 tokens; 1 sequence of 10 needs 11: give more text or a shorter "
            "--seq-len",
        ),
        (
            20,
            0.1,
            "the text has 20 tokens; 2 sequences of 10 need 21 (one to train on, one to hold out): "
            "give more text or a shorter --seq-len",
        ),
    ],
)
def test_too_small_a_text_is_refused_with_both_numbers(tokens, fraction, expected):
    with pytest.raises(DataError) as error:
        TextDataset(stream_of(tokens), seq_len=10, vocab_size=100, val_fraction=fraction)
    assert str(error.value) == expected
    TextDataset(stream_of(tokens + 1), seq_len=10, vocab_size=100, val_fraction=fraction)


def test_an_id_that_the_model_has_no_row_for_is_refused():
    with pytest.raises(HermesError, match=r"^the data has token id 100, outside the model's voc"):
        TextDataset(stream_of(101), seq_len=10, vocab_size=100)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(1, 0, 100), (2.5, 0, 250), (0.001, 0, 1), (1, 3, 24), (1, 1000, 8000)],
)
def test_how_many_samples_a_run_takes(epochs, max_steps, expected):
    taken = count_run_samples(100, epochs=epochs, max_steps=max_steps, per_update=8)
    assert taken == expected
    assert math.ceil(taken / 8) >= 1


def test_a_cursor_can_be_written_down():
    assert Cursor(**json.loads(json.dumps(asdict(Cursor(2, 3))))) == Cursor(2, 3)
    assert Cursor(2, 3).count_samples(10) == 23
