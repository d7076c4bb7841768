"""Of what a layer's memory is counted: a micro-batch, what of the layer is trained, and its norms.

Letters: activations.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hermes.recipe import Lora
from hermes.spec import LayerNorm, NoNorm
from hermes.spec.parts import Norm

__all__ = ["ALL_TRAINED", "BITS", "LayerTraining", "Shape", "count_norm_bytes"]

BITS = 1  # bytes of an element of a boolean mask


@dataclass(frozen=True)
class Shape:
    """A micro-batch and what computes it.

    backend: 'torch' or 'mlx'. device: 'cpu', or what else computes. activation, master: bytes of an
    element of the activations, and of weights and statistics. has_kernels: whether attention has
    CUDA's kernels, as torch has there; has_flex: the one for every form among them, which is
    compiled.
    """

    batch_size: int
    seq_len: int
    backend: str = "torch"
    device: str = "cpu"
    activation: int = 4
    master: int = 4
    document_mask: bool = False
    dropout: bool = True
    has_kernels: bool = False
    has_flex: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.batch_size * self.seq_len

    @property
    def is_torch(self) -> bool:
        """Whether torch computes it."""
        return self.backend == "torch"


@dataclass(frozen=True)
class LayerTraining:
    """What of a layer is trained, on which it depends what its products keep.

    matrices: those that are, by the last part of their name; None for all. norms: whether any norm
    is. lora: the adapters beside frozen matrices.
    """

    matrices: frozenset[str] | None = None
    norms: bool = True
    lora: Lora | None = None

    def is_trained(self, name: str) -> bool:
        """Whether a matrix itself is trained."""
        return self.matrices is None or name in self.matrices

    def is_adapted(self, *names: str) -> bool:
        """Whether any of these matrices has an adapter."""
        return self.lora is not None and any(name in self.lora.targets for name in names)

    def count_input_bytes(self, elements: int, shape: Shape, *names: str) -> int:
        """Count what is kept of one input of these products: itself, if a gradient reads it.

        With dropout each adapter reads a copy of its own.
        """
        size, kept = elements * shape.activation, 0
        adapted = [name for name in names if self.is_adapted(name)]
        drops = bool(shape.dropout and self.lora and self.lora.dropout)
        if any(map(self.is_trained, names)) or (adapted and not drops):
            kept = size
        return kept + (size + elements * BITS) * len(adapted) * drops

    def count_adapter_bytes(self, shape: Shape, sizes: Mapping[str, tuple[int, int]]) -> int:
        """Count what adapters keep beside their input. sizes: a matrix's (inputs, outputs)."""
        if self.lora is None:
            return 0
        N, a, rank, kept = shape.tokens, shape.activation, self.lora.rank, 0
        for name, (inputs, outputs) in sizes.items():
            if self.is_adapted(name):
                kept += N * a * rank
                # What DoRA scales by rows, and by what: also before it is in that type.
                kept += (N * a + a + shape.master) * outputs * self.lora.dora
                kept += a * rank * (inputs + outputs) * (a < shape.master)  # A and B in that type
        return kept


ALL_TRAINED = LayerTraining()


def count_norm_bytes(norm: Norm, size: int, shape: Shape, *, trained: bool = True) -> int:
    """Count what a norm keeps for each vector of this size: its input and statistics."""
    wide = shape.master
    match norm:
        case NoNorm():
            return 0
        case LayerNorm():
            return wide * (size + 2 * shape.is_torch)
    # On the CPU, torch's RMSNorm is written out: it keeps the normalized vector, too, for its
    # weight's gradient.
    written_out = shape.is_torch and shape.device == "cpu" and trained
    return wide * (size * (1 + written_out) + shape.is_torch)
