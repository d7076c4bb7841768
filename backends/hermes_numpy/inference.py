"""A model that computes logits, and the decoder that generates with it."""

import numpy as np

from hermes.errors import HermesError
from hermes.interface import check_tokens
from hermes.numerics.params import list_parameters
from hermes.numerics.randomness import dropout_row_keys
from hermes_numpy import ops
from hermes_numpy.cache import KVCache
from hermes_numpy.context import Context
from hermes_numpy.loss import next_token, preference, target_logprobs
from hermes_numpy.model import Transformer


class Model:
    """A Transformer with its weights, in float64."""

    def __init__(self, spec, params):
        self.spec = spec
        self._params = params
        self._module = Transformer(spec, ops).load(params)

    def logits(self, tokens, segments=None):
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        check_tokens(self.spec, np.asarray(tokens))
        return self._module(np.asarray(tokens), Context(segments=segments))

    def logprobs(self, tokens, targets):
        """Log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        return target_logprobs(self.logits(tokens), np.asarray(targets))

    def row_logprobs(self, tokens, targets):
        """Each row's summed log-probability of its targets. -> (B,)."""
        return self.logprobs(tokens, targets).sum(-1)

    def loss(self, batch, dropout=None):
        """The batch's loss over all micro-batches; dropout: (seed, step) or None."""
        return float(self.mean(batch, dropout))

    def preferences(self, batch):
        """Of a batch of pairs: its loss, and each row's log-probability. -> (), (A, B)."""
        places = zip(batch.tokens, batch.targets, strict=True)
        rows = [self.row_logprobs(tokens, targets) for tokens, targets in places]
        return self.loss(batch), np.stack(rows)

    def mean(self, batch, dropout=None):
        """The loss in the type of the weights, so that arrays of other kinds can pass through."""
        total = 0.0
        for a in range(len(batch.tokens)):
            segments = None if batch.segments is None else batch.segments[a]
            dropout_keys = None if dropout is None else dropout_row_keys(*dropout, batch.rows[a])
            logits = self._module(
                batch.tokens[a], Context(segments=segments, dropout_keys=dropout_keys)
            )
            if batch.pairs is None:
                total = total + next_token(logits, batch.targets[a])
            else:
                rule, reference = batch.pairs.rule, batch.pairs.reference[a]
                total = total + preference(logits, batch.targets[a], reference, rule)
        return total / max(batch.num_terms, 1)

    def decoder(self, batch_size, capacity):
        """A fresh cache for rows of at most `capacity` tokens."""
        return Decoder(self._module, batch_size, capacity, len(self.spec.layers))

    def params(self):
        """The weights by name."""
        return {name: self._params[name] for name in list_parameters(self.spec)}


class Decoder:
    """Keys and values kept, so that each call reads only the new tokens."""

    def __init__(self, module, batch_size, capacity, layers):
        self._module, self._rows, self._capacity = module, batch_size, capacity
        self._memory = KVCache(layers)

    def advance(self, tokens):
        """Read (B, T) more tokens; the last position's logits, (B, V)."""
        rows, T = tokens.shape
        length = self._memory.length + T
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {self._rows} rows and {self._capacity} tokens cannot hold "
                f"{rows} rows of {length}"
            )
        logits = self._module(tokens, Context(cache=self._memory))[:, -1]
        self._memory.length = length
        return logits
