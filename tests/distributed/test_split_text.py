"""A model that is split over processes writes the text that it writes in one."""

import pytest

from hermes.training.samples import read_samples
from tests.distributed.support import hermes, lines
from tests.finetuning.support import TEXT, small_tokenizer

WORDS = [
    *("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "nano"),
    *("--seq-len", 16, "--lr", "1e-3", "--max-steps", 3, "--device", "cpu"),
    *("--precision", "float64", "--backend", "torch", "--sample-every", 2, "--sample-tokens", 8),
    *("--sample-prompt", "the", "--sample-prompt", "a"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    small_tokenizer().save(folder / "tokenizer.json")
    (folder / "text.txt").write_text(TEXT * 40)
    hermes(folder, *WORDS, "--output", "one", "--batch-size", 2)
    return folder


@pytest.mark.parametrize("shard", ["full", pytest.param("optimizer", marks=pytest.mark.long)])
def test_samples_of_a_split_model_are_those_of_one_process(root, tmp_path, shard):
    two = tmp_path / "two"
    how = ["--num-processes", 2, "--shard", shard, "--output", two, "--batch-size", 1]
    hermes(root, *WORDS, *how)
    made = read_samples(two)
    assert [one["step"] for one in made] == [2, 2, 3, 3]
    assert made == read_samples(root / "one")
    # Training goes on as if nothing had been written.
    for one, other in zip(lines(two), lines(root / "one"), strict=True):
        assert one == pytest.approx(other, rel=1e-9)
