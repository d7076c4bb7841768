"""A split model's tensors are gathered by a second thread while training goes on."""

import subprocess
import sys
import threading

import numpy as np

from hermes.checkpoint import copy_state
from hermes.distributed.process_group import RankInfo, exit_without_teardown
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import OptimizerRecipe, Recipe
from hermes.training.coordination import gather_for_rank0, serve_gathers
from tests.backends import counting
from tests.distributed.support import WAIT, free_ports

SIZE = 2
PAIRS = (("full", "float8"),)


def read_all(state):
    parts = {"params": state.params, **state.slots}
    return {f"{part}.{name}": np.array(held[name]) for part, held in parts.items() for name in held}


def check_split(group, shard, moments):
    """Whether what the thread gathers is the state at which it began, to the bit."""
    recipe = Recipe(optimizer=OptimizerRecipe(moments=moments), ema=0.9)
    spec, batch = counting.make_spec(), counting.make_batch(A=1)
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    learner = find_backend("torch").learner(
        spec, state, recipe, Options(device="cpu", shard=shard, compile=False), group
    )
    learner.step(batch, 1e-2)
    gathers, gather = [], learner.runtime.shards.gather
    learner.runtime.shards.gather = lambda tensor: gathers.append(1) or gather(tensor)
    expected = read_all(learner.state())  # in both ranks, by FSDP's own gathering
    assert gathers
    gathers.clear()
    staged, gathered, trained = copy_state(learner.state()), {}, threading.Event()
    side = group.open_side_group()

    def lead():
        with gather_for_rank0(side, staged) as held:
            first = next(iter(held.params))
            gathered[f"params.{first}"] = np.array(held.params[first])
            assert trained.wait(WAIT)  # a disk that is slower than three steps
            gathered.update(read_all(held))

    follow = lead if group.rank_info.rank == 0 else lambda: serve_gathers(side, staged)
    thread = threading.Thread(target=follow)
    thread.start()
    for _ in range(3):
        learner.step(batch, 1e-2)
    trained.set()
    thread.join(WAIT)
    assert not gathers  # by the group of the training, which would wait for a disk
    later = read_all(learner.state())
    assert any((later[name] != expected[name]).any() for name in expected)
    if group.rank_info.rank == 0:
        assert gathered.keys() == expected.keys()
        assert all(np.array_equal(gathered[name], expected[name]) for name in expected)


def run_rank(rank, port):
    end = exit_without_teardown()
    info = RankInfo(rank, SIZE, rank, SIZE, rendezvous=f"127.0.0.1:{port}", timeout=WAIT)
    group = find_backend("torch").join(info, Options(device="cpu"))
    for shard, moments in PAIRS:
        check_split(group, shard, moments)
    print("the same")
    group.close()
    end(0)


def test_what_a_thread_gathers_is_the_state_it_began_with_though_training_goes_on():
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.distributed.test_split_saves"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(SIZE)
    ]
    said = [one.communicate(timeout=WAIT)[0] for one in ranks]
    assert [(one.returncode, text.strip()) for one, text in zip(ranks, said, strict=True)] == [
        (0, "the same")
    ] * SIZE, said


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]))
