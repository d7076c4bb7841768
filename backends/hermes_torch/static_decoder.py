"""A decoder of rows that advance together, by steps that CUDA captures, which are queued ahead."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.interface import TokenChoice
from hermes_torch.runtime import Runtime
from hermes_torch.static_rows import StaticRowDecoder
from hermes_torch.token_choice import find_kind

__all__ = ["StaticDecoder"]

Ids = NDArray[np.integer]


class StaticDecoder:
    """A decoder of rows that advance together, by static steps."""

    def __init__(self, runtime: Runtime, batch_size: int, capacity: int):
        self._rows = range(batch_size)
        self._runtime = runtime
        self._decoder = StaticRowDecoder(runtime, batch_size, capacity)
        for row in self._rows:
            self._decoder.open_row(row, capacity)

    def advance(self, tokens: Ids) -> NDArray[np.floating]:
        """Read (B, T) more tokens; return the logits after the last, (B, V)."""
        tokens = np.asarray(tokens)
        if len(tokens) != len(self._rows):
            there = format_count(len(self._rows), "rows")
            raise HermesError(
                f"a decoder of {there} cannot read {format_count(len(tokens), 'rows')}"
            )
        return self._decoder.advance(self._rows, tokens, [tokens.shape[-1]] * len(self._rows))

    def write_ahead(
        self,
        token: int,
        choice: TokenChoice,
        uniforms: Iterator[float],
        count: int,
        vocab_size: int,
    ) -> Iterator[int]:
        """Append a token to the only row, and what follows; as `WritesAhead` says."""
        pending: list[Callable[[], int]] = []
        first: Ids | None = np.array([[token]])
        for _ in range(count):
            pending.append(self._begin_step(first, choice, next(uniforms), vocab_size))
            first = None
            if len(pending) > 1:
                yield pending.pop(0)()
        yield from (read() for read in pending)

    @torch.inference_mode()
    def _begin_step(
        self, token: Ids | None, choice: TokenChoice, uniform: float, vocab_size: int
    ) -> Callable[[], int]:
        """Queue a step; how to read its token, which waits for it."""
        kind = find_kind([choice], vocab_size)
        with self._runtime.apply_options():
            chosen = self._decoder.run_step(self._rows, token, kind, [choice], [uniform])
            self._decoder.feed_back(chosen)
            return read_later(chosen)


def read_later(chosen: Array) -> Callable[[], int]:
    """Copy a token to the host, behind the step that chooses it; how to wait for it and read it."""
    if chosen.device.type != "cuda":
        kept = int(chosen[0])
        return lambda: kept
    host = torch.empty(1, dtype=chosen.dtype, pin_memory=True)
    host.copy_(chosen[:1], non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(chosen.device))

    def read() -> int:
        done.synchronize()
        return int(host[0])

    return read
