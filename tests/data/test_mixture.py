"""Mixtures: right shares, every sample once, and a function of the seed and the position alone."""

import numpy as np
import pytest

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.mixture import (
    BLOCK,
    MixtureDataset,
    WeightedSource,
    choose_sources,
    find_numbers,
    find_positions,
    parse_mixture,
    strip_weights,
)
from hermes.errors import DataError

SHARES = (0.7, 0.299, 0.001)


def test_names_with_weights_are_a_mixture(tmp_path):
    assert parse_mixture(["web:7", "code:3"]) == (
        WeightedSource("web", 0.7),
        WeightedSource("code", 0.3),
    )
    assert parse_mixture(["hf://datasets/o/n:train:.5", "C:1.5"])[0] == WeightedSource(
        "hf://datasets/o/n:train", 0.25
    )
    assert parse_mixture(["web", "hf://datasets/o/n:train"]) == ()
    assert strip_weights(["web:7", "code:3"]) == ("web", "code")
    assert strip_weights(["web", "code"]) == ("web", "code")
    (tmp_path / "a:1").write_text("a")
    assert parse_mixture([f"{tmp_path}/a:1"]) == ()


def test_weights_of_some_sources_and_too_small_ones_are_refused():
    with pytest.raises(DataError, match=r"^--data code has no weight and others have; give each"):
        parse_mixture(["web:0.7", "code"])
    with pytest.raises(
        DataError, match=r"^--data code has 0 of all weights; give it at least 0.001"
    ):
        parse_mixture(["web:0.7", "code:0"])
    with pytest.raises(DataError, match=r"^--data web has 0 of all weights"):
        parse_mixture(["web:0", "code:0"])


def test_shares_are_right_at_every_block_and_every_sample_comes_once():
    positions = np.arange(20 * BLOCK)
    source, number = choose_sources(3, SHARES, positions)
    for blocks in (1, 7, 20):
        for index, share in enumerate(SHARES):
            found = number[: blocks * BLOCK][source[: blocks * BLOCK] == index]
            assert sorted(found.tolist()) == list(range(len(found)))
            assert abs(len(found) - share * blocks * BLOCK) <= 1
    # Mixed inside a block, too: no stretch of a hundred samples has one source alone.
    assert all(len(set(part.tolist())) > 1 for part in source[:4000].reshape(40, 100))


def test_a_sample_is_found_whatever_is_asked_for_beside_it():
    positions = np.arange(3 * BLOCK)
    source, number = choose_sources(5, SHARES, positions)
    some = np.array([2 * BLOCK + 7, 3, BLOCK - 1, BLOCK])
    again = choose_sources(5, SHARES, some)
    assert (again[0] == source[some]).all()
    assert (again[1] == number[some]).all()
    assert (choose_sources(6, SHARES, positions)[0] != source).any()


def count_by(lengths):
    """Count the bytes of ids by their lengths, as a tokenizer does."""
    return lambda ids, counted: int(lengths[np.asarray(ids)][counted].sum())


def make_mixture(**options):
    """A source of 40 windows and one of 10, told apart by their ids."""
    streams = [TokenStream.from_ids(range(401)), TokenStream.from_ids(range(500, 601))]
    datasets = [TextDataset(one, seq_len=10, vocab_size=1000, seed=2, **options) for one in streams]
    return MixtureDataset(datasets, (0.5, 0.5))


def list_rows(data, steps, splits):
    """The first token of each sample, in the order of the samples, over all ranks."""
    cursor, found = Cursor(), []
    for step in range(steps):
        micro_batch, accum, world_size = splits[step % len(splits)]
        own = {}
        for rank in range(world_size):
            batch, after = data.draw_batch(
                cursor, samples=8, micro_batch=micro_batch, accum=accum, rank=rank,
                world_size=world_size,
            )  # fmt: skip
            first = batch.tokens[..., 0].ravel().tolist()
            own |= dict(zip(batch.rows.ravel().tolist(), first, strict=True))
        found += [own[row] for row in range(8)]
        cursor = after
    return found


def test_the_samples_are_the_same_however_a_step_is_split():
    data = make_mixture()
    whole = list_rows(data, 20, [(8, 1, 1)])
    assert list_rows(data, 20, [(1, 8, 1), (2, 2, 2), (1, 1, 8), (4, 1, 2)]) == whole


def test_a_small_source_is_repeated_in_an_order_of_its_own():
    data = make_mixture()
    assert (data.train, data.held_out) == (range(50), range(0))
    first = list_rows(data, 512, [(8, 1, 1)])
    of_small = [token for token in first if token >= 500]
    assert len(of_small) == len(first) / 2
    counts = np.bincount([(token - 500) // 10 for token in of_small])
    assert counts.max() - counts.min() <= 1
    assert data.describe_epochs(["web", "code"], 100) == [
        "web: 50.0% of the samples, 1.25 epochs of its 40 sequences",
        "code: 50.0% of the samples, 5.00 epochs of its 10 sequences",
    ]


def test_each_source_holds_out_its_own_part():
    data = make_mixture(val_fraction=0.2)
    assert (len(data.train), len(data.held_out)) == (40, 10)
    rows = [row for batch in data.iterate_validation(3) for row in batch.tokens[0, :, 0].tolist()]
    real = {row for row in rows if row}
    assert real == {*range(320, 400, 10), 580, 590}
    assert data.count_validation_bytes(count_by(np.ones(1000, int))) == 100
    with pytest.raises(DataError, match=r"^9 samples do not fit a step of 8 rows$"):
        data.draw_batch(Cursor(), samples=9, micro_batch=8, accum=1)


@pytest.mark.parametrize("shares", [SHARES, (1.0,), (0.5, 0.5), (0.1, 0.2, 0.7)])
def test_the_samples_of_a_source_are_found_by_their_numbers(shares):
    for start in (0, 3, 7 * BLOCK - 5, 10**9 * BLOCK + 11):
        positions = np.arange(start, start + 2 * BLOCK + 100)
        sources, numbers = choose_sources(5, shares, positions)
        for source in range(len(shares)):
            own = sources == source
            found = find_positions(5, shares, source, numbers[own])
            np.testing.assert_array_equal(found, positions[own])
            among = find_numbers(shares, source, range(start, start + len(positions)))
            assert among.start <= numbers[own].min() <= numbers[own].max() < among.stop
            assert len(among) <= 4 * BLOCK
