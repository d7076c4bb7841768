"""Tokens that training writes and the model was never trained on: which, and their first rows.

A row (of the embeddings, or of an untied head) was never trained where it is zero, where another
row equals it bit for bit, or where its id stood for no token or for another one before.
"""

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.messages import Conversation, Message
from hermes.chat_templates.template import Template
from hermes.errors import DataError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer

__all__ = [
    "ROWS",
    "find_changed_ids",
    "find_new_rows",
    "find_written_ids",
    "set_rows_to_mean",
    "split_ids_beyond",
]

ROWS = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
# A row this much smaller than a usual one counts as zero: weight decay never quite reaches 0.
TINY = 1e-6
USER: Message = {"role": "user", "content": "a"}
ASSISTANT: Message = {"role": "assistant", "content": "a"}
TRIALS = (
    (USER, ASSISTANT),
    ({"role": "system", "content": "a"}, USER, ASSISTANT, USER, ASSISTANT),
)


def find_written_ids(tokenizer: Tokenizer, template: Template | None) -> frozenset[int]:
    """Find the special tokens that the template writes, and the one that ends a text.

    template: None where no conversation is written.

    Those that its source names, by role or literally, and those of conversations encoded on trial:
    a template may put names together, such as '<|' + role + '|>'.
    """
    if template is None:
        return frozenset() if tokenizer.eos_id is None else frozenset({tokenizer.eos_id})
    encoder = ChatEncoder(tokenizer, template)
    names = {tokenizer.get_token_bytes(i).decode(): i for i in tokenizer.special_ids}
    found = {number for name, number in names.items() if name in template.source}
    if tokenizer.eos_id is not None:
        found.add(tokenizer.eos_id)
    for role, name in template.names.items():
        if name in names and re.search(rf"\b{role}\b", template.source):
            found.add(names[name])
    for trial in TRIALS:
        try:
            written = encoder.encode(Conversation(trial, template.where), whole=True).ids.tolist()
        except DataError:  # a template may refuse a system message
            continue
        found |= tokenizer.special_ids.intersection(written)
    return frozenset(found)


def find_changed_ids(before: Tokenizer, after: Tokenizer) -> frozenset[int]:
    """Find the ids of `after` that stood for no token or for another one in `before`."""
    if after.fingerprint == before.fingerprint:
        return frozenset()
    common = min(before.vocab_size, after.vocab_size)
    changed = {i for i in range(common) if before.find_name(i) != after.find_name(i)}
    return frozenset(changed | set(range(before.vocab_size, after.vocab_size)))


def split_ids_beyond(
    tokenizer: Tokenizer, rows: int, used: Collection[int | None]
) -> tuple[list[int], list[int]]:
    """Split the tokens from `rows` on: those that need rows, and those that are left out.

    A special token that is not `used`, as Gemma 3's <image_soft_token>, is in no text and needs
    none, unless one after it does.
    """
    ids = [i for i in range(rows, tokenizer.vocab_size) if tokenizer.find_name(i) is not None]
    needed = [i for i in ids if i in used or i not in tokenizer.special_ids]
    return needed, [i for i in ids if i > max(needed, default=-1)]


def find_new_rows(
    params: Tensors, candidates: Iterable[int], new_meanings: Collection[int]
) -> dict[str, tuple[int, ...]]:
    """Find the rows of `candidates` that were never trained, of each matrix that has such rows.

    new_meanings: ids that stood for no token or another one when the model was trained. Rows of a
    head that are equal count only where their embeddings were not trained either: the head's rows
    of tokens that are read and never predicted, as those of a role's header, stay equal for ever.
    """
    found: dict[str, tuple[int, ...]] = {}
    embeddings, head = ROWS[:2]
    candidates = sorted(set(candidates))
    for name in (embeddings, head):
        if name not in params:
            continue
        matrix, known = params[name], [i for i in candidates if i < len(params[name])]
        may_equal = found.get(embeddings, ()) if name == head else known
        usual = _measure_usual_size(matrix)
        rows = tuple(
            i
            for i in known
            if i in new_meanings
            or _is_nothing(matrix[i], usual)
            or (i in may_equal and _has_equal(matrix, i))
        )
        if rows:
            found[name] = rows
    return found


def _measure_usual_size(matrix: Array) -> float:
    """The median norm of rows that are not zero, of a thousand rows evenly spread."""
    sample = matrix[:: max(1, len(matrix) // 1000)].astype(np.float32)
    norms = np.linalg.norm(sample, axis=1)
    return float(np.median(norms[norms > 0])) if norms.any() else 0.0


def _is_nothing(values: Array, usual: float) -> bool:
    """Whether a row is zero, or as good as zero."""
    return bool(np.linalg.norm(values.astype(np.float32)) <= TINY * usual)


def _has_equal(matrix: Array, row: int) -> bool:
    """Whether another row is equal to a row, bit for bit."""
    values = matrix[row]
    # Few rows share their first numbers with another: only those are compared whole.
    alike = np.flatnonzero((matrix[:, :4] == values[:4]).all(axis=1))
    return any(i != row and np.array_equal(matrix[i], values) for i in alike)


def set_rows_to_mean(
    spec: ModelSpec, params: Tensors, rows: Mapping[str, tuple[int, ...]], tokens: int
) -> Tensors:
    """The model's tensors with these rows at the mean of the trained ones.

    rows: of the embeddings and the head, by name. tokens: the number of tokens that the model had;
    rows from there on stood for none. A bias of the head follows its matrix.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    head = "lm_head.weight" if "lm_head.weight" in params else "model.embed_tokens.weight"
    all_rows = {**rows, "lm_head.bias": rows.get(head, ())}

    def make(name: str) -> Array:
        tensor = params[name]
        ids = list(all_rows.get(name, ()))
        if not ids:
            return tensor
        others = np.ones(len(tensor), bool)
        others[ids] = others[tokens:] = False
        if tensor.ndim > 1 and (others & tensor.any(axis=1)).any():
            others &= tensor.any(axis=1)
        if not others.any():
            return tensor
        changed = np.array(tensor)
        changed[ids] = _compute_mean(tensor, others).astype(tensor.dtype)
        return changed

    return LazyTensors(list_parameters(spec), make)


def _compute_mean(tensor: Array, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of the chosen rows in float64, a part of the tensor at a time."""
    total: NDArray[np.float64] = np.zeros(tensor.shape[1:])
    for begin in range(0, len(tensor), 4096):
        part = slice(begin, begin + 4096)
        total += tensor[part][chosen[part]].astype(np.float64).sum(axis=0)
    return total / int(chosen.sum())
