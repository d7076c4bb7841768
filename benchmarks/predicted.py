"""Predicts the time of a step on many GPUs from the speed of one GPU and its networks.

The performance model of docs/scaling.md, term by term. Units: seconds, bytes, GB/s = 1e9 bytes per
second, per GPU and direction.
"""

import math
from dataclasses import dataclass

SIZES = (8, 64, 512)
BUCKET = 25e6  # bytes of gradients that DDP reduces at once


@dataclass(frozen=True)
class Cluster:
    """The speed of a GPU and its networks, measured or assumed.

    flops: FLOP/s that a GPU achieves in training this model by itself. memory: GB/s of its memory.
    intra, inter: GB/s that a GPU sends within its machine and between machines in an all-reduce of
    many megabytes. latency: seconds of one hop of a ring between machines. per_machine: GPUs that
    share the faster network. hidden: fraction of the computing time that communication can overlap.
    jitter: relative standard deviation of a GPU's computing time.
    """

    flops: float = 4e14
    memory: float = 3000.0
    intra: float = 300.0
    inter: float = 40.0
    latency: float = 1.5e-5
    per_machine: int = 8
    hidden: float = 0.8
    jitter: float = 0.01


@dataclass(frozen=True)
class Job:
    """What is trained: parameters, layers, width, row length, and rows per GPU and micro-batch.

    accum: micro-batches per step. grad_bytes, param_bytes: bytes per number as it is sent.
    """

    params: float = 7e9
    layers: int = 32
    width: int = 4096
    seq_len: int = 4096
    rows: int = 2
    accum: int = 1
    grad_bytes: int = 4
    param_bytes: int = 2


def time_computing(cluster, job):
    """Seconds of forward and backward passes: 6 FLOPs per parameter and token, and attention."""
    tokens = job.rows * job.accum * job.seq_len
    attention = 6 * job.layers * job.width * job.seq_len  # causal: half of 12
    return tokens * (6 * job.params + attention) / cluster.flops


def time_optimizer(cluster, job, split):
    """Seconds of AdamW: it reads 16 bytes and writes 12 per parameter."""
    return 28 * job.params / split / (cluster.memory * 1e9)


def time_ring(cluster, size, data):
    """Seconds of a reduce-scatter (or all-gather) of `data` bytes over `size` GPUs."""
    inside = min(size, cluster.per_machine)
    machines = max(1, size // cluster.per_machine)
    seconds = (inside - 1) / inside * data / (cluster.intra * 1e9)
    # After the ring within a machine, each GPU only sends its own share between machines.
    seconds += (machines - 1) / machines * data / inside / (cluster.inter * 1e9)
    return seconds + (machines - 1) * cluster.latency


def time_waiting(cluster, size, compute):
    """Seconds spent waiting for the slowest: about the maximum of `size` normal numbers."""
    return compute * cluster.jitter * math.sqrt(2 * math.log(size))


def time_exposed(send, cover, tail):
    """Seconds of communication that is not hidden: `tail` never is, the rest beyond `cover`."""
    return max(tail, send - cover)


def predict_ddp(cluster, job, size):
    """Seconds of computing, of communication, of its exposed part, and of the whole step."""
    compute, data = time_computing(cluster, job), job.grad_bytes * job.params
    send = 2 * time_ring(cluster, size, data)
    # Only the last micro-batch's backward pass overlaps; its last bucket overlaps nothing.
    cover = cluster.hidden * compute / job.accum * 2 / 3
    exposed = time_exposed(send, cover, send * min(1.0, BUCKET / data))
    exposed += time_waiting(cluster, size, compute)
    return compute, send, exposed, compute + exposed + time_optimizer(cluster, job, 1)


def predict_fsdp(cluster, job, size):
    """The same with sharded tensors: two gathers and a scatter per micro-batch."""
    compute = time_computing(cluster, job)
    # The latency of the ring is paid for every layer.
    steps = (max(1, size // cluster.per_machine) - 1) * cluster.latency * (job.layers - 1)
    gather = time_ring(cluster, size, job.param_bytes * job.params) + steps
    scatter = time_ring(cluster, size, job.grad_bytes * job.params) + steps
    forward, backward = compute / job.accum / 3, compute / job.accum * 2 / 3
    # The first layer's gather and the last one's scatter overlap nothing.
    exposed = time_exposed(gather, cluster.hidden * forward, gather / job.layers)
    exposed += time_exposed(gather + scatter, cluster.hidden * backward, scatter / job.layers)
    exposed = job.accum * exposed + time_waiting(cluster, size, compute)
    send = job.accum * (2 * gather + scatter)
    return compute, send, exposed, compute + exposed + time_optimizer(cluster, job, size)


def count_state_gb(job, split):
    """GB of weights, gradients and two moments in float32, without activations."""
    return 16 * job.params / split / 1e9


def format_table(cluster, job):
    """Format the table of predictions."""
    tokens = job.rows * job.accum * job.seq_len
    lines = [
        f"{job.params:.3g} parameters, {tokens:,} tokens a GPU and step",
        "GPUs  how    state GB  compute s  send s  exposed s    step s    tokens/s  efficiency",
    ]
    for size in SIZES:
        for name, formula, split in (("DDP", predict_ddp, 1), ("FSDP2", predict_fsdp, size)):
            compute, send, exposed, whole = formula(cluster, job, size)
            alone = compute + time_optimizer(cluster, job, split)
            lines.append(
                f"{size:4}  {name:5} {count_state_gb(job, split):9.1f} {compute:10.3f} {send:7.3f} "
                f"{exposed:10.3f} {whole:9.3f} {size * tokens / whole:11,.0f} {alone / whole:10.2f}"
            )
    return "\n".join(lines)
