"""Runs of several processes, whole in each or split over them, are the runs of one."""

import threading

import numpy as np
import pytest

from hermes.distributed.process_group import RankInfo
from hermes.errors import HermesError, Unsupported
from hermes.interface import LazyTensors, Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.training.coordination import gather_for_rank0, serve_gathers
from tests.distributed.support import hermes, lines
from tests.finetuning.support import (
    TEXT,
    small_checkpoint,
    small_spec,
    small_tokenizer,
    some_chats,
    some_pairs,
    write_lines,
)
from tests.waiting import PATIENCE

EXACT = ["--device", "cpu", "--precision", "float64"]


class Thread:
    """One of two processes that are threads."""

    def __init__(self, rank, barrier, said):
        self.rank_info, self._barrier, self._said = RankInfo(rank, 2), barrier, said

    def all_reduce_sum(self, numbers):
        self._said[self.rank_info.rank] = numbers
        self._barrier.wait(PATIENCE)
        found = [sum(both) for both in zip(*self._said, strict=True)]
        self._barrier.wait(PATIENCE)
        return found


def pair():
    barrier, said = threading.Barrier(2), [None, None]
    return Thread(0, barrier, said), Thread(1, barrier, said)


def state(read):
    def tensors(part):
        def make(name):
            read.append(f"{part} {name}")
            return np.zeros(1)

        return LazyTensors(("a", "b"), make)

    return TrainState(tensors("params"), tensors("first"), tensors("second"), 3)


def test_a_split_state_is_read_by_all_in_the_order_of_who_leads():
    (first, second), ours, theirs = pair(), [], []
    other = threading.Thread(target=serve_gathers, args=(second, state(theirs)))
    other.start()
    with gather_for_rank0(first, state(ours)) as held:
        assert held.step == 3
        for part, name in ((held.exp_avg_sq, "b"), (held.params, "a"), (held.exp_avg, "a")):
            part[name]
    other.join(PATIENCE)
    assert ours == theirs == ["second b", "params a", "first a"]


def test_who_leads_lets_the_followers_go_when_it_fails():
    first, second = pair()
    other = threading.Thread(target=serve_gathers, args=(second, state([])))
    other.start()
    with pytest.raises(HermesError), gather_for_rank0(first, state([])):
        raise HermesError("the disk is full")
    other.join(PATIENCE)
    assert not other.is_alive()


def learner(backend, **options):
    weights = init_weights(small_spec(), 0)
    start = TrainState(weights, {}, {}, 0)
    return find_backend(backend).learner(
        small_spec(), start, Recipe(), Options(device="cpu", **options)
    )


def test_splitting_is_refused_where_it_cannot_be():
    with pytest.raises(Unsupported, match=r"^shard 'full' splits a model over several processes, "):
        learner("torch", shard="full")
    with pytest.raises(Unsupported, match=r"^hermes_mlx holds the model whole in every process"):
        learner("mlx", shard="optimizer")
    with pytest.raises(HermesError, match=r"^shard is 'half'; it must be one of full, optimizer$"):
        Options(shard="half")
    with pytest.raises(HermesError, match=r"^shard_group is 2, but shard is not set$"):
        Options(shard_group=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    small_checkpoint(folder / "base")
    small_tokenizer().save(folder / "tokenizer.json")
    write_lines(folder / "chat.jsonl", some_chats(23))
    write_lines(folder / "prefs.jsonl", some_pairs(23))
    (folder / "text.txt").write_text(TEXT * 40)
    return folder


def train(root, output, accum, steps, *how):
    model = ["--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "nano"]
    model += ["--seq-len", 16, "--batch-size", 1, "--lr", 1e-3, "--val-fraction", 0.1]
    recipe = ["--grad-accum", accum, "--max-steps", steps, "--eval-every", 2, "--save-every", 2]
    return hermes(root, "train", *model, *recipe, *EXACT, "--output", output, *how)


def torch(size, *how):
    return ["--backend", "torch", "--num-gpus", size, *how]


FULL, OPTIMIZER = ("--shard", "full"), ("--shard", "optimizer")


@pytest.mark.long
def test_a_run_goes_on_whole_split_in_groups_and_on_the_other_backend(root, tmp_path):
    """One process, DDP, both ways of FSDP2, groups of two among four, MLX: one run."""
    alone, run = tmp_path / "alone", tmp_path / "run"
    train(root, alone, 8, 14, "--backend", "torch")
    train(root, run, 4, 2, *torch(2, *FULL))
    for steps, accum, how in (
        (4, 4, torch(2)),
        (6, 4, torch(2, *OPTIMIZER)),
        (8, 2, torch(4, *FULL, "--shard-group", 2)),
        (10, 8, ["--backend", "mlx"]),
        (12, 4, torch(2, *FULL)),
        (14, 8, ["--backend", "torch"]),
    ):
        train(root, run, accum, steps, "--resume", *how)
    for one, other in zip(lines(alone), lines(run), strict=True):
        assert one == pytest.approx(other, rel=1e-9)


TUNED = {
    "sft": ["sft", "--data", "chat.jsonl", "--seq-len", 32, "--batch-size", 1],
    "sft-lora": ["sft", "--data", "chat.jsonl", "--seq-len", 32, "--batch-size", 1,
                 "--lora-rank", 2, "--lora-dropout", 0.1],
    "dpo": ["dpo", "--data", "prefs.jsonl", "--batch-size", 1],
    "dpo-lora": ["dpo", "--data", "prefs.jsonl", "--batch-size", 1, "--lora-rank", 2],
    "finetune-frozen": ["finetune", "--data", "text.txt", "--seq-len", 16, "--batch-size", 1,
                        "--freeze-layers", 1],
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(
    "how",
    [["--backend", "mlx", "--num-processes", 2], torch(2), torch(2, *FULL), torch(2, *OPTIMIZER)],
    ids=["mlx", "torch", "full", "optimizer"],
)
def test_tuning_by_two_processes_is_that_of_one(root, tmp_path, name, how):
    """Losses, norms, evaluations and what is measured of pairs, to the end of an epoch."""
    common = [*TUNED[name], "--checkpoint", "base", "--lr", 1e-3, "--val-fraction", 0.2, *EXACT]
    common += ["--eval-every", 2, "--max-steps", 4]
    hermes(root, *common, "--grad-accum", 4, "--output", tmp_path / "one", *how[:2])
    said = hermes(root, *common, "--grad-accum", 2, "--output", tmp_path / "two", *how)
    assert said.count("done: ") == 1
    found, wanted = lines(tmp_path / "two"), lines(tmp_path / "one")
    assert len(found) == len(wanted) == 6
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
