"""A built model: module, tables, device and type; evaluation and decoding with it."""

import os

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from hermes.errors import CheckpointError, Unsupported
from hermes.interface import IGNORE
from hermes.numerics.chunking import index_pair_targets
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters
from hermes.numerics.positions import segment_positions
from hermes_mlx.context import Context, Tables
from hermes_mlx.lora import adapt
from hermes_mlx.loss import wide
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
            self.table = {
                **list_parameters(spec),
                **(list_adapter_tensors(spec, lora) if lora else {}),
            }
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

    def context(
        self,
        cache=None,
        segments=None,
        positions_in_document=None,
        dropout_keys=None,
        *,
        recompute=False,
    ):
        """A pass of this module."""
        ctx = Context(
            self.tables, self.dtype, cache, segments, positions_in_document, dropout_keys, recompute
        )
        for adapter in self.adapters:
            adapter.ctx = ctx
        return ctx

    def target_indices(self, targets):
        """Where targets count among a micro-batch's tokens, (N,); None where all or none do.

        Known to the host, so nothing waits; but each number of them is another shape to compile.
        """
        at = np.flatnonzero(targets != IGNORE)
        return None if at.size in (0, targets.size) else self.tensor(at)

    def pair_layout(self, targets, *, everywhere=False):
        """pair_tokens of a micro-batch of pairs, its places on the device."""
        positions_in_document, ends = index_pair_targets(targets, everywhere=everywhere)
        return self.tensor(positions_in_document), ends

    def documents(self, segments):
        """Segments and the positions inside them; None, None for None."""
        if segments is None:
            return None, None
        return self.tensor(segments), self.tensor(segment_positions(segments))

    def read(self, array):
        """A NumPy copy, float32 unless it is float64."""
        return np.array(wide(array))
