"""A built model: module, tables, device and type; evaluation and decoding with it."""

import numpy as np
import torch

from hermes.errors import Unsupported
from hermes.interface import IGNORE
from hermes.numerics.chunking import index_pair_targets
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters
from hermes.numerics.positions import segment_positions
from hermes_torch.context import Context, Tables
from hermes_torch.global_state import applied_options, has_tf32
from hermes_torch.lora import adapt
from hermes_torch.loss import wide
from hermes_torch.model import Transformer
from hermes_torch.ops import EXACT, FAST
from hermes_torch.weight_layout import can_pack, pack_weights

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "tf32": torch.float32,
}


def devices():
    """The devices at hand, the preferred one first."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return (*(["cuda"] if cuda else []), "cpu", *cuda)


class Network(Transformer):
    """The Transformer, which what shards it sees as one call, whatever is made of its stack."""

    def forward(self, tokens, ctx, score=None, *wanted):
        """Logits, or what `score` makes of the module and the stack's output (B, T, C)."""
        if score is None:
            return super().forward(tokens, ctx)
        return score(self, self.model(tokens, ctx), *wanted)


class Engine:
    """What evaluation and training share: the module and how to run it.

    master: the type of weights and moments; dtype: of activations and matrix products.
    """

    def __init__(self, spec, params, options, *, training, lora=None, shards=None):
        if options.precision not in DTYPES:
            raise Unsupported(
                f"hermes_torch does not compute in {options.precision}; "
                f"it does in {', '.join(DTYPES)}"
            )
        name = options.device or devices()[0]
        if name not in devices():
            raise Unsupported(
                f"hermes_torch has no device {name!r} here; it has {', '.join(devices())}"
            )
        self.spec, self.options, self.shards = spec, options, shards
        self.device = torch.device(name)
        if options.precision == "tf32" and not has_tf32(self.device):
            raise Unsupported(
                f"hermes_torch computes in tf32 on CUDA's devices that do, not on {name!r}"
            )
        self.dtype = DTYPES[options.precision]
        self.master = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.tables = Tables(spec, self.device, self.master)
        exact = options.exact or self.dtype == torch.float64
        self.ops = EXACT if exact else FAST
        self.module = Network(spec, self.ops)
        self.adapters = adapt(self.module, spec, lora) if lora else []
        self.table = {**list_parameters(spec), **(list_adapter_tensors(spec, lora) if lora else {})}
        self.names = tuple(self.table)
        if shards:
            shards.split(self.module, self.dtype, self.master)
        loaded = {name: self.placed(params[name], training) for name in self.names}
        self.module.load_state_dict(loaded, assign=True)
        as_trained = training or exact or options.as_trained
        if not as_trained and can_pack(self.device, self.dtype):
            pack_weights(self.module)

    def on(self):
        """A block that computes as the options ask."""
        return applied_options(self.options)

    def placed(self, array, training):
        """A parameter on the device: in master precision to train, else matrices as computed.

        Of a module that is split, this process's part.
        """
        matrix = array.ndim > 1 and not training
        dtype = self.dtype if matrix else self.master
        # Through float32: weights may come in bfloat16, which torch does not take from NumPy.
        host = np.array(array, np.float64 if dtype == torch.float64 else np.float32)
        tensor = torch.from_numpy(host).to(device=self.device, dtype=dtype)
        return self.shards.part(tensor) if self.shards else tensor

    def local(self, tensor):
        """What this process holds of a tensor: all of it, unless the module is split."""
        return self.shards.local(tensor) if self.shards else tensor

    def tensor(self, array, dtype=torch.long):
        """A NumPy array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=self.device, dtype=dtype)

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
        """Segments and the positions inside them, on the device; None, None for None."""
        if segments is None:
            return None, None
        return self.tensor(segments), self.tensor(segment_positions(segments))

    def read(self, tensor):
        """As NumPy, float32 unless it is float64; on a CPU it may be the tensor's own memory."""
        return self._whole(tensor).cpu().numpy()

    def copied(self, tensor):
        """The same in memory of its own, which no later update changes."""
        return self._whole(tensor).to("cpu", copy=True).numpy()

    def _whole(self, tensor):
        whole = self.shards.whole(tensor.detach()) if self.shards else tensor.detach()
        return wide(whole.to_dense() if whole.is_mkldnn else whole)
