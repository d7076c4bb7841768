"""Decoding on a device, as generation does it: the part of device.py that measures it."""

import itertools
import time

import numpy as np

from hermes.interface import ChoosesTokens, Options, TokenChoice, WritesAhead, find_backend
from hermes.numerics.params import init_weights

WARM_STEPS = 8  # some of which CUDA captures


def decode_greedily(model, ids, count):
    """Read prompts, (rows, T), and yield `count` times, after a token of every row.

    As generation does: on a GPU the tokens are chosen there.
    """
    rows, length = ids.shape
    numbers, capacity, vocab_size = range(rows), length + count, model.spec.vocab_size
    decoder = model.decoder(1, capacity) if rows == 1 else model.row_decoder(rows, capacity)
    if rows == 1:
        token = decoder.advance(ids).argmax(-1)[:, None].astype(np.int32)
        if isinstance(decoder, WritesAhead):
            yield from decoder.write_ahead(
                int(token[0, 0]), TokenChoice(), itertools.repeat(0.0), count, vocab_size
            )
            return
        for _ in range(count):
            token = decoder.advance(token).argmax(-1)[:, None].astype(np.int32)
            yield
        return
    for row in numbers:
        decoder.open_row(row, capacity)
    tokens, ones = decoder.advance(numbers, ids, [length] * rows).argmax(-1), [1] * rows
    for _ in range(count):
        column = tokens[:, None].astype(np.int32)
        if isinstance(decoder, ChoosesTokens):
            choices = [TokenChoice()] * rows
            tokens = decoder.choose(numbers, column, ones, choices, [0.0] * rows, vocab_size)
        else:
            tokens = decoder.advance(numbers, column, ones).argmax(-1)
        yield


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
