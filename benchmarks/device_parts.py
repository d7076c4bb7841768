"""The parts of device.py. Each is called in a process of its own and keeps its figures as it goes.

A part takes a setting and `keep`, a function that writes the figures so far: what a deadline cuts
off is lost, what was kept is not.
"""

import platform
import time
from dataclasses import dataclass, replace

import numpy as np
from device_decoding import measure_decoding
from device_peers import make_peers

from hermes import load_spec
from hermes.interface import (
    Batch,
    Options,
    TrainState,
    choose_backend,
    find_backend,
)
from hermes.model_info.cost import count_flops
from hermes.model_info.devices import choose_precision
from hermes.model_info.memory import read_peak_memory
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe

LR = 3e-4


@dataclass(frozen=True)
class Setting:
    """What is measured: backend, device, and small shapes or whole ones."""

    backend: str
    device: str
    small: bool

    @classmethod
    def choose(cls, backend, device, *, small):
        """The backend and device asked for, or those of this machine."""
        found = choose_backend(backend or "auto")
        device = device or found.devices()[0]
        return cls(found.name, device, small or device == "cpu")

    @property
    def is_metal(self):
        """Whether the device is a Mac's GPU."""
        return self.backend == "mlx" and self.device == "gpu" and platform.system() == "Darwin"

    def is_compiled(self, peer):
        """Whether a peer is compiled: where its own documentation says so."""
        compiled = {"nanoGPT-like": "cuda", "litgpt": "cuda", "mlx-lm": "gpu"}
        return self.device.split(":")[0] == compiled.get(peer)

    @property
    def precision(self):
        """What a run would choose here."""
        return choose_precision("auto", find_backend(self.backend), self.device)

    def make_spec(self):
        """smol-llama; a small model of its proportions for small shapes."""
        spec = load_spec("smol-llama")
        if not self.small:
            return spec
        return replace(spec, hidden_size=120, num_layers=2, vocab_size=1024, max_seq_len=512)

    @property
    def rows(self):
        """Rows of a batch that is trained on, the first for ratios too."""
        return (2,) if self.small else (4,) if self.is_metal else (16, 64)

    @property
    def length(self):
        """Tokens of a row."""
        return 128 if self.small else 1024 if self.is_metal else 2048


def report_versions(setting, keep):
    """What is installed, and what the device is."""
    backend = find_backend(setting.backend)
    describe = getattr(backend, "describe_device", None)
    info = describe(setting.device) if describe else None
    keep(
        {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "versions": backend.versions(),
            "name": info.name if info else "",
            "kind": info.kind if info else setting.device,
            "precision": setting.precision,
        }
    )


def time_repeated(run, *, least=0.5, most=50):
    """Median seconds of run() over at least half a second; the first call warms up."""
    run()
    taken, began = [], time.perf_counter()
    while len(taken) < most and (time.perf_counter() - began < least or len(taken) < 3):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def measure_denominators(setting, keep):
    """The fastest that the device multiplies bfloat16 and copies, on random data.

    Zeros would draw less power, and so run at a higher clock.
    """
    n, count = (512, 1 << 22) if setting.small else (8192, 1 << 29)
    if setting.is_metal:
        n, count = 4096, 1 << 27
    multiply, copy = make_denominators(setting, n, count)
    figures = {"product_size": n, "flops": 2 * n**3 / time_repeated(multiply)}
    keep(figures)
    # A copy reads and writes each byte.
    keep({**figures, "copied": count, "bytes_per_second": 2 * count / time_repeated(copy)})


def make_denominators(setting, n, count):
    """Functions that multiply two (n, n) matrices, and copy `count` bytes, and wait for it."""
    if setting.backend == "torch":
        import torch

        on = torch.device(setting.device)
        a, b = (torch.randn(n, n, device=on, dtype=torch.bfloat16) for _ in range(2))
        source = torch.randint(0, 255, (count,), device=on, dtype=torch.uint8)
        target = torch.empty_like(source)

        def wait(run):
            run()
            if on.type == "cuda":
                torch.cuda.synchronize(on)

        return lambda: wait(lambda: a @ b), lambda: wait(lambda: target.copy_(source))
    import mlx.core as mx

    with mx.stream(mx.Device(mx.gpu if setting.device == "gpu" else mx.cpu)):
        a, b = (mx.random.normal((n, n)).astype(mx.bfloat16) for _ in range(2))
        source = mx.random.randint(0, 255, (count,)).astype(mx.uint8)
        mx.eval(a, b, source)
    stream = mx.Device(mx.gpu if setting.device == "gpu" else mx.cpu)
    return (
        lambda: mx.eval(mx.matmul(a, b, stream=stream)),
        lambda: mx.eval(mx.bitwise_invert(source, stream=stream)),
    )


def judge_conformance(setting, keep):
    """The certificate of the levels that were finished: it is kept after each."""
    from hermes_conformance.certificate.issue import issue_certificate
    from hermes_conformance.suite.precision import require_float32
    from hermes_conformance.suite.runner import judge_level
    from hermes_conformance.suite.selection import Selection, load_backends

    backends = load_backends(setting.backend, "numpy", setting.device)
    require_float32(backends)
    globs = {"laws": ("L2/logits", "L6/*"), "cases": ("default/*", "small.15x64 doc*")}
    narrowed = globs if setting.small else {}
    outcomes, done = [], []
    for name in ("L2", "L6") if setting.small else ("L2", "L6", "L3", "L0"):
        selection = Selection((name,), **narrowed)
        (level,) = selection.list_levels()
        began = time.perf_counter()
        outcomes += judge_level(level, backends, selection)
        done.append(name)
        judged = Selection(tuple(sorted(done)), **narrowed)
        certificate = issue_certificate(backends, judged, outcomes)
        keep({"certificate": certificate, "levels": done})
        print(f"  {name} in {time.perf_counter() - began:.0f} s", flush=True)


def make_batch(setting, spec, rows, *, packed=False):
    """A batch of random tokens of one micro-batch; packed: of four documents a row."""
    T = setting.length
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (1, rows, T + 1), np.int32)
    segments = np.broadcast_to(np.arange(T, dtype=np.int32) // (T // 4), (1, rows, T)).copy()
    keys = np.arange(rows, dtype=np.uint32)[None]
    return Batch(ids[..., :-1], ids[..., 1:].copy(), keys, segments if packed else None)


def make_step(setting, spec, batch, *, compile=True, **fields):
    """A function that takes an update of hermes and waits for its loss."""
    options = Options(
        device=setting.device,
        precision=setting.precision,
        compile=None if compile else False,
        **fields,
    )
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    learner = find_backend(setting.backend).learner(spec, state, Recipe(), options)
    return lambda: float(learner.step(batch, LR).loss)


def describe_speed(setting, spec, seconds, tokens, flops):
    """Tokens per second, and both conventions of MFU: causal attention counted once, or whole."""
    once = count_flops(spec, training=True, length=setting.length)
    pairs = sum(2 * a.num_heads * (a.head_size + a.value_size) for a in spec.attentions)
    whole = once + 3 * pairs * (setting.length - 1) / 2
    rate = tokens / seconds
    share = (
        {}
        if not flops
        else {"mfu": once * rate / flops, "mfu_whole_attention": whole * rate / flops}
    )
    return {"tokens_per_second": rate, "seconds": seconds, **share}


def take_turns(steps, rounds):
    """Median seconds of each step, in turns after one to warm up; what fails is told instead."""
    taken, failed = {name: [] for name in steps}, {}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            if name in failed:
                continue
            start = time.perf_counter()
            try:
                step()
            except Exception as error:  # a peer's failure is a figure, too
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]:.120}"
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {n: float(np.median(s)) for n, s in taken.items() if n not in failed}, failed


def measure_training(setting, keep):
    """Training beside others' loops, in turns, for each number of rows."""
    spec, figures = setting.make_spec(), {}
    flops = None
    if not setting.small:
        n = 8192 if setting.backend == "torch" else 4096
        flops = 2 * n**3 / time_repeated(make_denominators(setting, n, 1024)[0])
    for rows in setting.rows:
        batch = make_batch(setting, spec, rows)
        step = make_step(setting, spec, batch)
        steps = {"hermes": step, **make_peers(setting, spec, batch)}
        seconds, failed = take_turns(steps, 5)
        tokens = rows * setting.length
        speeds = {n: describe_speed(setting, spec, s, tokens, flops) for n, s in seconds.items()}
        peers = [speeds[n]["tokens_per_second"] for n in speeds if n != "hermes"]
        figures[f"rows_{rows}"] = {
            **speeds,
            "failed": failed,
            "peak_bytes": read_peak_memory(find_backend(setting.backend), setting.device),
            "over_best_peer": speeds["hermes"]["tokens_per_second"] / max(peers)
            if peers and "hermes" in speeds
            else None,
            "idle": measure_idle(setting, step),
        }
        keep(figures)
        del step, steps


def measure_idle(setting, step):
    """The share of an update's time in which no kernel runs on CUDA; None elsewhere."""
    if not setting.device.startswith("cuda"):
        return None
    import torch

    activities = [torch.profiler.ProfilerActivity.CUDA]
    start = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profile:
        step()
        seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return max(0.0, 1 - busy / seconds)


def measure_ratios(setting, keep):
    """What dropout, packing and checkpointing cost: seconds over those of a plain update."""
    spec, rows = setting.make_spec(), setting.rows[0]
    block = spec.blocks[0]
    drops = replace(spec, blocks=(replace(block, dropout=0.1),))
    plain, packed = (make_batch(setting, spec, rows, packed=on) for on in (False, True))
    made = {
        "plain": lambda: make_step(setting, spec, plain),
        "packing": lambda: make_step(setting, spec, packed),
        "checkpointing": lambda: make_step(setting, spec, plain, grad_checkpoint=True),
        "dropout": lambda: make_step(setting, drops, plain),
    }
    figures = {}
    for name, make in made.items():
        seconds, failed = take_turns({name: make()}, 5)
        figures[name] = failed.get(name) or seconds[name]
        if name != "plain" and not failed and isinstance(figures["plain"], float):
            figures[f"{name}_over_plain"] = figures[name] / figures["plain"]
        keep(figures)


PARTS = {
    "versions": report_versions,
    "denominators": measure_denominators,
    "conformance": judge_conformance,
    "training": measure_training,
    "ratios": measure_ratios,
    "decoding": measure_decoding,
}
