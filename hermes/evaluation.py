"""How well a model predicts a text: nats per token, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hermes.seam import Batch, Model

__all__ = ["Score", "score"]


@dataclass(frozen=True)
class Score:
    """nats: of all targets together; bytes: of the text they stand for."""

    nats: float
    tokens: int
    bytes: int

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


def score(
    model: Model,
    batches: Iterable[Batch],
    text_bytes: int,
    stop: Callable[[], bool] = lambda: False,
) -> Score | None:
    """The model's loss over all batches, without dropout; None where `stop` said so half way."""
    nats, tokens = 0.0, 0
    for batch in batches:
        if stop():
            return None
        nats += model.loss(batch) * batch.counted
        tokens += batch.counted
    return Score(nats, tokens, text_bytes)
