"""The lines that describe a run before it trains."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes.recipe import Lora, Recipe
    from hermes.spec import ModelSpec
    from hermes.training.request import RunRequest
    from hermes.training.run import Run

__all__ = ["summarize_model", "summarize_run"]


def summarize_model(request: "RunRequest", spec: "ModelSpec", recipe: "Recipe") -> list[str]:
    """Lines with the model, what computes it, and what of it is trained."""
    from hermes.model_info.devices import describe_model

    lines = [describe_model(request.backend, spec, request.device, request.options.precision)]
    if recipe.lora is not None:
        lines.append(_summarize_adapters(spec, recipe.lora))
    return lines


def summarize_run(run: "Run") -> list[str]:
    """Lines with the data, the run and, of a resumed one, where it continues."""
    from hermes.formatting import format_count

    parts, request = run.components, run.request
    recipe, data = parts.recipe, parts.training_data.dataset
    tokens = len(parts.training_data.tokens)
    unit = parts.training_data.unit
    trained, out = len(data.train), len(data.held_out)
    of_these = f": {trained:,} to train on, {out:,} held out" if out else ""
    files = parts.training_data.files
    of_files = f" of {format_count(files, 'files')}" if files > 1 else ""
    accum = f" in {recipe.grad_accum} parts" if recipe.grad_accum > 1 else ""
    size = request.world_size
    among = f" on {size} processes" if size > 1 else ""
    lines = [
        f"data: {tokens:,} tokens{of_files}, {format_count(trained + out, unit)} of "
        f"{recipe.seq_len}{of_these}",
        f"run {request.output}: {_summarize_steps(run)}{accum}{among}",
    ]
    if run.checkpoint is not None:
        writer = run.checkpoint.progress.backend
        lines.append(f"resuming from step {run.position.step:,}, written by {writer}")
    return lines


def _summarize_steps(run: "Run") -> str:
    """The number of optimizer steps, and of samples in each."""
    from hermes.data import count_run_samples
    from hermes.formatting import format_count

    unit = run.components.training_data.unit
    recipe, total = run.components.recipe, run.total_steps
    size = len(run.components.training_data.dataset.train)
    sizes = sorted({size for _, size in recipe.list_batch_sizes()})
    if len(sizes) > 1:
        parts = recipe.grad_accum * run.request.world_size
        return f"{total:,} steps of {sizes[0] * parts:,} to {sizes[-1] * parts:,} {unit}"
    each = recipe.batch_size * recipe.grad_accum * run.request.world_size
    whole = count_run_samples(
        size, epochs=recipe.epochs, max_steps=recipe.max_steps, per_update=each
    )
    if total == 1:
        return f"1 step of {format_count(min(each, whole), unit)}"
    short = "at most " if whole != total * each else ""
    return f"{total:,} steps of {short}{format_count(each, unit)}"


def _summarize_adapters(spec: "ModelSpec", lora: "Lora") -> str:
    """The adapters that are trained, and how many parameters they have."""
    from hermes.formatting import format_count
    from hermes.numerics.lora import find_adapted_paths, list_adapter_tensors

    paths = find_adapted_paths(spec, lora)
    here = {path.rpartition(".")[2] for path in paths}
    targets = ", ".join(name for name in lora.targets if name in here)
    count = sum(math.prod(tensor.shape) for tensor in list_adapter_tensors(spec, lora).values())
    kind = f"{'rank-stabilized ' * lora.rslora}{'DoRA ' * lora.dora}adapters"
    rows = f" and {format_count(len(lora.token_ids), 'tokens')}" if lora.token_ids else ""
    return (
        f"{kind} of rank {lora.rank}, alpha {lora.alpha:g}, on "
        f"{format_count(len(paths), 'matrices', 'matrix')} ({targets}){rows}: {count:,} "
        "parameters are trained, no others"
    )
