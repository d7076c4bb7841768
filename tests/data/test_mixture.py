"""Mixtures: right shares, every sample once, and a function of the seed and the position alone."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.mixture import MixtureDataset, WeightedSource, parse_mixture, strip_weights
from hermes.data.mixture_blocks import (
    AS_SHUFFLED,
    BLOCK,
    Phase,
    choose_sources,
    find_numbers,
    find_positions,
)
from hermes.data.mixture_order import NEVER, MixtureOrder
from hermes.data.mixture_sources import (
    list_changes,
    locate_data,
    locate_mixture_source,
    spell_mixture,
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


@pytest.mark.parametrize("weight", ["-1", "0,7", "nan", "-inf", "1@5", " 0.7", "0.7,2@3@4", "1e10"])
def test_what_was_meant_as_a_weight_and_is_none_is_named(weight):
    """By itself, too, where it would be taken for the name of a file that is not there."""
    for others in ([], ["b:1"]):
        with pytest.raises(DataError) as error:
            parse_mixture([f"some text:{weight}", *others])
        assert str(error.value) == (
            f"--data some text:{weight}: {weight!r} is no weight; expected a number from 0 to "
            "1,000,000,000, such as 0.7, and where it changes at a step 0.7,0.3@1000"
        )
    assert parse_mixture(["a:1e-1", "b:.9"])[0].share == 0.1


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
    assert data.describe_epochs(["web", "code"], BLOCK) == [
        "web: 50.0% of the samples, 51.20 epochs of its 40 sequences",
        "code: 50.0% of the samples, 204.80 epochs of its 10 sequences",
    ]
    taken = sum(token >= 500 for token in first[:104])
    assert data.order.count_source_samples(104) == [104 - taken, taken]


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


def test_weights_change_at_a_step():
    found = parse_mixture(["web=crawl/*.jsonl:3,1@100", "code=src:1,3@100,1@200"])
    assert [source.name for source in found] == ["web", "code"]
    assert [source.data for source in found] == [("crawl/*.jsonl",), ("src",)]
    assert list_changes(found) == [(0, (0.75, 0.25)), (100, (0.25, 0.75)), (200, (0.5, 0.5))]
    assert strip_weights(["web=crawl/*.jsonl:3,1@100", "code:1"]) == ("crawl/*.jsonl", "code")


def test_items_of_one_name_are_a_source_of_several_files(tmp_path):
    found = parse_mixture(["code=src:1", "web=crawl:1", "code=more:1"])
    assert [(one.name, one.data, one.share) for one in found] == [
        ("code", ("src", "more"), 0.5),
        ("web", ("crawl",), 0.5),
    ]
    with pytest.raises(DataError, match=r"^--data code= is given with several weights; give it"):
        parse_mixture(["code=src:1", "code=more:2"])
    # A path that has an equals sign is a path.
    (tmp_path / "year=2024").mkdir()
    assert parse_mixture([f"{tmp_path}/year=2024:1"])[0].files == ()


def test_where_the_files_of_a_source_are_is_told_apart_from_its_name_and_weights():
    assert locate_mixture_source("code=src:0.3,1@5") == ("code=", "src", ":0.3,1@5")
    assert locate_mixture_source("src:0.3") == ("", "src", ":0.3")
    assert locate_mixture_source("src") == ("", "src", "")


def test_the_users_folder_is_known_behind_a_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_mixture(["code=~/src:0.3", "~/web:0.7"]) == (
        WeightedSource("code", 0.3, ("/home/me/src",)),
        WeightedSource("/home/me/web", 0.7),
    )
    assert locate_data("code=~/src:0.3") == "code=/home/me/src:0.3"
    assert locate_data("~/src") == "/home/me/src"
    (spelled,) = spell_mixture({"web": {"files": "~/crawl", "weight": 1}})
    assert parse_mixture([spelled])[0].data == ("/home/me/crawl",)


def test_a_mapping_is_the_same_mixture():
    mapping = {
        "web": {"files": "crawl", "weight": "0.7"},
        "code": {"files": ["src", "more"], "weight": 3e-1},
        "schedule": {"1000": {"web": "0"}, 20: {"code": 1}},
    }
    spelled = spell_mixture(mapping)
    assert spelled == (
        "web=crawl:0.7,0@1000",
        "code=src:0.3,1@20",
        "code=more:0.3,1@20",
    )
    assert [step for step, _ in list_changes(parse_mixture(spelled))] == [0, 20, 1000]
    assert parse_mixture(spelled)[0].later[1] == (1000, 0.0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "data has no source; give each a name, files and a weight"),
        ({"web": "crawl"}, "data.web is a string; give it as {files: PATH, weight: NUMBER}"),
        ({"web": {"files": "a"}}, "data.web has no weight; give it one, such as weight: 0.5"),
        ({"web": {"weight": 1}}, "data.web has no files; give a path, a pattern or a list"),
        (
            {"web": {"file": "a", "weight": 1}},
            "data.web: unknown key 'file'; did you mean 'files'?",
        ),
        (
            {"web": {"files": "a", "weight": "much"}},
            "data.web.weight is 'much'; expected a number from 0 to 1,000,000,000",
        ),
        (
            {"web": {"files": "a", "weight": 1}, "schedule": {"10": {"wed": 1}}},
            "data.schedule: step 10 names 'wed', which is no source; did you mean 'web'?",
        ),
        (
            {"web": {"files": "a", "weight": 1}, "schedule": {"0": {"web": 1}}},
            "data.schedule: '0' is no step; expected a whole number above 0",
        ),
        (
            {"web": {"files": "a", "weight": 1}, "schedule": ["10"]},
            "data.schedule is a list; give weights by step",
        ),
        (
            {"web": {"files": "a", "weight": 1}, "schedule": {"10": "web"}},
            "data.schedule: step 10 has no weights by name of source",
        ),
        ({"a b": {"files": "a", "weight": 1}}, "data: 'a b' is no name of a source; use letters"),
    ],
)
def test_a_mapping_that_is_no_mixture_is_refused(mapping, message):
    with pytest.raises(DataError) as error:
        spell_mixture(mapping)
    assert str(error.value).startswith(message)


def test_weights_of_a_step_that_are_no_mixture_are_refused():
    with pytest.raises(DataError, match=r"^--data a has 0 of all weights from step 10 on; give"):
        parse_mixture(["a:1,0@10", "b:1,0@10"])
    with pytest.raises(DataError, match=r"^--data b has 0.0005 of all weights from step 10 on"):
        parse_mixture(["a:1,1999@10", "b:1"])
    with pytest.raises(DataError, match=r"^--data a:1,2@7,3@7: more than one weight from step 7"):
        parse_mixture(["a:1,2@7,3@7", "b:1"])


PHASES = (Phase(1000, (0.1, 0.6, 0.3)), Phase(1000 + 2 * BLOCK + 5, (0.0, 0.5, 0.5)))


def make_three_sources():
    streams = [TokenStream.from_ids(range(n, n + 301)) for n in (0, 500, 900)]
    datasets = [TextDataset(one, seq_len=10, vocab_size=2000, seed=2) for one in streams]
    return MixtureDataset(datasets, (0.5, 0.5, 0.0), PHASES)


def test_shares_of_each_phase_are_right_and_every_sample_of_a_source_comes_once():
    data = make_three_sources()
    positions = np.arange(PHASES[1].start + BLOCK)
    source, number = data.order.choose_sources(positions)
    for index in range(3):
        own = number[source == index]
        assert sorted(own.tolist()) == list(range(len(own)))
    assert not (source[:1000] == 2).any()
    assert not (source[PHASES[1].start :] == 0).any()
    second = source[1000 : 1000 + 2 * BLOCK]
    assert np.abs(np.bincount(second) / (2 * BLOCK) - PHASES[0].shares).max() < 1 / BLOCK
    for samples in (0, 1, 999, 1000, 1001, 5000, PHASES[1].start, len(positions)):
        counts = np.bincount(source[:samples], minlength=3).tolist()
        assert data.order.count_source_samples(samples) == counts
    # Before the first change nothing is other than without one.
    first, _ = MixtureDataset(data.datasets, data.shares).order.choose_sources(positions[:1000])
    assert (first == source[:1000]).all()
    some = np.array([PHASES[1].start + 7, 3, 1000, 999, PHASES[1].start])
    assert (data.order.choose_sources(some)[1] == number[some]).all()


def test_samples_are_found_by_source_and_number_across_changes_of_weights():
    order = make_three_sources().order
    end = PHASES[1].start + 2 * BLOCK
    source, number = order.choose_sources(np.arange(end))
    for index in range(3):
        (own,) = np.nonzero(source == index)
        assert (order.find_positions(index, number[own]) == own).all()
        for part in (range(0, 7), range(990, 1003), range(1000, end), range(end - 5, end)):
            among = order.find_numbers(index, part)
            inside = number[part.start : part.stop][source[part.start : part.stop] == index]
            assert set(inside.tolist()) <= set(among)
            assert len(among) <= len(part) + 2 * BLOCK
    # The first source has no share from the last change on.
    assert (order.find_positions(0, np.array([10**6])) == NEVER).all()


def test_what_changes_and_what_is_not_reached_is_said():
    data = make_three_sources()
    assert data.describe_epochs(["a", "b", "c"], 1000, 10) == [
        *(f"{name}: {share} of the samples, {x}.0% from step 100 on, {y}.0% from step 919 on, "
          f"{data.order.count_source_samples(1000)[i] / 30:.2f} epochs of its 30 sequences"
          for i, (name, share, x, y) in enumerate(
              (("a", "50.0%", 10, 0), ("b", "50.0%", 60, 50), ("c", "0.0%", 30, 50)))),
        "the weights from step 919 on are not reached: the run has 100 steps",
    ]  # fmt: skip


def test_rows_tell_their_sources():
    data = make_mixture()
    batch, _ = data.draw_batch(Cursor(), samples=7, micro_batch=4, accum=2)
    expected = np.where(batch.targets[..., 0] < 0, -1, batch.targets[..., 0] >= 500)
    assert (batch.sources == expected).all()
    alone = MixtureDataset(data.datasets[:1], (1.0,))
    assert alone.draw_batch(Cursor(), samples=7, micro_batch=4, accum=2)[0].sources is None


@st.composite
def mixtures(draw):
    """Orders of mixtures: sizes of sources far below and above a block's, weights that change."""
    sizes = draw(st.lists(st.integers(1, 9000), min_size=1, max_size=4))
    weights = st.lists(st.integers(1, 1000), min_size=len(sizes), max_size=len(sizes))
    starts = draw(st.lists(st.integers(1, 3 * BLOCK), max_size=2, unique=True))
    phases = []
    for start in [0, *sorted(starts)]:
        own = np.array(draw(weights), float)
        if phases and len(own) > 1 and draw(st.booleans()):
            own[draw(st.integers(0, len(own) - 1))] = 0  # a source that pauses
        phases.append(Phase(start, tuple((own / own.sum()).tolist())))
    return MixtureOrder(draw(st.integers(0, 2**63 - 1)), phases, sizes)


@settings(max_examples=25, deadline=None)
@given(mixtures(), st.integers(1, 4 * BLOCK), st.randoms(use_true_random=False))
def test_a_source_gives_all_its_windows_before_it_gives_one_again(order, samples, random):
    """The n-th sample of a source is n % size of epoch n // size, whatever is asked for at once."""
    positions = np.arange(samples)
    source, window, epoch = order.find_windows(positions)
    for index, size in enumerate(order.sizes):
        own, epochs = window[source == index], epoch[source == index]
        assert (epochs == np.arange(len(own)) // size).all()
        for start in range(0, len(own), size):
            once = own[start : start + size]
            assert len(set(once.tolist())) == len(once)
            assert set(once.tolist()) <= set(range(size))
        (places,) = np.nonzero(source == index)
        assert (order.find_positions(index, np.arange(len(own))) == places).all()
    some = np.array(random.sample(range(samples), min(samples, 50)))
    for found, whole in zip(order.find_windows(some), (source, window, epoch), strict=True):
        assert (found == whole[some]).all()


def test_runs_that_were_begun_with_shuffled_numbers_have_the_samples_that_they_had():
    """Recorded from the version that knew no other order."""
    phases = (Phase(0, (0.5, 0.5, 0.0)), *PHASES)
    order = MixtureOrder(2, phases, [30, 31, 32], AS_SHUFFLED)
    positions = np.arange(PHASES[1].start + 2 * BLOCK)
    found = np.stack(order.find_windows(positions))
    assert found[:, :6].tolist() == [[1, 0, 1, 0, 0, 1], [8, 29, 1, 17, 15, 0], [0] * 6]
    digest = hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("2304c3d1989df8b8")
    source, number = order.choose_sources(positions)
    for index in range(3):
        (own,) = np.nonzero(source == index)
        assert (order.find_positions(index, number[own]) == own).all()
