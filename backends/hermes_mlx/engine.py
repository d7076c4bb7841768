"""A built model: module, tables, device and type; evaluation and decoding with it."""

import os

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from hermes.adapters import adapter_tensors
from hermes.errors import CheckpointError, HermesError, Unsupported
from hermes.params import parameters
from hermes.positions import segment_positions
from hermes.seam import IGNORE, LazyTensors, check_tokens
from hermes.slices import pair_tokens
from hermes_mlx.adapter import adapt
from hermes_mlx.context import Context, Memory, Tables
from hermes_mlx.loss import preference, wide
from hermes_mlx.model import Transformer
from hermes_mlx.ops import EXACT, FAST, PLAIN

DTYPES = {
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float64": mx.float64,
    "tf32": mx.float32,
}
TF32 = "MLX_ENABLE_TF32"  # read by MLX once; where it is not 0, float32 is tf32 on GPUs that can


def devices():
    """The devices at hand, the preferred one first."""
    return ("gpu", "cpu") if mx.is_available(mx.gpu) else ("cpu",)


class Engine:
    """What evaluation and training share: the module and how to run it.

    master: the type of weights and moments; dtype: of activations and matrix products.
    """

    def __init__(self, spec, params, options, *, training, lora=None):
        if options.precision not in DTYPES:
            raise Unsupported(
                f"hermes_mlx does not compute in {options.precision}; "
                f"it does in {', '.join(DTYPES)}"
            )
        if options.shard:
            raise Unsupported(
                "hermes_mlx holds the model whole in every process; shard is hermes_torch's"
            )
        name = options.device or devices()[0]
        if name not in devices():
            raise Unsupported(
                f"hermes_mlx has no device {name!r} here; it has {', '.join(devices())}"
            )
        self.dtype = DTYPES[options.precision]
        if self.dtype == mx.float64:
            if options.device == "gpu":
                raise Unsupported("hermes_mlx computes in float64 on 'cpu' only")
            name = "cpu"
        if options.precision == "tf32" and (name != "gpu" or os.environ.get(TF32) == "0"):
            raise Unsupported(
                f"hermes_mlx computes in tf32 on 'gpu' only, where {TF32} was not 0 at the start"
            )
        if options.deterministic and name != "cpu":
            raise Unsupported("hermes_mlx is deterministic on 'cpu' only")
        self.spec, self.options = spec, options
        self.device = mx.Device(mx.gpu if name == "gpu" else mx.cpu)
        self.master = mx.float64 if self.dtype == mx.float64 else mx.float32
        exact = options.exact or self.dtype == mx.float64
        self.ops = EXACT if exact else FAST if name == "gpu" else PLAIN
        with self.on():
            self.tables = Tables(spec, self.master)
            self.module = Transformer(spec, self.ops)
            self.adapters = adapt(self.module, spec, lora) if lora else []
            self.table = {**parameters(spec), **(adapter_tensors(spec, lora) if lora else {})}
            shapes = {name: x.shape for name, x in tree_flatten(self.module.parameters())}
            self.names = tuple(self.table)
            for name in self.names:
                array = params[name]
                if array.shape != shapes[name]:
                    raise CheckpointError(
                        f"tensor {name!r} has shape {array.shape}, expected {shapes[name]}"
                    )
                self.put({name: self._placed(array, training)})

    def on(self):
        """A context in which new arrays belong to this model's device."""
        return mx.stream(self.device)

    def _placed(self, array, training):
        """A parameter: in master precision to train, else matrices in the type of products."""
        dtype = self.dtype if array.ndim > 1 and not training else self.master
        host = np.asarray(array, np.float64 if dtype == mx.float64 else np.float32)
        # A CPU multiplies one row faster by a matrix whose columns lie together.
        as_trained = training or self.options.as_trained
        across = self.ops is PLAIN and array.ndim == 2 and not as_trained
        placed = mx.contiguous(mx.array(host, dtype).T).T if across else mx.array(host, dtype)
        mx.eval(placed)
        return placed

    def put(self, tensors):
        """Make the named arrays the module's parameters."""
        self.module.update(tree_unflatten(list(tensors.items())))

    def tensors(self):
        """The module's parameters by name."""
        return dict(tree_flatten(self.module.parameters()))

    def tensor(self, array, dtype=mx.int32):
        """A NumPy array as MLX's."""
        return mx.array(np.asarray(array), dtype)

    def context(self, memory=None, segments=None, places=None, keys=None, *, recompute=False):
        """A pass of this module."""
        here = Context(self.tables, self.dtype, memory, segments, places, keys, recompute)
        for adapter in self.adapters:
            adapter.here = here
        return here

    def counted(self, targets):
        """Where targets count among a micro-batch's tokens, (N,); None where all or none do.

        Known to the host, so nothing waits; but each number of them is another shape to compile.
        """
        at = np.flatnonzero(targets != IGNORE)
        return None if at.size in (0, targets.size) else self.tensor(at)

    def by_pair(self, targets, *, everywhere=False):
        """pair_tokens of a micro-batch of pairs, its places on the device."""
        places, ends = pair_tokens(targets, everywhere=everywhere)
        return self.tensor(places), ends

    def documents(self, segments):
        """Segments and the positions inside them; None, None for None."""
        if segments is None:
            return None, None
        return self.tensor(segments), self.tensor(segment_positions(segments))

    def read(self, array):
        """A NumPy copy, float32 unless it is float64."""
        return np.array(wide(array))


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
        return self._scored(e.ops.logprobs, tokens, targets, e.counted(targets), segments)

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
            return e.read(self._scored(e.ops.row_logprobs, tokens, targets, e.by_pair(targets)))

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
            return total.item() / max(batch.counted, 1)

    def preferences(self, batch):
        """Of a batch of pairs: its loss, and each row's log-probability. -> (), (A, B)."""
        e, total, rows = self.engine, 0.0, []
        with e.on():
            for a in range(len(batch.tokens)):
                by_pair = e.by_pair(batch.targets[a])
                sums = self._scored(e.ops.row_logprobs, batch.tokens[a], batch.targets[a], by_pair)
                targets = e.tensor(batch.targets[a])
                reference = e.tensor(batch.pairs.reference[a], e.master)
                total = total + preference(sums, targets, reference, batch.pairs.rule)
                rows.append(e.read(sums))
            return total.item() / max(batch.counted, 1), np.stack(rows)

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
        self._memory = Memory(engine.spec.num_layers, capacity)

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
        e, here = self._engine, self._engine.context(self._memory)
        with e.on():
            x = e.module.model(e.tensor(tokens), here)[:, -1]
            logits = e.read(e.module.logits(x))
        self._memory.length = length
        return logits
