"""A forward-only backend in JAX: the whole language, and no training."""

import jax
import jax.numpy as jnp
import numpy as np

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.errors import HermesError, Unsupported
from hermes.interface import IGNORE, LazyTensors, Options, check_tokens
from hermes.numerics.positions import choose_table_length, rotary_table, segment_positions
from hermes_jax.model import Context, forward

# A setting of the whole process, so every array below is given its dtype.
jax.config.update("jax_enable_x64", True)

DTYPES = {"float32": jnp.float32, "float64": jnp.float64}


class Backend:
    """hermes_jax."""

    name = "jax"

    def versions(self):
        """Version by library."""
        return {"jax": jax.__version__}

    def devices(self):
        """The platforms of this machine, the preferred one first."""
        return tuple(dict.fromkeys((jax.default_backend(), "cpu")))

    def build(self, spec, params, options=Options(), process_group=SINGLE_PROCESS):
        """Build a model for evaluation and decoding, in float32 or float64."""
        if options.precision not in DTYPES:
            raise Unsupported(f"hermes_jax does not compute in {options.precision}")
        if options.device not in (None, *self.devices()):
            raise Unsupported(f"hermes_jax has no device {options.device!r} here")
        return Model(spec, params, options)

    def join(self, rank_info, options=Options()):
        """Decline."""
        raise Unsupported("hermes_jax works in one process")

    def learner(self, spec, state, recipe, options=Options(), process_group=SINGLE_PROCESS):
        """Decline."""
        raise Unsupported("hermes_jax does not train")


class Model:
    """A built model: its weights on the device, and the forward pass."""

    def __init__(self, spec, params, options):
        self.spec, self._dtype = spec, DTYPES[options.precision]
        self._device = jax.devices(options.device)[0]
        self._params = {name: self._to_device(params[name]) for name in params}
        self._tables = {}
        # Compiled for each shape of tokens, which pays where shapes repeat.
        self._forward = self._run if options.compile is False else jax.jit(self._run)

    def _to_device(self, array, dtype=None):
        return jax.device_put(np.asarray(array, dtype or self._dtype), self._device)

    def prepare(self, length):
        """A function that finds rope's tables for rows or a KV cache of this length."""

        def find_key(spec):
            rope = spec.position_encoding
            return rope, spec.rotary_size, choose_table_length(rope, length, self.spec.max_seq_len)

        for attention in self.spec.attentions:
            if attention.rotary_size and find_key(attention) not in self._tables:
                cos_sin = rotary_table(*find_key(attention))  # in float64, on the host
                self._tables[find_key(attention)] = tuple(map(self._to_device, cos_sin))
        return lambda spec: self._tables[find_key(spec)]

    def _run(self, params, tokens, positions, segments):
        ctx = Context(self.prepare(tokens.shape[1]), positions, segments, {})
        with jax.default_matmul_precision("highest"):
            return forward(self.spec, params, tokens, ctx)

    def _score(self, tokens, segments=None):
        tokens = np.asarray(tokens)
        check_tokens(self.spec, tokens)
        self.prepare(tokens.shape[1])  # not while the pass is traced
        positions = np.arange(tokens.shape[1]) if segments is None else segment_positions(segments)
        tokens, positions = self._to_device(tokens, np.int32), self._to_device(positions, np.int32)
        return self._forward(self._params, tokens, positions, segments)

    def logits(self, tokens, segments=None):
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        return np.asarray(self._score(tokens, segments))

    def logprobs(self, tokens, targets, segments=None):
        """Log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        logits, counted = self._score(tokens, segments), targets != IGNORE
        columns = self._to_device(np.where(counted, targets, 0), np.int32)[..., None]
        chosen = jnp.take_along_axis(logits, columns, axis=-1)[..., 0]
        return np.where(counted, chosen - jax.nn.logsumexp(logits, axis=-1), 0)

    def row_logprobs(self, tokens, targets):
        """logprobs summed over each row. (B, T) -> (B,)."""
        return self.logprobs(tokens, targets).sum(-1)

    def loss(self, batch):
        """The mean loss over all micro-batches, in nats per target."""
        if batch.pairs is not None:
            self.preferences(batch)
        documents = [None] * len(batch.tokens) if batch.segments is None else batch.segments
        parts = zip(batch.tokens, batch.targets, documents, strict=True)
        weighted = np.stack([self.logprobs(*part) for part in parts]) * batch.get_weights()
        return -float(weighted.sum(dtype=np.float64)) / batch.counts.divisor

    def preferences(self, batch):
        """Decline."""
        raise Unsupported("hermes_jax has no losses of preferences")

    def params(self):
        """The weights, one at a time."""
        return LazyTensors(self._params, lambda name: np.asarray(self._params[name]))

    def decoder(self, batch_size, capacity):
        """An empty KV cache for rows of at most `capacity` tokens."""
        return Decoder(self, batch_size, capacity)

    def decode(self, tokens, length, cache, angles):
        """Append (B, T) tokens to a cache of `length`; return the logits after the last, (B, V)."""
        positions = self._to_device(np.arange(length, length + tokens.shape[1]), np.int32)
        ctx = Context(angles, positions, None, cache)
        with jax.default_matmul_precision("highest"):
            return forward(self.spec, self._params, self._to_device(tokens, np.int32), ctx)[:, -1]


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, model, batch_size, capacity):
        self._model, self._rows, self._capacity = model, batch_size, capacity
        self._length, self._cache, self._angles = 0, {}, model.prepare(capacity)

    def advance(self, tokens):
        """Read (B, T) more tokens; return the logits after the last, (B, V)."""
        rows, length = len(tokens), self._length + tokens.shape[1]
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {self._rows} rows and {self._capacity} tokens cannot hold "
                f"{rows} rows of {length}"
            )
        check_tokens(self._model.spec, tokens, length)
        begin, self._length = self._length, length
        return np.asarray(self._model.decode(tokens, begin, self._cache, self._angles))


BACKEND = Backend()
