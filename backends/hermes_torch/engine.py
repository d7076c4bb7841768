"""A built model: module, tables, device and type; evaluation and decoding with it."""

import numpy as np
import torch

from hermes.adapters import adapter_tensors
from hermes.errors import HermesError, Unsupported
from hermes.params import parameters
from hermes.positions import segment_positions
from hermes.seam import IGNORE, LazyTensors, check_tokens
from hermes.slices import pair_tokens
from hermes_torch.adapter import adapt
from hermes_torch.context import Context, Memory, Tables
from hermes_torch.loss import preference, wide
from hermes_torch.model import Transformer
from hermes_torch.modes import as_asked, has_tf32
from hermes_torch.ops import EXACT, FAST
from hermes_torch.packing import pack, packs

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

    def forward(self, tokens, here, score=None, *wanted):
        """Logits, or what `score` makes of the module and the stack's output (B, T, C)."""
        if score is None:
            return super().forward(tokens, here)
        return score(self, self.model(tokens, here), *wanted)


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
        self.table = {**parameters(spec), **(adapter_tensors(spec, lora) if lora else {})}
        self.names = tuple(self.table)
        if shards:
            shards.split(self.module, self.dtype, self.master)
        loaded = {name: self.placed(params[name], training) for name in self.names}
        self.module.load_state_dict(loaded, assign=True)
        as_trained = training or exact or options.as_trained
        if not as_trained and packs(self.device, self.dtype):
            pack(self.module)

    def on(self):
        """A block that computes as the options ask."""
        return as_asked(self.options)

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
        return self._scored(e.ops.logprobs, tokens, targets, e.counted(targets), segments)

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
            return e.read(self._scored(e.ops.row_logprobs, tokens, targets, e.by_pair(targets)))

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
        return float(total) / max(batch.counted, 1)

    @torch.no_grad()
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
        return float(total) / max(batch.counted, 1), np.stack(rows)

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
        self._memory = Memory(engine.spec.num_layers, capacity)

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
        e, here = self._engine, self._engine.context(self._memory)
        with e.on():
            x = e.module.model(e.tensor(tokens), here)[:, -1]
            logits = e.module.logits(x)
        self._memory.length = length
        return e.read(logits)
