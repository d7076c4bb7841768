"""A model whose blocks are compiled for training is decoded by none of those, and compiles nothing.

Each width of the cache would be another shape to compile, while the other ranks wait.
"""

import sys
from pathlib import Path

from hermes.distributed.process_group import RankInfo, exit_without_teardown
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from tests.backends import counting
from tests.distributed.support import WAIT, run_ranks

TOKENS = 6


def count_graphs(group):
    """How many graphs there are after a step, after a text, and after a second step; its logits."""
    import torch

    made, compile_module = [], torch.nn.Module.compile

    def look(graph, example):
        made.append(graph)
        return graph.forward

    # The graphs are run as they are, which takes no C++ compiler.
    torch.nn.Module.compile = lambda self, **more: compile_module(self, backend=look, **more)
    spec = counting.make_spec()
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    options = Options(device="cpu", shard="full", compile=True)
    learner = find_backend("torch").learner(spec, state, Recipe(), options, group)
    batch, counts = counting.make_batch(A=1), []
    learner.step(batch, 1e-3)
    counts.append(len(made))
    tokens = batch.tokens[0, :1]
    decoder = learner.decoder(1, TOKENS + 4)
    logits = [decoder.advance(tokens[:, :4])]
    logits += [decoder.advance(tokens[:, i : i + 1]) for i in range(4, TOKENS + 4)]
    counts.append(len(made))
    expected = learner.logits(tokens[:, : TOKENS + 4])[:, 3:]
    after_logits = len(made)
    learner.step(batch, 1e-3)
    counts.append(len(made) - after_logits + counts[-1])
    worst = max(abs(one - expected[:, i]).max() for i, one in enumerate(logits))
    return counts, float(worst)


def main():
    end = exit_without_teardown()
    _, rank, size, port, *_ = sys.argv[1:]
    info = RankInfo(int(rank), int(size), int(rank), int(size), f"127.0.0.1:{port}", WAIT, WAIT)
    group = find_backend("torch").join(info, Options(device="cpu"))
    counts, worst = count_graphs(group)
    group.close()
    # One graph of a block, which layers share; the same after texts and in the next step.
    assert counts[0] >= 1, counts
    assert counts == counts[:1] * 3, counts
    assert worst < 1e-4, worst
    end(0)


def test_a_split_model_writes_without_compiling_and_trains_on_as_compiled(tmp_path):
    run_ranks(Path(__file__), "torch", 2, tmp_path)


if __name__ == "__main__":
    main()
