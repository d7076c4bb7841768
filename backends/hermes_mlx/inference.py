"""A model that computes logits, and the decoder that generates with it."""

import mlx.core as mx
import numpy as np

from hermes.errors import HermesError
from hermes.interface import LazyTensors, check_tokens
from hermes_mlx.cache import KVCache
from hermes_mlx.loss import preference


class Model:
    """A model for evaluation and decoding."""

    def __init__(self, engine):
        self.spec = engine.spec
        self.engine = engine

    def _given(self, tokens, segments=None):
        tokens = np.asarray(tokens)
        check_tokens(self.spec, tokens)
        e = self.engine
        return e.tensor(tokens), e.context(None, *e.documents(segments))

    def _scored(self, score, tokens, targets, at, segments=None):
        """What `score` makes of the module and the stack's output."""
        e = self.engine
        x = e.module.model(*self._given(tokens, segments))
        return score(e.module, x, e.tensor(targets), at)

    def _logprobs(self, tokens, targets, segments=None):
        e = self.engine
        return self._scored(e.ops.logprobs, tokens, targets, e.target_indices(targets), segments)

    def logits(self, tokens, segments=None):
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        with self.engine.on():
            return self.engine.read(self.engine.module(*self._given(tokens, segments)))

    def logprobs(self, tokens, targets):
        """Log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        with self.engine.on():
            return self.engine.read(self._logprobs(tokens, targets))

    def row_logprobs(self, tokens, targets):
        """Each row's summed log-probability of its targets, summed as in training. -> (B,)."""
        e = self.engine
        with e.on():
            return e.read(self._scored(e.ops.row_logprobs, tokens, targets, e.pair_layout(targets)))

    def loss(self, batch):
        """The batch's loss over all micro-batches, without dropout."""
        if batch.pairs is not None:
            return self.preferences(batch)[0]
        e, total = self.engine, 0.0
        with e.on():
            for a in range(len(batch.tokens)):
                segments = None if batch.segments is None else batch.segments[a]
                found = self._logprobs(batch.tokens[a], batch.targets[a], segments)
                total = total - found.sum()
                mx.eval(total)
            return total.item() / max(batch.num_terms, 1)

    def preferences(self, batch):
        """Of a batch of pairs: its loss, and each row's log-probability. -> (), (A, B)."""
        e, total, rows = self.engine, 0.0, []
        with e.on():
            for a in range(len(batch.tokens)):
                pair_layout = e.pair_layout(batch.targets[a])
                sums = self._scored(
                    e.ops.row_logprobs, batch.tokens[a], batch.targets[a], pair_layout
                )
                targets = e.tensor(batch.targets[a])
                reference = e.tensor(batch.pairs.reference[a], e.master)
                total = total + preference(sums, targets, reference, batch.pairs.rule)
                rows.append(e.read(sums))
            return total.item() / max(batch.num_terms, 1), np.stack(rows)

    def decoder(self, batch_size, capacity):
        """A fresh cache for rows of at most `capacity` tokens."""
        return Decoder(self.engine, batch_size, capacity)

    def params(self):
        """The weights, one at a time."""
        tensors = self.engine.tensors()
        return LazyTensors(self.engine.names, lambda name: self.engine.read(tensors[name]))


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, engine, batch_size, capacity):
        self._engine, self._rows, self._capacity = engine, batch_size, capacity
        self._memory = KVCache(engine.spec.num_layers, capacity)

    def advance(self, tokens):
        """Read (B, T) more tokens; the last position's logits, (B, V)."""
        tokens = np.asarray(tokens)
        rows, T = tokens.shape
        length = self._memory.length + T
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {self._rows} rows and {self._capacity} tokens cannot hold "
                f"{rows} rows of {length}"
            )
        check_tokens(self._engine.spec, tokens, length)
        e, ctx = self._engine, self._engine.context(self._memory)
        with e.on():
            x = e.module.model(e.tensor(tokens), ctx)[:, -1]
            logits = e.read(e.module.logits(x))
        self._memory.length = length
        return logits
