"""What a run says when memory runs out: what to choose instead, with the run's own numbers."""

from contextlib import AbstractContextManager

from hermes.model_info.memory import explain_out_of_memory
from hermes.recipe import Recipe
from hermes.training.request import RunRequest

__all__ = ["explain_training_memory", "suggest_smaller"]


def explain_training_memory(
    request: RunRequest, recipe: Recipe, model: str
) -> AbstractContextManager[None]:
    """A block of a run that raises OutOfMemory, in one sentence, where memory runs out in it."""
    recipe = recipe.use_largest_batch()
    sides = " x 2" if recipe.objective == "preference" else ""  # of each pair
    size = f"{recipe.batch_size}{sides} x {recipe.seq_len} tokens"
    doing = f"training {model} on {request.device} with {size} at a time"
    advice = suggest_smaller(request, recipe)
    return explain_out_of_memory(doing, advice, request.backend, request.device)


def suggest_smaller(request: RunRequest, recipe: Recipe) -> str:
    """What to choose where a run has too little memory, the least change first."""
    options, batch = request.options, recipe.batch_size
    choices = []
    if batch > 1:
        factor = next(n for n in range(2, batch + 1) if batch % n == 0)
        accum = recipe.grad_accum * factor
        choices.append(f"--batch-size {batch // factor} with --grad-accum {accum} (the same steps)")
    if not options.grad_checkpoint:
        choices.append("--grad-checkpoint")
    if options.shard != "full" and request.backend.name == "torch":
        choices.append("--shard full over several devices")
    return " or ".join(choices) or "a smaller model, or shorter sequences in a new run"
