"""Verifies a conversion: what was written, read back, must compute what the source computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hermes.errors import CheckpointError, DataError, MissingBackend
from hermes.interface import Array, Backend, LazyTensors, Options, Tensors, find_backend
from hermes.interop.companions import open_tokenizer
from hermes.interop.dtype import cast
from hermes.interop.open_model import StoredModel
from hermes.numerics.params import count_parameters, list_parameters
from hermes.spec import ModelSpec
from hermes.stages import report_stage
from hermes.storage.safetensors import DTYPES

__all__ = ["Verification", "count_verification_bytes", "verify_conversion"]

# Above this many parameters, layers are compared one at a time on part of the vocabulary, so that a
# model larger than memory can be verified.
MAX_AT_ONCE = 300_000_000
VOCABULARY_ROWS = 1024
PROMPT_LENGTH = 32
PROMPT_STRIDE = 7919  # token ids of the prompt are multiples of this prime
# Equal weights in equal operations: only the order of sums over several threads may differ.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Verification:
    """How far the logits of source and result differ.

    difference: the largest, relative to the root mean square of the logits. backend: the one that
    computed them. passes: 1, or the number of layers if they were compared one by one.
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

    The result's tensors must equal the source's, rounded to the result's dtype. Its architecture
    must compute from them the same logits as the source's architecture does. backend: a name; None
    for an installed one. on_progress: called with "comparing" and the fraction done. Raises
    CheckpointError where they differ, MissingBackend.
    """
    chosen = _choose_backend(backend)
    kept: dict[str, Pair] = {}
    begin = _read_beginning(source)
    passes, distances = _plan_passes(source.spec, result.spec), []
    for number, (source_spec, result_spec, names) in enumerate(passes):
        on_progress("comparing", number / len(passes))
        report_stage("comparing source and result", number, len(passes))
        pairs = _load_pairs(source, result, source_spec, names, kept)
        distances.append(_compare_logits(chosen, source_spec, result_spec, pairs, source, begin))
        del pairs  # frees this layer's tensors before the next one's are read
    report_stage("")
    return Verification(max(distances), chosen.name, len(distances))


def count_verification_bytes(
    spec: ModelSpec, before: Mapping[str, str], after: Mapping[str, str]
) -> int:
    """Count the bytes that comparing two models needs: the largest pass, and the largest tensor.

    before, after: the dtype of each tensor, by its name in files.
    """

    def count(name: str, size: int) -> int:
        stored = np.dtype(DTYPES[before[name]]).itemsize + np.dtype(DTYPES[after[name]]).itemsize
        return size * stored

    largest = 0
    for small, _, names in _plan_passes(spec, spec):
        sizes = {names[one]: tensor.size for one, tensor in list_parameters(small).items()}
        # They are computed in float32.
        largest = max(largest, sum(count(name, size) + 4 * size for name, size in sizes.items()))
    single = max(count(name, one.size) for name, one in list_parameters(spec).items())
    return largest + single


Pair = tuple[Array, Array]


def _compare_logits(
    backend: Backend,
    source_spec: ModelSpec,
    result_spec: ModelSpec,
    pairs: Mapping[str, Pair],
    source: StoredModel,
    begin: int | None,
) -> float:
    """Compare the logits of two models, and return their distance.

    Raises CheckpointError if they differ by more than the rounding of the weights explains.
    """
    before = {name: pair[0] for name, pair in pairs.items()}
    after = {name: pair[1] for name, pair in pairs.items()}
    original = _compute_logits(backend, source_spec, before, begin)
    converted = _compute_logits(backend, result_spec, after, begin)
    # The logits that the source's architecture gives from the result's tensors. A third forward
    # pass is needed only if both the tensors and the architecture changed.
    expected = original
    if any(first is not second for first, second in pairs.values()):
        same = source_spec.identity == result_spec.identity
        expected = converted if same else _compute_logits(backend, source_spec, after, begin)
    error = _measure_distance(converted, expected)
    if error > ROUNDING:
        raise CheckpointError(
            f"the conversion of {source.path} would change its logits by {error:.1e}; nothing was "
            "written"
        )
    return max(_measure_distance(expected, original), error)


def _load_pairs(
    source: StoredModel,
    result: StoredModel,
    spec: ModelSpec,
    names: Mapping[str, str],
    kept: dict[str, Pair],
) -> dict[str, Pair]:
    """Load the tensors of a pass, before and after.

    names: of the pass's tensors, to those in the models. kept: a cache of what every pass needs.
    """
    pairs = {}
    for small, name in names.items():
        rows = list_parameters(spec)[small].shape[0]
        pairs[small] = kept.get(name) or _cut_rows(_compare_tensor(source, result, name), rows)
        if not name.startswith("model.layers."):
            kept[name] = pairs[small]
    return pairs


def _compare_tensor(source: StoredModel, result: StoredModel, name: str) -> Pair:
    """Read a tensor before and after, and check that only rounding changed it.

    Returns the same array twice where nothing was rounded.
    """
    before, after = source.params[name], result.params[name]
    rounded = cast(before, result.dtypes[name], name)
    if rounded.shape != after.shape or not np.array_equal(_view_bits(rounded), _view_bits(after)):
        raise CheckpointError(
            f"tensor {name!r} of {source.path} would be changed by the conversion; nothing was "
            "written"
        )
    return before, before if rounded is before else after


def _cut_rows(pair: Pair, rows: int) -> Pair:
    """Cut both to their first rows, as copies, so that the rest can be freed."""
    before, after = pair
    if len(before) == rows:
        return pair
    first = before[:rows].copy()
    return first, first if before is after else after[:rows].copy()


def _view_bits(array: Array) -> NDArray[np.unsignedinteger]:
    """View a tensor as unsigned integers, so that equal means equal bits, also of NaN and -0."""
    contiguous = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(f"u{contiguous.itemsize}")


def _choose_backend(name: str | None) -> Backend:
    """Find the backend by name, or the first that is installed."""
    for candidate in (name,) if name else ("torch", "mlx"):
        try:
            return find_backend(candidate)
        except MissingBackend:
            if name:
                raise
    return find_backend("numpy")


def _plan_passes(
    source: ModelSpec, result: ModelSpec
) -> list[tuple[ModelSpec, ModelSpec, dict[str, str]]]:
    """Plan the passes: both models as a whole, or each layer by itself.

    A pass is the specs before and after, and its tensors' names to those in the models.
    """
    if count_parameters(source) <= MAX_AT_ONCE:
        return [(source, result, {name: name for name in list_parameters(source)})]
    passes = []
    for i in range(source.num_layers):
        small, own = _extract_layer(source, i), f"model.layers.{i}."
        names = {name: name.replace("model.layers.0.", own) for name in list_parameters(small)}
        passes.append((small, _extract_layer(result, i), names))
    return passes


def _extract_layer(spec: ModelSpec, i: int) -> ModelSpec:
    """Extract layer i as a model of one layer with the first rows of the vocabulary."""
    return replace(
        spec,
        blocks=(spec.layers[i],),
        num_layers=1,
        vocab_size=min(spec.vocab_size, VOCABULARY_ROWS),
        output=replace(spec.output, norm=spec.final_norm),
    )


def _read_beginning(source: StoredModel) -> int | None:
    """Read the token that begins a text of the source; None where none does, or it cannot be read.

    A conversion needs no tokenizer, so one that hermes does not read is no reason to refuse it.
    """
    try:
        tokenizer = open_tokenizer(source.files, source.ids, source.path)
    except DataError:
        return None
    return tokenizer.bos_id if tokenizer is not None and tokenizer.adds_bos else None


def _compute_logits(
    backend: Backend, spec: ModelSpec, params: Tensors, begin: int | None
) -> NDArray[np.floating]:
    """Compute the logits of the fixed prompt on a CPU if there is one. -> (1, T, V).

    begin: the prompt's first token, where the model has a row for it.
    """
    precision = "float64" if backend.name == "numpy" else "float32"
    wide = LazyTensors(params, lambda name: np.asarray(params[name], np.dtype(precision)))
    device = "cpu" if "cpu" in backend.devices() else None
    model = backend.build(spec, wide, Options(device=device, precision=precision))
    length = min(spec.max_seq_len, PROMPT_LENGTH)
    prompt = np.arange(length) * PROMPT_STRIDE % spec.vocab_size
    if begin is not None and begin < spec.vocab_size:
        prompt[0] = begin
    return model.logits(prompt[None, :])


def _measure_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Measure the largest difference, relative to the root mean square of b."""
    return float(np.abs(a - b).max() / np.sqrt((b.astype(np.float64) ** 2).mean()))
