"""A built model and how it runs: module, position tables, device, dtypes, moving of arrays."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.core import array as Array
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import ArrayLike, NDArray

from hermes.errors import CheckpointError, Unsupported
from hermes.host_allocator import map_large_arrays
from hermes.interface import IGNORE, Options, Tensors
from hermes.numerics.chunking import index_pair_targets
from hermes.numerics.frozen import FrozenWeights
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import find_head, list_parameters
from hermes.numerics.positions import segment_positions
from hermes.numerics.row_layout import count_cache_bytes
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_mlx import FAST_BLAS
from hermes_mlx.cache import KVCache
from hermes_mlx.context import Context, PositionTables
from hermes_mlx.device_memory import claim_memory
from hermes_mlx.joined_weights import join_weights
from hermes_mlx.lora import adapt
from hermes_mlx.loss import upcast
from hermes_mlx.model import Linear, Transformer
from hermes_mlx.ops import EXACT, FAST, PLAIN
from hermes_mlx.pair_groups import PairLayout
from hermes_mlx.pass_memory import count_joined_bytes, count_pass_bytes, require_room
from hermes_mlx.products import suit_borrowed_blas

DTYPES = {
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,
    "float64": mx.float64,
    "tf32": mx.float32,
}
# Read by MLX once. Unless it is 0, GPUs that can multiply float32 in TF32 do.
TF32 = "MLX_ENABLE_TF32"


def list_devices() -> tuple[str, ...]:
    """The devices of this machine, the preferred one first."""
    return ("gpu", "cpu") if mx.is_available(mx.gpu) else ("cpu",)


class Runtime:
    """The module and how to run it; what evaluation and training share.

    master: the dtype of weights and moments; dtype: of activations and matrix products, and of
    the matrices in `frozen`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options,
        *,
        training: bool,
        lora: Lora | None = None,
        frozen: FrozenWeights | None = None,
    ):
        if options.shard:
            raise Unsupported(
                "hermes_mlx holds the model whole in every process; shard is hermes_torch's"
            )
        if options.selective_checkpoint:
            raise Unsupported(
                "hermes_mlx recomputes whole blocks: mx.checkpoint keeps nothing inside them; use "
                "grad_checkpoint, or hermes_torch"
            )
        name = options.device or list_devices()[0]
        if name not in list_devices():
            raise Unsupported(
                f"hermes_mlx has no device {name!r} here; it has {', '.join(list_devices())}"
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
        self.spec, self.options, self.frozen = spec, options, frozen
        self.device = mx.Device(mx.gpu if name == "gpu" else mx.cpu)
        self.is_on_gpu = name == "gpu"
        claim_memory(self.device)
        if training and name == "cpu":
            map_large_arrays(self)
        self.widest = mx.float64 if name == "cpu" else mx.float32  # that the device has
        self.master = mx.float64 if self.dtype == mx.float64 else mx.float32
        exact = options.exact or self.dtype == mx.float64
        self.ops = EXACT if exact else FAST if name == "gpu" else PLAIN
        # Not where a model must equal a learner to the bit.
        is_free = not (training or exact or options.as_trained)
        self._is_borrowed = is_free and name == "cpu" and FAST_BLAS
        with self.apply_options():
            self.tables = PositionTables(spec, self.master)
            self.module = Transformer(spec, self.ops)
            self.adapters = adapt(self.module, spec, lora) if lora else []
            self.table = {
                **list_parameters(spec),
                **(list_adapter_tensors(spec, lora) if lora else {}),
            }
            shapes = {name: x.shape for name, x in self.get_parameters().items()}
            self.names = tuple(self.table)
            for name in self.names:
                array = params[name]
                if array.shape != shapes[name]:
                    raise CheckpointError(
                        f"tensor {name!r} has shape {array.shape}, expected {shapes[name]}"
                    )
                is_short = frozen is not None and frozen.shorten(name, array)
                by_columns = not training and self._is_by_columns(name)
                loaded = self._load_parameter(
                    array, training, short=is_short, by_columns=by_columns
                )
                self.set_parameters({name: loaded})
            if is_free:
                by_columns = self.ops is PLAIN and not self._is_borrowed
                require_room(self.device, lambda: count_joined_bytes(spec, self.dtype.size))
                join_weights(self.module, Linear, by_columns=by_columns)

    @contextmanager
    def apply_options(self) -> Iterator[None]:
        """A context in which new arrays and operations are the device's of the options."""
        with mx.stream(self.device), suit_borrowed_blas(self._is_borrowed):
            yield

    def _is_by_columns(self, name: str) -> bool:
        """Whether columns of a matrix are contiguous in a model that is not trained.

        A step of one row multiplies it by each matrix, which BLAS does faster so: the borrowed one
        that of the head alone, and whole tiles of rows faster by the others as they are stored. The
        sums are then in another order, so not where the model must equal a learner to the bit.
        """
        if self.ops is not PLAIN or self.options.as_trained:
            return False
        return not self._is_borrowed or name == find_head(self.spec)

    def _load_parameter(
        self,
        array: NDArray[Any],
        training: bool,
        *,
        short: bool = False,
        by_columns: bool = False,
    ) -> Array:
        """Copy a parameter: in master precision to train, unless it is short.

        Else matrices are in that of products.
        """
        is_short = short or (array.ndim > 1 and not training)
        dtype = self.dtype if is_short else self.master
        # By way of float32: weights may come in bfloat16, which MLX does not take from NumPy.
        host = np.asarray(array, np.float64 if dtype == mx.float64 else np.float32)
        by_columns = by_columns and array.ndim == 2
        copies = 1 + by_columns  # beside one in the type of the host
        require_room(self.device, lambda: host.nbytes + copies * host.size * dtype.size)
        tensor = mx.contiguous(mx.array(host, dtype).T).T if by_columns else mx.array(host, dtype)
        mx.eval(tensor)  # now, or all host copies live until the first pass
        return tensor

    def require_pass(
        self,
        rows: int,
        tokens: int,
        keys: int,
        num_logits: int,
        *,
        scores: bool = False,
        cache: tuple[int, int] = (0, 0),
    ) -> None:
        """Raise MemoryError where a forward pass goes beyond the limits of this process.

        keys: that each row attends to. num_logits, scores: as `count_pass_bytes` has them. cache:
        rows and capacity of a KV cache that is made with it.
        """

        def count() -> int:
            a = self.dtype.size
            shape = rows, tokens, keys
            made = count_cache_bytes(self.spec, *cache, a)
            return made + count_pass_bytes(self.spec, *shape, a, num_logits, scores=scores)

        require_room(self.device, count)

    def set_parameters(self, tensors: dict[str, Array]) -> None:
        """Make the named arrays the module's parameters."""
        self.module.update(tree_unflatten(list(tensors.items())))

    def freeze_parameters(self, names: Iterable[str]) -> None:
        """Mark parameters as those whose gradients nobody reads."""
        modules = dict(self.module.named_modules())
        for path, _, name in (one.rpartition(".") for one in names):
            modules[path].freeze(recurse=False, keys=[name])

    def get_parameters(self) -> dict[str, Array]:
        """The module's parameters by name."""
        return dict(tree_flatten(self.module.parameters()))

    def to_device(self, array: ArrayLike, dtype: mx.Dtype = mx.int32) -> Array:
        """A NumPy array as MLX's."""
        return mx.array(np.asarray(array), dtype)

    def make_context(
        self,
        cache: KVCache | None = None,
        segments: Array | None = None,
        positions_in_document: Array | None = None,
        dropout_keys: Array | None = None,
        *,
        recompute: bool = False,
    ) -> Context:
        """The context of a new forward pass."""
        return self.use_context(
            Context(
                self.tables,
                self.dtype,
                cache,
                segments,
                positions_in_document,
                dropout_keys,
                recompute,
            )
        )

    def use_context(self, ctx: Context) -> Context:
        """Show the adapters the context of the pass that begins."""
        for adapter in self.adapters:
            adapter.ctx = ctx
        return ctx

    def find_targets(self, targets: NDArray[np.integer]) -> Array | None:
        """Indices of a flattened micro-batch's targets that are not IGNORE, (N,).

        None where all of them are, or none is. Found on the host, so that the device need not be
        waited for; but each number of them is another shape to compile.
        """
        indices = np.flatnonzero(targets != IGNORE)
        return None if indices.size in (0, targets.size) else self.to_device(indices)

    def make_pair_layout(
        self, targets: NDArray[np.integer], *, everywhere: bool = False
    ) -> PairLayout:
        """index_pair_targets of a micro-batch of pairs, its indices on the device."""
        indices, ends = index_pair_targets(targets, everywhere=everywhere)
        return self.to_device(indices), ends

    def load_segments(
        self, segments: NDArray[np.integer] | None
    ) -> tuple[Array | None, Array | None]:
        """Segments and each token's position in its own, on the device; None, None for None."""
        if segments is None:
            return None, None
        return self.to_device(segments), self.to_device(segment_positions(segments))

    def stage(self, array: Array) -> Callable[[], NDArray[Any]]:
        """What gives an array as `to_numpy` does, to any thread and at any later time.

        Nothing is copied: an array never changes, and is kept for as long as this view of its
        memory, which the host reads as the device does.
        """
        with self.apply_options():
            wide = mx.contiguous(upcast(array))
            mx.eval(wide)
        view = np.asarray(wide)
        view.flags.writeable = False
        return lambda: view

    def to_numpy(self, array: Array) -> NDArray[Any]:
        """A NumPy copy, float32 unless it is float64."""
        return np.array(upcast(array))
