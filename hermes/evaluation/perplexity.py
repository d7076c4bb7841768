"""How well a model predicts a text: nats per token, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import DataError, HermesError
from hermes.interface import IGNORE, Batch, Model
from hermes.stages import report_stage

__all__ = ["Perplexity", "add_up", "evaluate_perplexity", "make_windows"]


@dataclass(frozen=True)
class Perplexity:
    """The loss on a text. nats: summed over all targets; bytes: of the text they encode."""

    nats: float
    tokens: int
    bytes: int

    def __add__(self, other: "Perplexity") -> "Perplexity":
        return Perplexity(
            self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes
        )

    @property
    def loss(self) -> float:
        """Nats per counted token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite beyond the largest number."""
        return math.exp(self.loss) if self.loss < 709 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """nats / (ln 2 * bytes): comparable between tokenizers."""
        return self.nats / (math.log(2) * max(self.bytes, 1))


def add_up(parts: Sequence[Perplexity]) -> Perplexity:
    """The loss on several texts together, each token counting once."""
    return Perplexity(
        sum(one.nats for one in parts),
        sum(one.tokens for one in parts),
        sum(one.bytes for one in parts),
    )


def evaluate_perplexity(
    model: Model,
    batches: Iterable[Batch],
    text_bytes: int,
    stop: Callable[[], bool] = lambda: False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    *,
    stage: str = "evaluating, tokens",
    num_tokens: int = 0,
) -> Perplexity | None:
    """The model's loss over all batches, without dropout; None where `stop` said to end early.

    batches: this rank's share of them. stage, num_tokens: what it is called while it lasts, and how
    many targets there are, where that is known. All ranks return the same result.
    """
    nats, tokens = 0.0, 0
    for batch in batches:
        report_stage(stage, tokens, num_tokens)
        if stop():
            return None
        nats += model.loss(batch) * batch.num_terms
        tokens += batch.num_terms
    report_stage("")
    nats, counted = process_group.all_reduce_sum([nats, tokens])
    return Perplexity(nats, int(counted), text_bytes)


def make_windows(
    read: Callable[[int, int], NDArray[np.unsignedinteger]],
    num_tokens: int,
    seq_len: int,
    batch_size: int,
) -> Iterator[Batch]:
    """Batches in which every token but the first is a target once, in rows of seq_len.

    read: reads tokens start to stop - 1, a batch at a time. The last row is padded with targets
    that are ignored. Raises DataError.
    """
    for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
        if value < 1:
            raise HermesError(f"{name} must be at least 1, got {value}")
    if num_tokens < 2:
        raise DataError(f"the text has {num_tokens} token; there is nothing to predict")
    return _iterate_windows(read, num_tokens, seq_len, batch_size)


def _iterate_windows(
    read: Callable[[int, int], NDArray[np.unsignedinteger]],
    num_tokens: int,
    seq_len: int,
    batch_size: int,
) -> Iterator[Batch]:
    step = seq_len * batch_size
    for start in range(0, num_tokens - 1, step):
        part = read(start, min(start + step + 1, num_tokens)).astype(np.int32)
        rows = -(-(len(part) - 1) // seq_len)
        inputs = np.zeros(rows * seq_len, np.int32)
        targets = np.full(rows * seq_len, IGNORE, np.int32)
        inputs[: len(part) - 1], targets[: len(part) - 1] = part[:-1], part[1:]
        shape = (1, rows, seq_len)
        numbers = np.arange(rows, dtype=np.uint32)[None, :]
        yield Batch(inputs.reshape(shape), targets.reshape(shape), numbers)
