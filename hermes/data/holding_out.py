"""Holds out the last whole documents of a stream, so that none is half in the validation."""

from dataclasses import replace

import numpy as np

from hermes.data.token_shards import TokenSlice
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError

__all__ = ["HOLD_OUT", "split_at_document"]

HOLD_OUT = ("windows", "documents")
BLOCK = 1 << 20  # tokens looked through at a time


def split_at_document(
    stream: TokenStream, val_fraction: float, eos_id: int | None, what: str = "the text"
) -> tuple[TokenStream, TokenStream]:
    """Split a stream where a document begins: what to train on, and what to hold out.

    The latter has at least val_fraction of the tokens, and begins with the last document that
    begins before that many. what: its name in errors. Raises DataError where no document begins in
    the stream before that.
    """
    if eos_id is None:
        raise DataError("--hold-out documents needs a tokenizer with a token that ends a text")
    size = len(stream)
    at = size - max(1, round(size * val_fraction))
    for stop in range(at, 0, -BLOCK):
        start = max(0, stop - BLOCK)
        ends = np.flatnonzero(np.asarray(stream.tokens[start:stop]) == eos_id)
        if len(ends):
            cut = start + int(ends[-1]) + 1
            parts = (TokenSlice(stream.tokens, 0, cut), TokenSlice(stream.tokens, cut, size))
            train, held_out = (replace(stream, tokens=part, _temporary=None) for part in parts)
            return train, held_out
    raise DataError(
        f"{what} has no document that ends before its last {val_fraction:.3g}; give more than "
        "one document, or --hold-out windows"
    )
