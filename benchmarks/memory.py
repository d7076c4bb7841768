"""Memory of each rank of a run: with DDP, and sharded by FSDP2.

    python benchmarks/memory.py [--model gpt2-small] [--processes 4] [--precision float32]

Each way takes two steps of two micro-batches on the CPU, over gloo. `held`: bytes of all live
tensors between the backward pass and the optimizer step, which are parameters, gradients and
moments. `resident`: growth of the process since before the model was made, at the same moment.
`peak`: the largest growth at any moment, including passes and building the model. The maximum over
ranks is printed, with its ratio to DDP.
"""

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np

WAYS = {"ddp": None, "optimizer": "optimizer", "full": "full"}
LENGTH = 16  # tokens of a row: few, as activations are not the subject
# Otherwise the allocator of glibc keeps freed memory, which then counts as resident.
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
PAGE = os.sysconf("SC_PAGE_SIZE")


def count_tensor_bytes():
    """Count the bytes of the storages of all live tensors."""
    import torch

    storages = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor) and one.device.type != "meta":
            storage = getattr(one, "_local_tensor", one).untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def read_resident():
    """Read the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def read_peak():
    """Read the peak of this process's resident bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure(arguments, rank, port):
    """Train as one rank, and print what it held when all gradients were computed."""
    import hermes_torch.learner
    from hermes import load_spec
    from hermes.distributed.process_group import RankInfo, exit_without_teardown
    from hermes.interface import Batch, LossCounts, Options, TrainState, find_backend
    from hermes.numerics.params import init_weights
    from hermes.recipe import Recipe

    ended, size, backend = exit_without_teardown(), arguments.processes, find_backend("torch")
    options = Options(
        device="cpu", precision=arguments.precision, shard=WAYS[arguments.way],
        shard_group=arguments.shard_group if WAYS[arguments.way] else None,
    )  # fmt: skip
    rank_info = RankInfo(rank, size, rank, size, f"127.0.0.1:{port}", 600, 600)
    process_group, spec = backend.join(rank_info, options), load_spec(arguments.model)
    before = read_resident()
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    learner = backend.learner(spec, state, Recipe(), options, process_group)
    ids = np.random.default_rng(rank).integers(0, spec.vocab_size, (2, 1, LENGTH + 1))
    count = 2 * LENGTH * size
    batch = Batch(
        ids[..., :-1].astype(np.int32),
        ids[..., 1:].astype(np.int32),
        np.arange(2, dtype=np.uint32)[:, None] * size + rank,
        global_counts=LossCounts(count, count),
    )
    found = {}

    def between(norm, bound):
        gc.collect()
        found["held"], found["resident"] = count_tensor_bytes(), read_resident() - before
        return scale(norm, bound)

    scale = hermes_torch.optimizer.compute_clip_divisor
    with mock.patch.object(hermes_torch.optimizer, "compute_clip_divisor", between):
        for _ in range(2):
            loss = float(learner.step(batch, 1e-4).loss)
    print(json.dumps(found | {"peak": read_peak() - before, "loss": loss}))
    process_group.close()
    ended(0)


def run_processes(arguments, way):
    """Run all ranks; the maximum of each number over them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--way", way, "--rank", f"{rank}:{port}"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | RETURN_FREED,
        )
        for rank in range(arguments.processes)
    ]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"a process of {way} failed")
    each = [json.loads(text) for text in said]
    return {name: max(one[name] for one in each) for name in each[0]}


def main():
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="gpt2-small")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--shard-group", type=int)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        measure(arguments, *map(int, arguments.rank.split(":")))
        return
    from hermes import load_spec
    from hermes.numerics.params import count_parameters

    count = count_parameters(load_spec(arguments.model))
    print(f"{arguments.model}: {count:,} parameters, {arguments.processes} processes")
    first = None
    for way in WAYS:
        found = run_processes(arguments, way)
        first = first or found
        columns = "  ".join(
            f"{name} {found[name] / 2**20:7,.0f} MiB ({found[name] / first[name]:.2f})"
            for name in ("held", "resident", "peak")
        )
        print(f"{way:9}  {columns}  loss {found['loss']:.5f}", flush=True)


if __name__ == "__main__":
    main()
