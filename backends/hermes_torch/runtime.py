"""A built model and how it runs: module, position tables, device, dtypes, moving of arrays."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor as Array

from hermes.errors import Unsupported
from hermes.host_allocator import map_large_arrays
from hermes.interface import IGNORE, Options, Tensors
from hermes.numerics.chunking import index_pair_targets
from hermes.numerics.frozen import FrozenWeights
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters
from hermes.numerics.positions import find_boundaries, segment_positions
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_torch.cache import KVCache
from hermes_torch.context import Context, PositionTables
from hermes_torch.fused_attention import NO_KERNELS, find_kernels
from hermes_torch.global_state import (
    apply_options,
    has_tf32,
    limit_kernel_caches,
    use_expandable_segments,
)
from hermes_torch.host_copies import HostCopies
from hermes_torch.joined_weights import join_weights
from hermes_torch.lora import adapt
from hermes_torch.loss import upcast
from hermes_torch.model import Linear, Transformer
from hermes_torch.ops import EXACT, FAST, Ops
from hermes_torch.pair_groups import PairLayout
from hermes_torch.recomputation import Recompute
from hermes_torch.weight_layout import PackedRows, can_pack, pack_weights

if TYPE_CHECKING:
    from hermes_torch.sharding import Shards

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "tf32": torch.float32,
}


def list_devices() -> tuple[str, ...]:
    """The devices of this machine, the preferred one first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return (*(["cuda"] if cuda else []), "cpu", *cuda)


class Network(Transformer):
    """A Transformer whose loss is computed inside one call of the module.

    FSDP and DDP hook into calls of modules: parameters that a loss reads outside of one (the
    head's) would not be gathered.
    """

    def __init__(self, spec: ModelSpec, ops: Ops):
        super().__init__(spec, ops)
        self.attentions = tuple(dict.fromkeys(spec.attentions))

    def forward(self, tokens: Array, ctx: Context, score: Any = None, *args: Any) -> Any:
        """Logits, or score(self, the stack's output (B, T, C), *args)."""
        if ctx.cache is None:
            ctx.prepare_masks(self.attentions, tokens.shape[1])
        if score is None:
            return super().forward(tokens, ctx)
        return score(self, self.model(tokens, ctx), *args)


def compute_last_logits(network: Network, x: Array, last: Array | None) -> Array:
    """Logits after each row's position `last`, (B,), None for its last. (B, T, C) -> (B, V)."""
    x = x[:, -1] if last is None else x[torch.arange(len(x), device=x.device), last]
    return network.compute_logits(x)


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
        shards: "Shards | None" = None,
        frozen: FrozenWeights | None = None,
    ):
        name = options.device or list_devices()[0]
        if name not in list_devices():
            raise Unsupported(
                f"hermes_torch has no device {name!r} here; it has {', '.join(list_devices())}"
            )
        self.spec, self.options, self.shards, self.frozen = spec, options, shards, frozen
        self.device = torch.device(name)
        if training and self.device.type == "cuda":
            use_expandable_segments()
        if not training and self.device.type == "cpu":
            limit_kernel_caches()
        if options.precision == "tf32" and not has_tf32(self.device):
            raise Unsupported(
                f"hermes_torch computes in tf32 on CUDA's devices that do, not on {name!r}"
            )
        self.dtype = DTYPES[options.precision]
        self.master = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.tables = PositionTables(spec, self.device, self.master)
        exact = options.exact or self.dtype == torch.float64
        self.ops = EXACT if exact else FAST
        self.kernels = NO_KERNELS if exact else find_kernels(self.device, self.dtype, options)
        self.copies = HostCopies(self.device, beside=training)
        self._room = 1  # documents of a micro-batch, for load_boundaries
        self.module = Network(spec, self.ops)
        self.adapters = adapt(self.module, spec, lora, self.device) if lora else []
        self.table = {**list_parameters(spec), **(list_adapter_tensors(spec, lora) if lora else {})}
        self.names = tuple(self.table)
        if training and self.device.type == "cpu":
            map_large_arrays(self)
        if shards:
            shards.split(self.module, self.dtype, self.master)
        loaded = {}
        for name in self.names:
            array = params[name]
            is_short = frozen is not None and frozen.shorten(name, array)
            loaded[name] = self.load_parameter(array, training, short=is_short)
        self.module.load_state_dict(loaded, assign=True)
        as_trained = training or exact or options.as_trained
        self._packed_rows: dict[str, PackedRows] = {}
        if not as_trained and can_pack(self.device, self.dtype):
            self._packed_rows = pack_weights(self.module)
        elif not exact:
            join_weights(self.module, Linear, sharded=bool(shards))

    @property
    def is_packed(self) -> bool:
        """Whether matrices are in oneDNN's layout."""
        return bool(self._packed_rows)

    def apply_options(self) -> contextlib.ExitStack:
        """A context in which torch's process-wide settings are those of the options."""
        return apply_options(self.options)

    def load_parameter(self, array: NDArray[Any], training: bool, *, short: bool = False) -> Array:
        """Copy a parameter to the device; of a sharded matrix, this process's rows.

        In master precision to train, unless it is short; else matrices are in the dtype of
        products.
        """
        is_short = short or (array.ndim > 1 and not training)
        dtype = self.dtype if is_short else self.master
        # By way of float32: weights may come in bfloat16, which torch does not take from NumPy.
        host = np.array(array, np.float64 if dtype == torch.float64 else np.float32)
        tensor = torch.from_numpy(host).to(device=self.device, dtype=dtype)
        return self.shards.take_shard(tensor) if self.shards else tensor

    def read_parameter(self, name: str, tensor: Array) -> NDArray[Any]:
        """A parameter of the module, in memory of its own, wherever its numbers are."""
        packed = self._packed_rows.get(name)
        return self.copy_to_numpy(tensor if packed is None else packed.read())

    @property
    def stages(self) -> bool:
        """Whether tensors are saved from copies that are not whole on the host when they begin."""
        return self.copies.runs_ahead or self.shards is not None

    def stage(self, tensor: Array) -> Callable[[], NDArray[Any]]:
        """Begin copy_to_numpy while the device goes on; what is returned waits for the copy.

        Of a sharded tensor this process's rows are copied; all processes read it together.
        """
        wait = self.copies.begin(self.to_local(tensor.detach()))
        return self.finish_staging(tensor, lambda: upcast(wait()))

    def finish_staging(
        self, tensor: Array, read: Callable[[], Array]
    ) -> Callable[[], NDArray[Any]]:
        """What gives a tensor of which read() is this process's part, on the host."""
        gather = self.shards.stage(tensor, read) if self.shards else read
        return lambda: gather().numpy()

    def to_local(self, tensor: Array) -> Array:
        """The part of a tensor that this process holds: all of it, unless it is sharded."""
        return self.shards.to_local(tensor) if self.shards else tensor

    def to_device(self, array: ArrayLike, dtype: torch.dtype = torch.long) -> Array:
        """Copy a NumPy array to the device, and cast it there; CUDA is not waited for.

        CUDA copies from pinned memory, which torch keeps until the copy is made.
        """
        host = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type != "cuda":
            return host.to(device=self.device, dtype=dtype)
        return host.pin_memory().to(self.device, non_blocking=True).to(dtype)

    def make_context(
        self,
        cache: KVCache | None = None,
        segments: Array | None = None,
        positions_in_document: Array | None = None,
        dropout_keys: Array | None = None,
        boundaries: Array | None = None,
        *,
        recompute: Recompute | None = None,
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
                boundaries,
                self.kernels,
            )
        )

    def use_context(self, ctx: Context) -> Context:
        """Show the adapters the context of the pass that begins."""
        for adapter in self.adapters:
            adapter.ctx = ctx
        return ctx

    def compute_last_logits(
        self, tokens: Array, ctx: Context, last: Array | None = None
    ) -> NDArray[np.floating]:
        """The logits of a pass of decoding, after each row's position `last`. (B, T) -> (B, V).

        Of a sharded model in all processes alike, which call it together.
        """
        if self.shards is None:
            return self.to_numpy(self.module(tokens, ctx, compute_last_logits, last))
        with self.shards.decode():
            logits = self.module(tokens, ctx, compute_last_logits, last)
            return self.to_numpy(self.shards.send_from_first(logits))

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
        both = self.to_device(np.stack([segments, segment_positions(segments)]))
        return both[0], both[1]

    def load_boundaries(self, segments: NDArray[np.integer] | None) -> Array | None:
        """Where documents begin in the flattened batch, and its end, for attention that asks.

        Of as many documents as a power of two, and as any batch before, so that few shapes compile:
        those beyond the last are empty. None where no kernel asks. (..., B, T) -> (..., N + 1)
        int32, of each batch (B, T) its own
        """
        if segments is None or not self.kernels.varlen:
            return None
        *before, rows, length = segments.shape
        found = [find_boundaries(one) for one in segments.reshape(-1, rows, length)]
        most = max(len(boundaries) for boundaries in found) - 1
        self._room = max(self._room, 1 << (most - 1).bit_length())
        padded = [np.pad(one, (0, self._room + 1 - len(one)), mode="edge") for one in found]
        return self.to_device(np.reshape(padded, (*before, self._room + 1)), torch.int32)

    def to_numpy(self, tensor: Array) -> NDArray[Any]:
        """As NumPy, float32 unless it is float64. On a CPU it may share the tensor's memory."""
        return self._gather(tensor).cpu().numpy()

    def copy_to_numpy(self, tensor: Array) -> NDArray[Any]:
        """As to_numpy, in memory of its own, which no later step changes."""
        return self._gather(tensor).to("cpu", copy=True).numpy()

    def _gather(self, tensor: Array) -> Array:
        tensor = self.shards.gather(tensor.detach()) if self.shards else tensor.detach()
        return upcast(tensor.to_dense() if tensor.is_mkldnn else tensor)
