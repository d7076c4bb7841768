"""A backend in JAX that looks forward only: all of the language, and no training."""

import jax
import jax.numpy as jnp
import numpy as np

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.errors import HermesError, Unsupported
from hermes.interface import IGNORE, LazyTensors, Options, check_tokens
from hermes.numerics.positions import rotary_table, segment_positions
from hermes.spec import Rope
from hermes_jax.model import Pass, transformer

# A switch of the whole process. What is made here names its type all the same.
jax.config.update("jax_enable_x64", True)

DTYPES = {"float32": jnp.float32, "float64": jnp.float64}


class Backend:
    """hermes_jax."""

    name = "jax"

    def versions(self):
        """Version by library."""
        return {"jax": jax.__version__}

    def devices(self):
        """The platforms at hand, the preferred one first."""
        return tuple(dict.fromkeys((jax.default_backend(), "cpu")))

    def build(self, spec, params, options=Options()):
        """A model for evaluation and decoding, in float32 or float64."""
        if options.precision not in DTYPES:
            raise Unsupported(f"hermes_jax does not compute in {options.precision}")
        if options.device not in (None, *self.devices()):
            raise Unsupported(f"hermes_jax has no device {options.device!r} here")
        return Model(spec, params, options)

    def join(self, rank_info, options=Options()):
        """Declined."""
        raise Unsupported("hermes_jax works in one process")

    def learner(self, spec, state, recipe, options=Options(), process_group=SINGLE_PROCESS):
        """Declined."""
        raise Unsupported("hermes_jax does not train")


class Model:
    """A built model: its weights on the device, and the pass over them."""

    def __init__(self, spec, params, options):
        self.spec, self._dtype = spec, DTYPES[options.precision]
        self._device = jax.devices(options.device)[0]
        self._params = {name: self._put(params[name]) for name in params}
        self._tables = {}
        for block in spec.layers:
            rope = block.attention.position_encoding, block.attention.rotary_size
            if isinstance(rope[0], Rope):
                angles = rotary_table(*rope, spec.max_seq_len)  # in float64, on the host
                self._tables[rope] = tuple(self._put(table) for table in angles)
        # Compiled anew for every shape, which pays where shapes repeat.
        self._pass = self._run if options.compile is False else jax.jit(self._run)

    def _put(self, array, dtype=None):
        return jax.device_put(np.asarray(array, dtype or self._dtype), self._device)

    def _run(self, params, tokens, places, segments):
        with jax.default_matmul_precision("highest"):
            return transformer(self.spec, params, tokens, Pass(self._tables, places, segments, {}))

    def _scores(self, tokens, segments=None):
        tokens = np.asarray(tokens)
        check_tokens(self.spec, tokens)
        places = np.arange(tokens.shape[1]) if segments is None else segment_positions(segments)
        tokens, places = self._put(tokens, np.int32), self._put(places, np.int32)
        return self._pass(self._params, tokens, places, segments)

    def logits(self, tokens, segments=None):
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        return np.asarray(self._scores(tokens, segments))

    def logprobs(self, tokens, targets, segments=None):
        """Log-probability of each target, 0 where IGNORE. (B, T) -> (B, T)."""
        scores, counted = self._scores(tokens, segments), targets != IGNORE
        at = self._put(np.where(counted, targets, 0), np.int32)[..., None]
        chosen = jnp.take_along_axis(scores, at, axis=-1)[..., 0]
        return np.where(counted, chosen - jax.nn.logsumexp(scores, axis=-1), 0)

    def row_logprobs(self, tokens, targets):
        """Each row's sum of them. -> (B,)."""
        return self.logprobs(tokens, targets).sum(-1)

    def loss(self, batch):
        """Nats per counted target over all micro-batches."""
        if batch.pairs is not None:
            self.preferences(batch)
        documents = [None] * len(batch.tokens) if batch.segments is None else batch.segments
        parts = zip(batch.tokens, batch.targets, documents, strict=True)
        total = sum(self.logprobs(*part).sum(dtype=np.float64) for part in parts)
        return -float(total) / batch.counts.terms

    def preferences(self, batch):
        """Declined."""
        raise Unsupported("hermes_jax has no losses of preferences")

    def params(self):
        """The weights, one at a time."""
        return LazyTensors(self._params, lambda name: np.asarray(self._params[name]))

    def decoder(self, batch_size, capacity):
        """A fresh cache for rows of at most `capacity` tokens."""
        return Decoder(self, batch_size, capacity)

    def extend(self, tokens, length, memory):
        """The last position's logits, (B, V), of tokens after `length` others in the memory."""
        places = self._put(np.arange(length, length + tokens.shape[1]), np.int32)
        here = Pass(self._tables, places, None, memory)
        with jax.default_matmul_precision("highest"):
            return transformer(self.spec, self._params, self._put(tokens, np.int32), here)[:, -1]


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, model, batch_size, capacity):
        self._model, self._rows, self._capacity = model, batch_size, capacity
        self._length, self._memory = 0, {}

    def advance(self, tokens):
        """Read (B, T) more tokens; the last position's logits, (B, V)."""
        rows, length = len(tokens), self._length + tokens.shape[1]
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {self._rows} rows and {self._capacity} tokens cannot hold "
                f"{rows} rows of {length}"
            )
        check_tokens(self._model.spec, tokens, length)
        logits = self._model.extend(tokens, self._length, self._memory)
        self._length = length
        return np.asarray(logits)


BACKEND = Backend()
