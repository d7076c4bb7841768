"""The fastest that a device multiplies and copies: the part of device.py that measures it."""

import time

import numpy as np


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
