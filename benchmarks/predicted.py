"""How long an update takes on many GPUs, from what one of them and its networks do.

The model of docs/scaling.md, term by term. Units: seconds, bytes, GB/s = 1e9 bytes a second per
GPU and direction.
"""

import math
from dataclasses import dataclass

SIZES = (8, 64, 512)
BUCKET = 25e6  # bytes of gradients that DDP sums at once


@dataclass(frozen=True)
class Cluster:
    """What a GPU and its networks do; as measured, or as assumed.

    flops: operations a second that a GPU reaches in training this model by itself. memory: GB/s
    of its own memory. intra, inter: GB/s that a GPU sends inside its machine and between machines
    in a sum of many megabytes. latency: seconds of a step of a ring between machines. per_machine:
    GPUs that share the faster network. hidden: share of the time of computing in which sending
    goes on beside it. jitter: standard deviation of one GPU's time, as a share of it.
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
    """What is trained: parameters, layers, width, row length, and each GPU's rows of an update.

    grad_bytes, param_bytes: of one number as it is sent.
    """

    params: float = 7e9
    layers: int = 32
    width: int = 4096
    seq_len: int = 4096
    rows: int = 2
    accum: int = 1
    grad_bytes: int = 4
    param_bytes: int = 2


def computing(cluster, job):
    """Seconds of forward and backward passes: 6 operations a parameter and token, and attention."""
    tokens = job.rows * job.accum * job.seq_len
    attention = 6 * job.layers * job.width * job.seq_len  # causal: half of 12
    return tokens * (6 * job.params + attention) / cluster.flops


def updating(cluster, job, split):
    """AdamW reads weight, gradient and moments and writes three of them: 28 bytes a parameter."""
    return 28 * job.params / split / (cluster.memory * 1e9)


def ring(cluster, size, data):
    """Seconds of a reduce-scatter (or all-gather) of `data` bytes over `size` GPUs."""
    inside = min(size, cluster.per_machine)
    machines = max(1, size // cluster.per_machine)
    seconds = (inside - 1) / inside * data / (cluster.intra * 1e9)
    # Inside a machine each GPU ends with its share, which alone goes between the machines.
    seconds += (machines - 1) / machines * data / inside / (cluster.inter * 1e9)
    return seconds + (machines - 1) * cluster.latency


def waiting(cluster, size, compute):
    """Seconds that all wait for the slowest: about the largest of `size` normal numbers."""
    return compute * cluster.jitter * math.sqrt(2 * math.log(size))


def left(send, cover, tail):
    """Seconds of sending that computing does not hide: `tail` never, the rest beyond `cover`."""
    return max(tail, send - cover)


def ddp(cluster, job, size):
    """Seconds computing, sending, left exposed, and of the update in all."""
    compute, data = computing(cluster, job), job.grad_bytes * job.params
    send = 2 * ring(cluster, size, data)
    # Sums run beside the backward pass of the last micro-batch; the last bucket has nothing beside.
    cover = cluster.hidden * compute / job.accum * 2 / 3
    exposed = left(send, cover, send * min(1.0, BUCKET / data))
    exposed += waiting(cluster, size, compute)
    return compute, send, exposed, compute + exposed + updating(cluster, job, 1)


def fsdp(cluster, job, size):
    """The same where every GPU keeps its share: two gathers and a scatter a micro-batch."""
    compute = computing(cluster, job)
    # A ring's steps are paid for every layer.
    steps = (max(1, size // cluster.per_machine) - 1) * cluster.latency * (job.layers - 1)
    gather = ring(cluster, size, job.param_bytes * job.params) + steps
    scatter = ring(cluster, size, job.grad_bytes * job.params) + steps
    forward, backward = compute / job.accum / 3, compute / job.accum * 2 / 3
    # The first layer's weights and the last one's gradients have nothing beside them.
    exposed = left(gather, cluster.hidden * forward, gather / job.layers)
    exposed += left(gather + scatter, cluster.hidden * backward, scatter / job.layers)
    exposed = job.accum * exposed + waiting(cluster, size, compute)
    send = job.accum * (2 * gather + scatter)
    return compute, send, exposed, compute + exposed + updating(cluster, job, size)


def held(job, split):
    """GB of weights, gradients and two moments in float32, without activations."""
    return 16 * job.params / split / 1e9


def report(cluster, job):
    """A table in words."""
    tokens = job.rows * job.accum * job.seq_len
    lines = [
        f"{job.params:.3g} parameters, {tokens:,} tokens a GPU and update",
        "GPUs  how    state GB  compute s  send s  exposed s  update s    tokens/s  efficiency",
    ]
    for size in SIZES:
        for name, formula, split in (("DDP", ddp, 1), ("FSDP2", fsdp, size)):
            compute, send, exposed, whole = formula(cluster, job, size)
            alone = compute + updating(cluster, job, split)
            lines.append(
                f"{size:4}  {name:5} {held(job, split):9.1f} {compute:10.3f} {send:7.3f} "
                f"{exposed:10.3f} {whole:9.3f} {size * tokens / whole:11,.0f} {alone / whole:10.2f}"
            )
    return "\n".join(lines)
