"""A model that computes logits, and the decoder that generates with it."""

import numpy as np
import torch

from hermes.errors import HermesError, Unsupported
from hermes.interface import LazyTensors, check_tokens
from hermes_torch.cache import KVCache
from hermes_torch.loss import preference


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
        given = self._given(tokens, segments)
        return self.engine.module(*given, score, self.engine.tensor(targets), at)

    def _logprobs(self, tokens, targets, segments=None):
        e = self.engine
        return self._scored(e.ops.logprobs, tokens, targets, e.target_indices(targets), segments)

    @torch.no_grad()
    def logits(self, tokens, segments=None):
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        with self.engine.on():
            return self.engine.read(self.engine.module(*self._given(tokens, segments)))

    @torch.no_grad()
    def logprobs(self, tokens, targets):
        """Log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        with self.engine.on():
            return self.engine.read(self._logprobs(tokens, targets))

    @torch.no_grad()
    def row_logprobs(self, tokens, targets):
        """Each row's summed log-probability of its targets, summed as in training. -> (B,)."""
        e = self.engine
        with e.on():
            return e.read(self._scored(e.ops.row_logprobs, tokens, targets, e.pair_layout(targets)))

    @torch.no_grad()
    def loss(self, batch):
        """The batch's loss over all micro-batches, without dropout."""
        if batch.pairs is not None:
            return self.preferences(batch)[0]
        total = 0.0
        with self.engine.on():
            for a in range(len(batch.tokens)):
                segments = None if batch.segments is None else batch.segments[a]
                total = total - self._logprobs(batch.tokens[a], batch.targets[a], segments).sum()
        return float(total) / max(batch.num_terms, 1)

    @torch.no_grad()
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
        return float(total) / max(batch.num_terms, 1), np.stack(rows)

    def decoder(self, batch_size, capacity):
        """A fresh cache for rows of at most `capacity` tokens."""
        if self.engine.shards:
            raise Unsupported("a model that is split writes no text; load its checkpoint for that")
        return Decoder(self.engine, batch_size, capacity)

    def params(self):
        """The weights, one at a time."""
        state = self.engine.module.state_dict()
        return LazyTensors(self.engine.names, lambda name: self.engine.copied(state[name]))


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, engine, batch_size, capacity):
        self._engine, self._rows, self._capacity = engine, batch_size, capacity
        self._memory = KVCache(engine.spec.num_layers, capacity)

    @torch.inference_mode()
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
            logits = e.module.logits(x)
        self._memory.length = length
        return e.read(logits)
