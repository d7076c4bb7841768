"""Refuses a run whose ranks differ in request, data or software, before they compute anything."""

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import version

from hermes.distributed.process_group import ProcessGroup
from hermes.errors import HermesError
from hermes.interface import Backend
from hermes.recipe import flatten_recipe
from hermes.spec import ModelSpec
from hermes.training.request import RunComponents, RunRequest

__all__ = [
    "collect_component_values",
    "collect_request_values",
    "collect_versions",
    "require_same_on_all_ranks",
]

# What every rank must decide alike, step by step.
DECISIONS = (
    *("log_every", "save_every_epoch", "patience", "min_delta", "on_nonfinite", "on_spike"),
    *("spike_sigma", "spike_window", "gradient_noise_scale", "samples", "tasks"),
)
FILES = "all must see the same files and run the same versions"


def require_same_on_all_ranks(
    process_group: ProcessGroup, values: Mapping[str, object], advice: str = FILES
) -> None:
    """Refuse a run whose ranks differ in a value, naming the first such value and both sides.

    advice: the end of the sentence, what to do. Raises HermesError, the same one in every rank.
    """
    if process_group.rank_info.world_size == 1:
        return
    mine = {name: repr(value) for name, value in values.items()}
    first, *others = (json.loads(text) for text in process_group.all_gather_text(json.dumps(mine)))
    for rank, other in enumerate(others, 1):
        for name in first | other:
            there, here = first.get(name, "missing"), other.get(name, "missing")
            if there != here:
                raise HermesError(
                    f"{name} is {there} in rank 0 and {here} in rank {rank}; {advice}"
                ).mark_shared()


def collect_versions(backend: Backend) -> dict[str, object]:
    """Versions by library, hermes included."""
    return {"hermes": version("hermes-llm"), **backend.versions()}


def collect_request_values(request: RunRequest) -> dict[str, object]:
    """What a run is asked to be, as far as it is known before files are read, by name."""
    options = dataclasses.asdict(request.options)
    del options["device"]
    spec = request.initial_model.spec if request.initial_model else request.spec
    found = {**collect_versions(request.backend), **options, "resume": request.resume}
    found |= {name: getattr(request, name) for name in DECISIONS}
    if request.tokenizer is not None:
        found["the tokenizer"] = request.tokenizer.fingerprint[:12]
    return found | ({} if spec is None else _flatten_model(spec))


def collect_component_values(parts: RunComponents) -> dict[str, object]:
    """What a run is made of, by name."""
    return {
        "the step to resume from": parts.position.step,
        **flatten_recipe(parts.recipe),
        **_flatten_model(parts.spec),
        "the tokenizer": parts.tokenizer.fingerprint[:12],
        "the data": parts.training_data.tokens.fingerprint[:12],
    }


def _flatten_model(spec: ModelSpec) -> dict[str, object]:
    return {"the model": spec.name, **_flatten("model", dataclasses.asdict(spec))}


def _flatten(name: str, value: object) -> dict[str, object]:
    """Every value inside, by its path: 'model.blocks.0.ffn.hidden_dim'."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    return {
        k: v for key, inner in value.items() for k, v in _flatten(f"{name}.{key}", inner).items()
    }
