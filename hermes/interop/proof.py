"""The proof at the end of a conversion: what was written, read back, computes what was read."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hermes.errors import CheckpointError, MissingBackend
from hermes.interop.cast import cast
from hermes.interop.source import Source
from hermes.params import Tensor, parameters, tensor_count
from hermes.seam import Array, Backend, LazyTensors, Options, Tensors, find_backend
from hermes.spec import ModelSpec

__all__ = ["Proof", "prove"]

# Above this many parameters the layers are tried one at a time, on part of the vocabulary, so that
# a model much larger than memory is proved too.
AT_ONCE = 300_000_000
ROWS = 1024
LENGTH = 32
STRIDE = 7919  # token ids of the prompt are multiples of this prime
# Equal weights in equal operations: nothing but the order of sums on several threads may differ.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Proof:
    """How far the logits of source and result are apart.

    difference: the largest, over the root mean square of the logits. backend: what computed them.
    passes: 1, or how many layers were tried one by one.
    """

    difference: float
    backend: str
    passes: int


def prove(source: Source, result: Source, backend: str | None = None) -> Proof:
    """Compare two models: every tensor bit by bit, and the logits of a fixed prompt.

    The result's tensors must be the source's, rounded to the result's dtype, and give the logits
    that those give under the source's architecture. backend: its name; None for one that is
    installed. Raises CheckpointError where they do not, MissingBackend.
    """
    rounded = False
    for name in source.params:
        there, here = source.params[name], result.params[name]
        rounded = rounded or there.dtype != here.dtype
        if not np.array_equal(cast(there, result.dtypes[name], name), here):
            raise CheckpointError(
                f"tensor {name!r} of {source.path} did not come out as it went in; nothing was "
                "written"
            )
    engine = _engine(backend)
    worst, passes = 0.0, 0
    for one, other, part in _passes(source.spec, result.spec):
        logits = _logits(engine, other, part(result.params))
        plain = _logits(engine, one, part(source.params))
        exact = plain
        if rounded:
            same = LazyTensors(source.params, lambda n: cast(source.params[n], result.dtypes[n], n))
            exact = _logits(engine, one, part(same))
        if (error := _distance(logits, exact)) > ROUNDING:
            raise CheckpointError(
                f"what was made of {source.path} gives logits {error:.1e} from its own; nothing "
                "was written"
            )
        worst, passes = max(worst, _distance(logits, plain)), passes + 1
    return Proof(worst, engine.name, passes)


def _engine(name: str | None) -> Backend:
    """The backend of that name, or the first that is installed."""
    for candidate in (name,) if name else ("torch", "mlx"):
        try:
            return find_backend(candidate)
        except MissingBackend:
            if name:
                raise
    return find_backend("numpy")


Part = Callable[[Tensors], Tensors]


def _passes(one: ModelSpec, other: ModelSpec) -> Iterator[tuple[ModelSpec, ModelSpec, Part]]:
    """What is tried: both models whole, or each of their layers by itself."""
    if tensor_count(one) <= AT_ONCE:
        yield one, other, lambda params: params
        return
    for i in range(one.num_layers):
        small = _layer(one, i)
        yield small, _layer(other, i), partial(_part, parameters(small), i)


def _layer(spec: ModelSpec, i: int) -> ModelSpec:
    """A model of one layer and the first rows of the vocabulary."""
    return replace(
        spec,
        blocks=(spec.layers[i],),
        num_layers=1,
        vocab_size=min(spec.vocab_size, ROWS),
        output=replace(spec.output, norm=spec.final_norm),
    )


def _part(table: Mapping[str, Tensor], i: int, params: Tensors) -> Tensors:
    def make(name: str) -> Array:
        whole = params[name.replace("model.layers.0.", f"model.layers.{i}.")]
        return whole[: table[name].shape[0]]

    return LazyTensors(table, make)


def _logits(engine: Backend, spec: ModelSpec, params: Tensors) -> NDArray[np.floating]:
    precision = "float64" if engine.name == "numpy" else "float32"
    wide = LazyTensors(params, lambda name: np.asarray(params[name], np.dtype(precision)))
    device = "cpu" if "cpu" in engine.devices() else None
    model = engine.build(spec, wide, Options(device=device, precision=precision))
    length = min(spec.max_seq_len, LENGTH)
    return model.logits(np.arange(length)[None, :] * STRIDE % spec.vocab_size)


def _distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The largest difference over the root mean square."""
    return float(np.abs(a - b).max() / np.sqrt((b.astype(np.float64) ** 2).mean()))
