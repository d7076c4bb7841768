"""The proof at the end of a conversion: what was written, read back, computes what was read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hermes.errors import CheckpointError, MissingBackend
from hermes.interface import Array, Backend, LazyTensors, Options, Tensors, find_backend
from hermes.interop.dtype import cast
from hermes.interop.open_model import StoredModel
from hermes.numerics.params import count_parameters, list_parameters
from hermes.spec import ModelSpec

__all__ = ["Verification", "verify_conversion"]

# Above this many parameters the layers are tried one at a time, on part of the vocabulary, so that
# a model much larger than memory is proved too.
AT_ONCE = 300_000_000
ROWS = 1024
LENGTH = 32
STRIDE = 7919  # token ids of the prompt are multiples of this prime
# Equal weights in equal operations: nothing but the order of sums on several threads may differ.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Verification:
    """How far the logits of source and result are apart.

    difference: the largest, over the root mean square of the logits. backend: what computed them.
    passes: 1, or how many layers were tried one by one.
    """

    difference: float
    backend: str
    passes: int


def verify_conversion(
    source: StoredModel,
    result: StoredModel,
    backend: str | None = None,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
) -> Verification:
    """Compare two models: every tensor bit by bit, and the logits of a fixed prompt.

    The result's tensors must be the source's, rounded to the result's dtype, and give the logits
    that those give under the source's architecture. backend: its name; None for one that is
    installed. on_progress: told what share is done. Raises CheckpointError where they differ,
    MissingBackend.
    """
    engine = _choose_backend(backend)
    kept: dict[str, Pair] = {}
    passes, found = _plan_passes(source.spec, result.spec), []
    for number, (one, other, names) in enumerate(passes):
        on_progress("comparing", number / len(passes))
        pairs = _load_pairs(source, result, one, names, kept)
        found.append(_compare_logits(engine, one, other, pairs, source))
        del pairs  # before those of the next layer are read
    return Verification(max(found), engine.name, len(found))


Pair = tuple[Array, Array]


def _compare_logits(
    engine: Backend,
    one: ModelSpec,
    other: ModelSpec,
    pairs: Mapping[str, Pair],
    source: StoredModel,
) -> float:
    """The distance of two models' logits. Raises CheckpointError where rounding is no reason."""
    before = {name: pair[0] for name, pair in pairs.items()}
    after = {name: pair[1] for name, pair in pairs.items()}
    plain, result = _compute_logits(engine, one, before), _compute_logits(engine, other, after)
    exact = plain
    if any(first is not second for first, second in pairs.values()):
        # Equal tensors under an equal architecture need no third pass.
        exact = result if one.identity == other.identity else _compute_logits(engine, one, after)
    error = _measure_distance(result, exact)
    if error > ROUNDING:
        raise CheckpointError(
            f"what was made of {source.path} gives logits {error:.1e} from its own; nothing was "
            "written"
        )
    return max(_measure_distance(exact, plain), error)


def _load_pairs(
    source: StoredModel,
    result: StoredModel,
    one: ModelSpec,
    names: Mapping[str, str],
    kept: dict[str, Pair],
) -> dict[str, Pair]:
    """The tensors of a pass, before and after; `kept`: those that every layer's pass needs."""
    pairs = {}
    for small, name in names.items():
        rows = list_parameters(one)[small].shape[0]
        pairs[small] = kept.get(name) or _cut_rows(_compare_tensor(source, result, name), rows)
        if not name.startswith("model.layers."):
            kept[name] = pairs[small]
    return pairs


def _compare_tensor(source: StoredModel, result: StoredModel, name: str) -> Pair:
    """A tensor before and after, twice the same array where no number had to be rounded."""
    before, after = source.params[name], result.params[name]
    rounded = cast(before, result.dtypes[name], name)
    if rounded.shape != after.shape or not np.array_equal(_view_bits(rounded), _view_bits(after)):
        raise CheckpointError(
            f"tensor {name!r} of {source.path} did not come out as it went in; nothing was written"
        )
    return before, before if rounded is before else after


def _cut_rows(pair: Pair, rows: int) -> Pair:
    """The first rows of both, without holding on to the others."""
    before, after = pair
    if len(before) == rows:
        return pair
    first = before[:rows].copy()
    return first, first if before is after else after[:rows].copy()


def _view_bits(array: Array) -> NDArray[np.unsignedinteger]:
    whole = np.ascontiguousarray(array)
    return whole.reshape(-1).view(f"u{whole.itemsize}")


def _choose_backend(name: str | None) -> Backend:
    """The backend of that name, or the first that is installed."""
    for candidate in (name,) if name else ("torch", "mlx"):
        try:
            return find_backend(candidate)
        except MissingBackend:
            if name:
                raise
    return find_backend("numpy")


def _plan_passes(
    one: ModelSpec, other: ModelSpec
) -> list[tuple[ModelSpec, ModelSpec, dict[str, str]]]:
    """What is tried, and whose tensors by name: both models whole, or each layer by itself."""
    if count_parameters(one) <= AT_ONCE:
        return [(one, other, {name: name for name in list_parameters(one)})]
    passes = []
    for i in range(one.num_layers):
        small, own = _extract_layer(one, i), f"model.layers.{i}."
        names = {name: name.replace("model.layers.0.", own) for name in list_parameters(small)}
        passes.append((small, _extract_layer(other, i), names))
    return passes


def _extract_layer(spec: ModelSpec, i: int) -> ModelSpec:
    """A model of one layer and the first rows of the vocabulary."""
    return replace(
        spec,
        blocks=(spec.layers[i],),
        num_layers=1,
        vocab_size=min(spec.vocab_size, ROWS),
        output=replace(spec.output, norm=spec.final_norm),
    )


def _compute_logits(engine: Backend, spec: ModelSpec, params: Tensors) -> NDArray[np.floating]:
    precision = "float64" if engine.name == "numpy" else "float32"
    wide = LazyTensors(params, lambda name: np.asarray(params[name], np.dtype(precision)))
    device = "cpu" if "cpu" in engine.devices() else None
    model = engine.build(spec, wide, Options(device=device, precision=precision))
    length = min(spec.max_seq_len, LENGTH)
    return model.logits(np.arange(length)[None, :] * STRIDE % spec.vocab_size)


def _measure_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The largest difference over the root mean square."""
    return float(np.abs(a - b).max() / np.sqrt((b.astype(np.float64) ** 2).mean()))
