"""Checks that a checkpoint belongs to a given model and tokenizer."""

import dataclasses
from collections.abc import Sequence
from operator import index
from pathlib import Path

from hermes.errors import CheckpointError
from hermes.spec import ModelSpec
from hermes.storage.strict_json import parse_json

__all__ = [
    "describe_tokens_beyond",
    "list_tokens_beyond",
    "require_model",
    "require_vocabulary",
]


def require_model(where: Path, there: ModelSpec, here: ModelSpec, advice: str) -> None:
    """Raise CheckpointError where two models differ, naming the first difference.

    where: the checkpoint, whose model is `there`. advice: what to do, the end of the message.
    """
    if there.identity == here.identity:
        return
    difference = (
        _find_difference("", _flatten_spec(there), _flatten_spec(here)) or "the shape differs"
    )
    raise CheckpointError(
        f"checkpoint {where} was written for another model: {difference}; {advice}"
    )


def _flatten_spec(spec: ModelSpec) -> dict[str, object]:
    """List the fields that decide a model's numbers by name, with derived ones filled in."""
    resolved = dataclasses.replace(
        spec, output=dataclasses.replace(spec.output, norm=spec.final_norm)
    )
    sizes = ("vocab_size", "max_seq_len", "hidden_size", "num_layers", "learned_positions")
    plain = {name: getattr(resolved, name) for name in sizes}
    plain |= {f"layers.{i}": layer for i, layer in enumerate(spec.layers)}
    return plain | {"embeddings": resolved.embeddings, "output": resolved.output}


def _find_difference(name: str, there: object, here: object) -> str:
    if there == here:
        return ""
    if dataclasses.is_dataclass(there) and type(there) is type(here):
        there, here = vars(there), vars(here)
    if isinstance(there, dict) and isinstance(here, dict):
        fields = ((key, there[key], here.get(key)) for key in there)
        return next(filter(None, (_find_difference(f"{name}.{k}", a, b) for k, a, b in fields)), "")
    return f"{name.removeprefix('.')} {there} there, {here} here"


def require_vocabulary(tokenizer: bytes, spec: ModelSpec, where: str) -> None:
    """Raise CheckpointError where a tokenizer.json has ids beyond the model's embedding.

    Special tokens may be beyond it, as in `list_tokens_beyond`.
    """
    words, added, special = _read_ids(tokenizer, where)
    ids = words | set(added.values())
    _require_rows(1 + max(ids - special, default=-1), spec, where)


def list_tokens_beyond(tokenizer: bytes, spec: ModelSpec, where: str) -> tuple[str, ...]:
    """List the added tokens of a tokenizer.json that have no row in the model's embedding.

    Gemma 3's <image_soft_token> is one. Raises CheckpointError where a word of the vocabulary
    itself has none, which makes it another model's tokenizer.
    """
    words, added, _ = _read_ids(tokenizer, where)
    _require_rows(1 + max(words - set(added.values()), default=-1), spec, where)
    return tuple(name for name, number in added.items() if number >= spec.vocab_size)


def describe_tokens_beyond(names: Sequence[str]) -> str:
    """Say what follows for added tokens that have no row in the model."""
    return (
        f"{', '.join(names)} of the tokenizer has no row in the model: it is never made, and no "
        "text may have it"
    )


def _read_ids(tokenizer: bytes, where: str) -> tuple[set[int], dict[str, int], set[int]]:
    """Read the ids of the vocabulary's words, of added tokens by name, and of special ones."""
    body = parse_json(tokenizer, where)
    try:
        words, added = body["model"].get("vocab", {}), body.get("added_tokens") or []
        names = {str(entry.get("content", entry["id"])): index(entry["id"]) for entry in added}
        special = {index(entry["id"]) for entry in added if entry.get("special") is True}
        listed = words.values() if isinstance(words, dict) else range(len(words))
        ids = {index(number) for number in listed}
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError(f"{where} is not a tokenizer.json") from None
    return ids, names, special


def _require_rows(tokens: int, spec: ModelSpec, where: str) -> None:
    if tokens > spec.vocab_size:
        raise CheckpointError(
            f"{where} has {tokens} tokens, but the model's vocab_size is {spec.vocab_size}; "
            "use the tokenizer that it was trained with"
        )
