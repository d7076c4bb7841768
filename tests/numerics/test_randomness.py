"""Numbers by (seed, purpose, index): pinned for ever, independent of how they are asked for."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.numerics.randomness import (
    draw_bits,
    draw_normals,
    draw_uniforms,
    dropout_row_keys,
    invert_permutation,
    lowbias32,
    permute,
)


def test_a_part_of_a_stream_equals_that_part_of_the_whole():
    whole = draw_bits(7, "weights/a", 50)
    for start in range(12):
        np.testing.assert_array_equal(draw_bits(7, "weights/a", 9, start), whole[start : start + 9])


def test_streams_of_other_seeds_and_purposes_differ():
    streams = [
        draw_bits(0, "a", 8),
        draw_bits(1, "a", 8),
        draw_bits(0, "b", 8),
        draw_bits(0, "a/", 8),
    ]
    assert len({tuple(s) for s in streams}) == 4


def test_the_streams_are_pinned():
    """A change here changes every run ever made: it must not happen."""
    assert [hex(w) for w in draw_bits(0, "weights/model.norm.weight", 2)] == [
        "0x53d448b8899728b5",
        "0x2b3f6b271ed1d631",
    ]
    assert draw_normals(0, "w", (3,), 0.02).tolist() == [
        -0.02568359300494194,
        -0.009023742750287056,
        -0.03813384845852852,
    ]
    assert permute(0, "order/0", 10, range(10)).tolist() == [2, 6, 9, 7, 5, 3, 8, 1, 4, 0]
    assert dropout_row_keys(0, 1, [0, 1]).tolist() == [1823048346, 2663788105]


MASK = 2**64 - 1


def philox_block(counter: int, key: int) -> list[int]:
    """Philox4x64-10 in whole numbers, from the paper: four words of 64 bits."""
    c = [counter >> 64 * i & MASK for i in range(4)]
    k = [key & MASK, key >> 64]
    for _ in range(10):
        one, other = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [other >> 64 ^ c[1] ^ k[0], other & MASK, one >> 64 ^ c[3] ^ k[1], one & MASK]
        k = [k[0] + 0x9E3779B97F4A7C15 & MASK, k[1] + 0xBB67AE8584CAA73B & MASK]
    return c


def stream_words(seed: int, purpose: str, blocks: int) -> list[int]:
    """A stream's first words, by the words of specs/numerics.md alone."""
    digest = hashlib.sha256(seed.to_bytes(8, "little") + purpose.encode()).digest()
    key = int.from_bytes(digest[:16], "little")
    return [word for i in range(blocks) for word in philox_block(i + 1, key)]


@pytest.mark.parametrize(("seed", "purpose"), [(7, "dropout"), (2**64 - 1, "weights/ä")])
def test_the_page_says_how_a_stream_is_made(seed, purpose):
    assert draw_bits(seed, purpose, 40).tolist() == stream_words(seed, purpose, 10)


def test_the_page_says_how_rows_keys_are_made():
    def lowbias(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    words = stream_words(7, "dropout", 1)
    low, high = words[1] % 2**32, words[1] >> 32
    keys = [lowbias((lowbias((row * 0x9E3779B9 + low) % 2**32) + high) % 2**32) for row in range(4)]
    assert dropout_row_keys(7, 1, range(4)).tolist() == keys
    page = (Path(__file__).parents[2] / "specs/numerics.md").read_text(encoding="utf-8")
    for number in (*words, *keys):
        assert hex(number) in page


def test_uniforms_fill_the_unit_interval_and_stay_below_one():
    u = draw_uniforms(3, "u", 100_000)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.var() - 1 / 12) < 0.002


def test_normals_have_the_moments_asked_for():
    z = draw_normals(5, "w", (400, 500), 0.02).astype(np.float64) / 0.02
    assert z.shape == (400, 500)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 2.9) < 0.05  # 3 - 6 / (5 * 12), Irwin-Hall of twelve
    assert abs(z).max() < 6


def test_normals_do_not_depend_on_the_chunk(monkeypatch):
    whole = draw_normals(1, "w", (1000,), 1.0)
    monkeypatch.setattr("hermes.numerics.randomness.CHUNK", 7)
    np.testing.assert_array_equal(draw_normals(1, "w", (1000,), 1.0), whole)


@pytest.mark.parametrize("n", [*range(1, 40), 64, 65, 255, 256, 257, 1000])
def test_a_permutation_reaches_every_place_once(n):
    assert sorted(permute(2, "order", n, np.arange(n))) == list(range(n))


def test_a_permutation_of_part_equals_that_part():
    whole = permute(2, "order/3", 999, np.arange(999))
    np.testing.assert_array_equal(permute(2, "order/3", 999, [5, 17, 998]), whole[[5, 17, 998]])


def test_permutations_look_random():
    n = 100_000
    p = permute(4, "order/0", n, np.arange(n))
    assert abs(np.corrcoef(p, np.arange(n))[0, 1]) < 0.02
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 0.02
    assert (p == np.arange(n)).sum() < 10


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_small_permutations_send_each_item_everywhere_alike_often(n):
    """Chi squared of 2000 seeds, below its 99.99 % point (Wilson and Hilferty 1931)."""
    seeds = 2000
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts[np.arange(n), permute(seed, "order/0", n, np.arange(n))] += 1
    degrees = (n - 1) ** 2
    bound = degrees * (1 - 2 / (9 * degrees) + 3.72 * np.sqrt(2 / (9 * degrees))) ** 3
    assert ((counts - seeds / n) ** 2 * n / seeds).sum() < bound


def test_every_epoch_and_seed_has_an_order_of_its_own():
    orders = {
        tuple(permute(seed, f"order/{epoch}", 50, range(50)).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_an_order_of_very_many_samples_needs_no_table():
    places = permute(0, "order/0", 2**62, [0, 1, 2**62 - 1])
    assert len(set(places.tolist())) == 3


def test_normals_are_sums_of_twelve_sixteen_bit_lanes():
    """The same numbers in Python's own integers."""
    words = draw_bits(3, "w", 12).tolist()
    sums = [
        sum(word >> shift & 0xFFFF for word in words[i : i + 3] for shift in (0, 16, 32, 48))
        for i in range(0, 12, 3)
    ]
    expected = [np.float32((s - 6 * 65535) * (0.5 / (2**32 - 1) ** 0.5)) for s in sums]
    assert draw_normals(3, "w", (2, 2), 0.5).ravel().tolist() == expected


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_normals_of_no_or_one_element(shape):
    assert draw_normals(0, "w", shape, 1.0).shape == shape


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_no_64_bit_number_is_refused(seed):
    with pytest.raises(HermesError, match=f"at least 0 and below 2\\^64, got {seed}$"):
        draw_bits(seed, "a", 1)


def test_a_negative_index_of_a_permutation_is_refused():
    with pytest.raises(HermesError, match=r"^index -1 is outside a permutation of 5$"):
        permute(0, "order", 5, [3, -1])


def test_an_index_outside_the_permutation_is_refused():
    with pytest.raises(HermesError, match=r"^index 5 is outside a permutation of 5$"):
        permute(0, "order", 5, [5])


def test_the_dropout_hash_is_lowbias32():
    """Known values of the published function, computed in Python's own integers."""

    def plain(x):
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, 0xFFFFFFFF]
    assert lowbias32(np.array(values, np.uint32)).tolist() == [plain(v) for v in values]


def test_dropout_keys_depend_on_the_sample_and_not_on_the_split():
    whole = dropout_row_keys(9, 4, np.arange(8))
    np.testing.assert_array_equal(dropout_row_keys(9, 4, np.arange(4, 8)), whole[4:])
    assert len(set(whole.tolist())) == 8
    assert set(whole.tolist()).isdisjoint(dropout_row_keys(9, 5, np.arange(8)).tolist())


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 999, 4097])
def test_a_permutation_is_inverted(n):
    order = permute(2, "order/3", n, np.arange(n))
    np.testing.assert_array_equal(invert_permutation(2, "order/3", n, order), np.arange(n))
    np.testing.assert_array_equal(
        permute(2, "order/3", n, invert_permutation(2, "order/3", n, [n - 1])), [n - 1]
    )


def test_a_permutation_of_many_items_is_inverted():
    places = [0, 1, 2**61 + 12345, 2**62 - 1]
    there = permute(0, "order/0", 2**62, places)
    assert invert_permutation(0, "order/0", 2**62, there).tolist() == places
    with pytest.raises(HermesError, match="outside a permutation of 5"):
        invert_permutation(0, "order", 5, [5])
