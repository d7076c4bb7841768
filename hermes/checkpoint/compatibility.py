"""Checks that a checkpoint belongs to a given model and tokenizer."""

import dataclasses
from pathlib import Path

from hermes.errors import CheckpointError
from hermes.spec import ModelSpec
from hermes.storage.strict_json import parse_json

__all__ = ["require_model", "require_vocabulary"]


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
    """Raise CheckpointError where a tokenizer.json has ids beyond the model's embedding."""
    body = parse_json(tokenizer, where)
    try:
        words, added = body["model"].get("vocab", {}), body.get("added_tokens") or []
        ids = [entry["id"] for entry in added]
        ids += words.values() if isinstance(words, dict) else [len(words) - 1]
        tokens = 1 + max(ids, default=-1)
    except (AttributeError, LookupError, TypeError):
        raise CheckpointError(f"{where} is not a tokenizer.json") from None
    if tokens > spec.vocab_size:
        raise CheckpointError(
            f"{where} has {tokens} tokens, but the model's vocab_size is {spec.vocab_size}; "
            "use the tokenizer that it was trained with"
        )
