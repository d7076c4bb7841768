"""Training beside other libraries, and what dropout, packing and checkpointing cost."""

import gc
from dataclasses import replace

import numpy as np
from device_peers import list_peers, make_peer_step
from device_rates import make_denominators, time_repeated
from device_turns import make_gauge, measure_idle, take_turns

from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.model_info.cost import count_flops
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe

LR = 3e-4
ROUNDS = 5
RATIO_LAYERS = 8  # of the models whose ratios are measured: each of them is compiled anew


def make_batch(setting, spec, rows, *, packed=False):
    """A batch of random tokens of one micro-batch; packed: of four documents a row."""
    T = setting.length
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (1, rows, T + 1), np.int32)
    segments = np.broadcast_to(np.arange(T, dtype=np.int32) // (T // 4), (1, rows, T)).copy()
    keys = np.arange(rows, dtype=np.uint32)[None]
    return Batch(ids[..., :-1], ids[..., 1:].copy(), keys, segments if packed else None)


def make_learner(setting, spec, **fields):
    """A learner of hermes as a run would have it."""
    options = Options(device=setting.device, precision=setting.precision, **fields)
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    return find_backend(setting.backend).learner(spec, state, Recipe(), options)


def make_step(setting, learner, batch):
    """A function that takes an update of hermes and waits until the device is done with it."""
    if setting.backend != "mlx":
        return lambda: float(learner.step(batch, LR).loss)  # is copied behind the update
    import mlx.core as mx

    stream = mx.default_stream(mx.Device(mx.gpu if setting.device == "gpu" else mx.cpu))

    def step():
        loss = float(learner.step(batch, LR).loss)
        mx.synchronize(stream)  # the loss is there before the update is
        return loss

    return step


def describe_speed(setting, spec, loop, tokens, flops):
    """Tokens per second, memory, and both conventions of MFU: causal attention once, or whole."""
    once = count_flops(spec, training=True, length=setting.length)
    pairs = sum(2 * a.num_heads * (a.head_size + a.value_size) for a in spec.attentions)
    whole = once + 3 * pairs * (setting.length - 1) / 2
    rate = tokens / loop.median
    shares = (
        {"mfu": once * rate / flops, "mfu_whole_attention": whole * rate / flops} if flops else {}
    )
    return {
        "tokens_per_second": rate,
        "seconds": loop.median,
        "turns": len(loop.seconds),
        "first_seconds": loop.first_seconds,
        "peak_bytes": loop.peak,
        **shares,
    }


def describe_loops(setting, spec, tokens, flops, loops, failed):
    """The speeds of all loops, what became of the others, and hermes beside the best of them."""
    speeds = {
        name: describe_speed(setting, spec, loop, tokens, flops) for name, loop in loops.items()
    }
    peers = [speeds[name]["tokens_per_second"] for name in speeds if name != "hermes"]
    ours = speeds.get("hermes")
    ratio = ours["tokens_per_second"] / max(peers) if peers and ours else None
    return {**speeds, "failed": dict(failed), "over_best_peer": ratio}


def measure_training(setting, keep):
    """Training beside others' loops, in turns, for each number of rows."""
    spec, figures, flops = setting.make_spec(), {}, None
    absent = dict.fromkeys(list_peers(setting.backend, installed=False), "not installed")
    if not setting.small:
        n = 8192 if setting.backend == "torch" else 4096
        flops = 2 * n**3 / time_repeated(make_denominators(setting, n, 1024)[0])
    for rows in setting.rows:
        batch, learners, here = make_batch(setting, spec, rows), [], {}

        def make_ours(batch=batch, learners=learners):
            learners.append(make_learner(setting, spec))
            return make_step(setting, learners[-1], batch)

        def tell(loops, failed, rows=rows, here=here):
            tokens = rows * setting.length
            here.update(describe_loops(setting, spec, tokens, flops, loops, failed | absent))
            keep({**figures, f"rows_{rows}": here})

        makers = {"hermes": make_ours}
        for name in list_peers(setting.backend):
            makers[name] = lambda name=name, batch=batch: make_peer_step(name, setting, spec, batch)
        take_turns(makers, ROUNDS, gauge=make_gauge(setting),
                   count_left=setting.count_seconds_left, tell=tell)  # fmt: skip
        here["idle"] = None
        if "hermes" in here:
            here["idle"] = measure_idle(setting, learners[0], batch, LR)
        figures[f"rows_{rows}"] = here
        keep(figures)
        learners.clear()
        gc.collect()


def measure_ratios(setting, keep):
    """What dropout, packing and checkpointing cost: seconds over those of a plain update.

    Of fewer layers than the whole model has, each of which a compiler would take as long for.
    """
    spec, rows = setting.make_spec(), setting.rows[0]
    spec = replace(spec, num_layers=min(spec.num_layers, RATIO_LAYERS))
    (block,) = spec.blocks
    attention = replace(block.attention, dropout=0.1)
    drops = replace(spec, blocks=(replace(block, dropout=0.1, attention=attention),))
    plain, packed = (make_batch(setting, spec, rows, packed=on) for on in (False, True))
    made = {
        "plain": (spec, plain, {}),
        "packing": (spec, packed, {}),
        "dropout": (drops, plain, {}),
        "checkpointing": (spec, plain, {"grad_checkpoint": True}),
    }
    if setting.backend == "torch":
        made["selective_checkpointing"] = (spec, plain, {"selective_checkpoint": True})
    figures = {"layers": spec.num_layers}
    for name, (model, batch, fields) in made.items():

        def make(model=model, batch=batch, fields=fields):
            return make_step(setting, make_learner(setting, model, **fields), batch)

        loops, failed = take_turns({name: make}, ROUNDS, count_left=setting.count_seconds_left)
        if name in failed:
            figures[name] = failed[name]
        else:
            figures[name] = loops[name].median
        if name != "plain" and name in loops and isinstance(figures["plain"], float):
            figures[f"{name}_over_plain"] = figures[name] / figures["plain"]
        keep(figures)
        del loops
        gc.collect()
