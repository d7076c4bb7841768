"""Decoding on a device, as generation does it: the part of device.py that measures it."""

import itertools
import time

import numpy as np

from hermes.interface import ChoosesAhead, Options, TokenChoice, WritesAhead, find_backend
from hermes.numerics.params import init_weights

WARM_STEPS = 8  # some of which CUDA captures


def decode_greedily(model, ids, count):
    """Read prompts, (rows, T), and yield `count` times the next token of every row, (rows,).

    As generation does: on a GPU the tokens are chosen there, and a step begins before the tokens
    of the one before it are read.
    """
    rows, length = ids.shape
    numbers, capacity, vocab_size = range(rows), length + count, model.spec.vocab_size
    if rows == 1:
        decoder = model.decoder(1, capacity)
        tokens = decoder.advance(ids).argmax(-1)
        if isinstance(decoder, WritesAhead):
            for token in decoder.write_ahead(
                int(tokens[0]), TokenChoice(), itertools.repeat(0.0), count, vocab_size
            ):
                yield np.array([token])
            return
        for _ in range(count):
            tokens = decoder.advance(tokens[:, None].astype(np.int32)).argmax(-1)
            yield tokens
        return
    decoder, ones = model.row_decoder(rows, capacity), [1] * rows
    for row in numbers:
        decoder.open_row(row, capacity)
    tokens = decoder.advance(numbers, ids, [length] * rows).argmax(-1).astype(np.int32)
    if not isinstance(decoder, ChoosesAhead):
        for _ in range(count):
            tokens = decoder.advance(numbers, tokens[:, None], ones).argmax(-1).astype(np.int32)
            yield tokens
        return
    choices, uniforms, pending = [TokenChoice()] * rows, [0.0] * rows, []
    for _ in range(count):
        pending.append(decoder.begin_choice(numbers, tokens, choices, uniforms, vocab_size))
        tokens = np.full(rows, -1, np.int32)  # what that step chooses
        if len(pending) > 1:
            yield pending.pop(0)()
    yield pending.pop()()


def measure_decoding(setting, keep):
    """Greedy tokens per second of 1, 16 and 64 rows behind a prompt of 64 tokens."""
    spec = setting.make_spec()
    options = Options(device=setting.device, precision=setting.precision)
    model = find_backend(setting.backend).build(spec, init_weights(spec, 0), options)
    count, figures = (16 if setting.small else 128), {}
    for rows in (1, 16, 64):
        ids = np.random.default_rng(0).integers(0, spec.vocab_size, (rows, 64), np.int32)
        steps = decode_greedily(model, ids, WARM_STEPS + count)
        for _ in range(WARM_STEPS):
            next(steps)
        start = time.perf_counter()
        assert sum(1 for _ in steps) == count
        seconds = time.perf_counter() - start
        figures[f"rows_{rows}"] = {
            "tokens_per_second": rows * count / seconds,
            "milliseconds_per_step": 1000 * seconds / count,
        }
        keep(figures)
