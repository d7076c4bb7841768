"""Communication and computation of distributed training: measured here, predicted for many GPUs.

    python benchmarks/scaling.py [--shape mini|tiny|22m|gpt2] [--backend torch] [--backend mlx]
    python benchmarks/scaling.py predict [--params 7e9] [--flops 4e14] [--intra 300] [--inter 40]

Measuring trains on the same global batch in one process with two threads, and in two processes with
one thread each. docs/scaling.md explains the performance model of `predict`.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from predicted import BUCKET, Cluster, Job, format_table, time_exposed

from hermes.distributed.process_group import SINGLE_PROCESS, RankInfo, exit_without_teardown
from hermes.interface import Batch, LossCounts, Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

# layers, width, heads, feed-forward, vocabulary, context, rows of the global batch
SHAPES = {
    "mini": (2, 128, 4, 352, 2000, 128, 16),
    "tiny": (4, 128, 4, 352, 8000, 256, 32),
    "22m": (8, 384, 6, 1024, 16000, 512, 8),
    "gpt2": (12, 768, 12, 2048, 50257, 512, 4),
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def make_model(shape):
    """Make the architecture; with it, the rows of a global batch."""
    layers, width, heads, hidden, vocabulary, context, rows = SHAPES[shape]
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    return ModelSpec((block,), "bench", "", vocabulary, context, width, layers), rows


def make_share(spec, rows, rank, size):
    """Make a rank's share of the global batch."""
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (1, rows, spec.max_seq_len + 1))
    ids = ids.astype(np.int32)[:, rank * rows // size : (rank + 1) * rows // size]
    numbers = np.arange(ids.shape[1], dtype=np.uint32)[None]
    counted = rows * spec.max_seq_len
    return Batch(
        ids[..., :-1], ids[..., 1:].copy(), numbers, global_counts=LossCounts(counted, counted)
    )


def time_step(learner, batch):
    """Time one step until its last tensor is computed; MLX has the loss long before."""
    begun = time.perf_counter()
    learner.step(batch, 3e-4)
    last = learner.state().exp_avg_sq
    last[list(last)[-1]]
    return time.perf_counter() - begun


def run_worker(asked):
    """Measure as one rank: steps with the others, steps without them, and bare all-reduces."""
    ended = exit_without_teardown()
    spec, rows = make_model(asked.shape)
    backend, rank, size = find_backend(asked.backend[0]), asked.rank, asked.size
    rank_info = RankInfo(rank, size, rank, size, f"127.0.0.1:{asked.port}")
    if asked.backend[0] == "mlx":
        os.environ |= {"MLX_RANK": str(rank), "MLX_HOSTFILE": f"{asked.folder}/hosts.json"}
    process_group = backend.join(rank_info, Options(device="cpu")) if size > 1 else SINGLE_PROCESS
    batch, weights = make_share(spec, rows, rank, size), init_weights(spec, 0)

    def learner(among):
        state = TrainState(weights, {}, {}, 0)
        return backend.learner(spec, state, Recipe(), Options(device="cpu"), among)

    learners = {"together": learner(process_group)} | (
        {"apart": learner(SINGLE_PROCESS)} if size > 1 else {}
    )
    seconds = {name: [] for name in (*learners, "sum")}
    for turn in range(asked.rounds + 1):
        for name, one in learners.items():
            process_group.all_reduce_max(0)
            taken = process_group.all_reduce_max(time_step(one, batch))
            if turn:  # the first warms up
                seconds[name].append(taken)
        taken = process_group.all_reduce_max(
            process_group.time_all_reduce(count_parameters(spec))[0]
        )
        seconds["sum"] += [taken] if turn else []
    if rank == 0:
        # Other work on the machine only adds time, so the fastest step is the best estimate.
        fastest = {name: min(taken) for name, taken in seconds.items()}
        Path(asked.folder, "seconds.json").write_text(json.dumps(fastest))
    process_group.close()
    ended(0)


def run_processes(asked, backend, size, threads):
    """Run `size` processes with `threads` threads each; the seconds of their fastest steps."""
    with tempfile.TemporaryDirectory() as folder:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        hosts = json.dumps([[f"127.0.0.1:{port}"] for port in ports])
        Path(folder, "hosts.json").write_text(hosts)
        common = [sys.executable, __file__, "work", "--backend", backend, "--shape", asked.shape]
        common += ["--rounds", asked.rounds, "--size", size, "--port", ports[0]]
        started = [
            subprocess.Popen(
                list(map(str, [*common, "--folder", folder, "--rank", rank])),
                env=os.environ | {name: str(threads) for name in THREADS},
            )
            for rank in range(size)
        ]
        if any(process.wait() for process in started):
            raise SystemExit(f"{backend}: a process of {size} failed")
        return json.loads(Path(folder, "seconds.json").read_text())


def measure(asked):
    """Measure two processes against one, and print the result."""
    spec, rows = make_model(asked.shape)
    tokens, count = rows * spec.max_seq_len, count_parameters(spec)
    print(f"{asked.shape}: {count:,} parameters, {tokens:,} tokens a step, float32")
    for backend in asked.backend or ("torch", "mlx"):
        # One process is measured before and after the two, as the machine's speed drifts.
        one = [run_processes(asked, backend, 1, 2)["together"]]
        two = run_processes(asked, backend, 2, 1)
        one.append(run_processes(asked, backend, 1, 2)["together"])
        alone = min(one)
        print(f"{backend}: one process, two threads   {tokens / alone:9,.0f} tokens/s")
        print(f"{backend}: two processes, one thread  {tokens / two['together']:9,.0f} tokens/s")
        print(f"{backend}: ratio {alone / two['together']:.3f}")
        exposed = two["together"] - two["apart"]
        rate = count * 4 / two["sum"] / 1e9  # of two, each sends its whole gradient once
        hidden = max(0.0, 1 - exposed / two["sum"])
        print(f"{backend}: step {two['together']:.3f} s, without sums {two['apart']:.3f} s")
        print(
            f"{backend}: a sum of {count * 4 / 1e6:.0f} MB alone {two['sum'] * 1e3:.0f} ms, "
            f"{rate:.2f} GB/s each; {hidden:.0%} of it hidden"
        )
        cover = Cluster.hidden * two["apart"] * 2 / 3
        tail = two["sum"] * min(1.0, BUCKET / (4 * count))
        says = two["apart"] + time_exposed(two["sum"], cover, tail)
        print(f"{backend}: the model says {says:.3f} s")


def main(arguments=None):
    """Measure, or predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", choices=("measure", "predict", "work"), default="measure"
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--rounds", type=int, default=5)
    for name in ("rank", "size", "port"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    for options in (Cluster, Job):
        for name, default in vars(options()).items():
            word = "--" + name.replace("_", "-")
            parser.add_argument(word, type=type(default), default=default)
    asked = parser.parse_args(arguments)
    if asked.what == "work":
        run_worker(asked)
    elif asked.what == "measure":
        measure(asked)
    else:
        given = vars(asked)
        cluster, job = (kind(**{n: given[n] for n in vars(kind())}) for kind in (Cluster, Job))
        print(format_table(cluster, job))


if __name__ == "__main__":
    main()
