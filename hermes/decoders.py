"""KV caches: what a backend's models decode by, for the engine and the suite.

hermes.interface has these names, too; it is the whole of what a backend implements.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PREFILL_CHUNK",
    "Array",
    "ChoosesAhead",
    "ChoosesTokens",
    "Decoder",
    "DecodesInvariantRows",
    "DecodesOnDevice",
    "DecodesRows",
    "KeepsRows",
    "ReadsChunks",
    "RowDecoder",
    "Tensors",
    "TokenChoice",
    "WritesAhead",
]

PREFILL_CHUNK = 512
"""How many tokens of a prompt are read at once, which bounds the activations; see ReadsChunks."""

Array = NDArray[np.generic]
Tensors = Mapping[str, Array]
"""Tensors by name, each made when it is read, so that a large model is never in memory twice.

float32, or the dtype of the file they come from: bfloat16 (of ml_dtypes), float16, float64.
"""


class Decoder(Protocol):
    """A KV cache over `batch_size` rows that advance together."""

    def advance(self, tokens: NDArray[np.integer]) -> NDArray[np.floating]:
        """Append (B, T) tokens and return the last position's logits, (B, V).

        Prefill and decoding steps are the same call. Raises HermesError beyond the capacity.
        """
        ...


class RowDecoder(Protocol):
    """A KV cache over rows that begin, advance and end each by itself, for many texts at once."""

    def open_row(
        self, row: int, capacity: int, *, source: int | None = None, length: int = 0
    ) -> int:
        """Begin a row for at most `capacity` tokens; return how many it has.

        That is `length`, if the row can begin with as many tokens of the row `source`, which may be
        itself; else 0: what they left in the cache may be gone, or of use to a row of another
        capacity only.
        """
        ...

    def advance(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> NDArray[np.floating]:
        """Append the first counts[b] of tokens[b] to rows[b]; the logits after each row's last.

        (B,), (B, T), (B,) -> (B, V). What follows in tokens[b] is padding. Rows are different, and
        counts from 1 to T. Raises HermesError beyond a row's capacity.
        """
        ...


@runtime_checkable
class KeepsRows(RowDecoder, Protocol):
    """A cache of rows that can be kept outside of it, on a disk, and by another backend."""

    def read_row(self, row: int) -> Tensors:
        """What the cache has of a row: `layers.N.keys`, (K, S, D), `layers.N.values`, (K, S, E).

        float32, or float64 under float64. S is the row's length, or what is left of it in a layer
        with a window: the last tokens. RoPE is applied to keys.
        """
        ...

    def write_row(self, row: int, capacity: int, length: int, tensors: Tensors) -> bool:
        """Begin a row of `capacity` with `length` tokens as `read_row` gave them. -> whether it did

        It does not where the cache needs tokens that are not there, or has no room; tensors of
        other shapes than the model's raise HermesError.
        """
        ...


@dataclass(frozen=True)
class TokenChoice:
    """How a device chooses a row's next token: the part of sampling that needs no earlier tokens.

    temperature, top_k, top_p, min_p: as `hermes.inference.Sampling` has them, in that order.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@runtime_checkable
class ChoosesTokens(RowDecoder, Protocol):
    """A cache of rows whose device chooses tokens, so that an id a row is read and no logits."""

    def choose(
        self,
        rows: Sequence[int],
        tokens: NDArray[np.integer],
        counts: Sequence[int],
        choices: Sequence[TokenChoice],
        uniforms: Sequence[float],
        vocab_size: int,
    ) -> NDArray[np.integer]:
        """`advance`, and the token that follows each row, from ids below vocab_size. -> (B,)

        uniforms: a number from [0, 1) for each row, which inverts the cumulative distribution in
        the order of ids. -1 where the greatest logit is not finite.
        """
        ...


@runtime_checkable
class ChoosesAhead(ChoosesTokens, Protocol):
    """A cache of rows that begins a step before the tokens of the step before it were read."""

    def begin_choice(
        self,
        rows: Sequence[int],
        tokens: NDArray[np.integer],
        choices: Sequence[TokenChoice],
        uniforms: Sequence[float],
        vocab_size: int,
    ) -> Callable[[], NDArray[np.integer]]:
        """Begin `choose` after one token more of each row; what is returned waits for it. -> (B,)

        tokens: (B,), -1 for the one that the last `begin_choice` has chosen for this row, whether
        it was read or not; 0 is appended where that one could choose none.
        """
        ...


@runtime_checkable
class WritesAhead(Decoder, Protocol):
    """A KV cache that begins a step before the token of the step before it was read."""

    def write_ahead(
        self,
        token: int,
        choice: TokenChoice,
        uniforms: Iterator[float],
        count: int,
        vocab_size: int,
    ) -> Iterator[int]:
        """Append a token to the only row, then the one that follows it, and so on; yield `count`.

        uniforms: as of ChoosesTokens, one for each. Whoever stops before the end has a cache with a
        token more than it knows, and must use it no longer.
        """
        ...


@runtime_checkable
class DecodesOnDevice(Protocol):
    """A model with decoders made for a GPU, which `decoder` and `row_decoder` are there.

    Elsewhere they show on any machine what a GPU would compute.
    """

    def make_device_decoder(self, batch_size: int, capacity: int) -> WritesAhead:
        """A `decoder` whose steps wait for nothing that the host reads."""
        ...

    def make_device_row_decoder(self, rows: int, capacity: int) -> ChoosesAhead:
        """A `row_decoder` of the same kind."""
        ...


@runtime_checkable
class ReadsChunks(Protocol):
    """A model whose device reads prompts in other chunks than of PREFILL_CHUNK tokens."""

    @property
    def prefill_chunk(self) -> int:
        """How many tokens of a prompt are read at once, where nothing else is asked for."""
        ...


@runtime_checkable
class DecodesRows(Protocol):
    """A model that reads rows of different lengths together. Others are read row by row."""

    def row_decoder(self, rows: int, capacity: int) -> RowDecoder:
        """A cache of `rows` rows of at most `capacity` tokens; none is open."""
        ...


@runtime_checkable
class DecodesInvariantRows(Protocol):
    """A model whose rows can be read together, with the bits that each has by itself."""

    def invariant_row_decoder(self, rows: int, capacity: int) -> RowDecoder:
        """A `row_decoder` of which a row's logits, to the last bit, depend on its own reads alone.

        That is, on their tokens and lengths, and on the arguments here: not on which row it is,
        nor on which others are read in the same `advance`.
        """
        ...
