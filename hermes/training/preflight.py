"""What is looked at before a run begins: memory for its model, and disk for its checkpoints."""

import dataclasses
import math
from pathlib import Path

from hermes.checkpoint import RetentionPolicy, count_checkpoint_bytes
from hermes.errors import HermesError, OutOfMemory, StorageError
from hermes.formatting import format_count, format_with_unit
from hermes.model_info.activations import BYTES_OF
from hermes.model_info.fitting import FreeMemory, find_free_memory
from hermes.model_info.memory import count_training_bytes
from hermes.model_info.training_memory import Placement, find_largest_batch, plan_memory
from hermes.process_limits import count_thread_room
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.storage.space import count_free_bytes
from hermes.training.request import RunRequest

__all__ = ["check_disk", "check_memory", "count_kept_checkpoints", "fit_batch"]

MARGIN = 0.9  # a plan is within 10 % of the peak
HOPELESS = 4  # times the whole memory, beyond which neither swap nor a plan's error helps


def check_memory(request: RunRequest, spec: ModelSpec, recipe: Recipe) -> list[str]:
    """Compare what training needs with what the device has. -> sentences for the user

    Raises OutOfMemory where it cannot fit, unless the request forces it.
    """
    recipe = recipe.use_largest_batch()
    rank_info = request.process_group.rank_info
    ranks, here = rank_info.world_size, rank_info.local_world_size
    precision = request.options.precision
    copy = count_training_bytes(spec, recipe, precision)
    if request.options.shard:
        copy //= min(request.options.shard_group or ranks, ranks)
    free = find_free_memory(request.backend, request.device)
    if free is None:
        return []
    needed = copy * here if free.is_shared else copy
    if needed <= free.available:
        return _warn_of_peak(request, spec, recipe, free)
    who = f" in {format_count(here, 'processes', 'process')}" if needed > copy else ""
    found = (
        f"training {spec.name} needs {format_with_unit(needed, 'B')} of memory{who} besides its "
        f"activations, and {free.found}"
    )
    if request.force:
        return [found]
    less = "" if recipe.lora else " --lora-rank to train adapters (finetune, sft, dpo),"
    raise OutOfMemory(
        f"{found}; choose a smaller model,{less} --shard full over several devices, or --force to "
        "try"
    )


def fit_batch(request: RunRequest, spec: ModelSpec, recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with the largest batch_size that fits and as many samples per step, and notes.

    Only where the request asks for it. All ranks get the same. Raises HermesError where the
    backend's memory is not known.
    """
    if not request.auto_batch:
        return recipe, []
    if recipe.batch_size_schedule:
        raise HermesError("--auto-batch chooses one batch size: leave --batch-size-schedule out")
    placement = _find_placement(request)
    free = find_free_memory(request.backend, request.device)
    if placement is None or free is None:
        raise HermesError(
            f"--auto-batch: nothing says how much memory a step on {request.device} takes or has; "
            "leave it out and choose --batch-size"
        )
    room = int(MARGIN * _count_share(request, free))

    def find_largest(grad_accum: int) -> int:
        """The largest micro-batch that fits in every rank: several of them keep a sum besides."""
        one = dataclasses.replace(recipe, grad_accum=grad_accum)
        largest = find_largest_batch(spec, one, placement, room)
        return -int(request.process_group.all_reduce_max(-largest))

    samples = recipe.batch_size * recipe.grad_accum
    largest = 0 if request.gradient_noise_scale else find_largest(1)
    if largest < samples:
        largest = find_largest(2)
    if request.gradient_noise_scale:  # which compares micro-batches
        largest = min(largest, max(samples // 2, 1))
    sizes = range(1, min(max(largest, 1), samples) + 1)
    size = max(one for one in sizes if samples % one == 0)
    found = dataclasses.replace(recipe, batch_size=size, grad_accum=samples // size)
    return found, [
        f"--auto-batch: batch_size {found.batch_size} x grad_accum {found.grad_accum} instead of "
        f"{recipe.batch_size} x {recipe.grad_accum}; micro-batches of up to {largest} fit"
    ]


def _find_placement(request: RunRequest) -> Placement | None:
    """What computes the run, in the words of a plan; None where there is no plan for it."""
    options, rank_info = request.options, request.process_group.rank_info
    if request.backend.name not in ("torch", "mlx") or options.precision not in BYTES_OF:
        return None
    try:
        return Placement(
            request.backend.name,
            "cpu" if request.device.startswith("cpu") else request.device,
            options.precision,
            options.grad_checkpoint,
            rank_info.world_size,
            options.shard,
            options.shard_group,
            options.selective_checkpoint,
            options.compile,
        )
    except HermesError:
        return None  # the backend refuses it, in its own words


def _count_share(request: RunRequest, free: FreeMemory) -> int:
    """Bytes for one process."""
    processes = request.process_group.rank_info.local_world_size
    return free.available // (processes if free.is_shared else 1)


def _warn_of_peak(
    request: RunRequest, spec: ModelSpec, recipe: Recipe, free: FreeMemory
) -> list[str]:
    """What to tell the user where a step with its activations seems not to fit.

    Raises OutOfMemory where the backend could not say so itself, and where a plan is so many times
    the machine's memory that the system would only end the process.
    """
    placement, room = _find_placement(request), _count_share(request, free)
    if placement is None:
        return []
    # MLX writes to memory without looking whether it got any, so that the process would end by a
    # signal, without a word: by SIGSEGV under ulimit -v (measured with mlx 0.32.4).
    is_deadly = bool(free.limit) and request.backend.name == "mlx"
    threads = count_thread_room(free.limit) if is_deadly else 0
    if is_deadly:
        room = int(MARGIN * max(room - threads, 0))
    total = plan_memory(spec, recipe, placement).total
    if total <= room:
        return []
    largest, advice = _find_what_fits(spec, recipe, placement, room)
    who = "" if request.process_group.rank_info.local_world_size == 1 else " in each process"
    found = f"a step needs about {format_with_unit(total, 'B')} at its peak{who}, and {free.found}"
    if threads:
        found += f" (its threads take {format_with_unit(threads, 'B')})"
    if is_deadly and not request.force:
        ways = "choose that, raise the limit" if largest else "raise the limit"
        raise OutOfMemory(
            f"{found}, beyond which MLX ends without a word: {advice} fit; {ways}, or --force to "
            "try"
        )
    here = request.process_group.rank_info.local_world_size if free.is_shared else 1
    if total * here > HOPELESS * free.total and not request.force:
        raise OutOfMemory(f"{found}: {advice} fit, says hermes plan; {_advise(largest, advice)}")
    return [f"{found}: {advice} fit, says hermes plan"]


def _advise(largest: int, advice: str) -> str:
    """What to turn where a step is hopeless."""
    if not largest:
        return "choose a smaller model or a shorter --seq-len, or --force to try"
    more = "" if "--grad-checkpoint" in advice else " with --grad-accum for as many samples a step,"
    return f"choose that,{more} or --force to try"


def _find_what_fits(
    spec: ModelSpec, recipe: Recipe, placement: Placement, room: int
) -> tuple[int, str]:
    """The largest micro-batch whose step fits, and words for it: with recomputing where none does.

    0 where nothing does.
    """
    if largest := find_largest_batch(spec, recipe, placement, room):
        return largest, f"--batch-size {largest} would"
    if not (placement.grad_checkpoint or placement.selective_checkpoint):
        recomputing = dataclasses.replace(placement, grad_checkpoint=True)
        if largest := find_largest_batch(spec, recipe, recomputing, room):
            return largest, f"--batch-size {largest} with --grad-checkpoint would"
    return 0, "no --batch-size would"


def count_kept_checkpoints(keep: RetentionPolicy, step: int, total: int, every: int) -> int:
    """The most checkpoints that are on disk at once of those that a run has yet to write.

    step: steps done. total: of the run. every: steps between two saves, 0 for the last alone.
    """
    if step >= total:
        return 0
    is_extra = not every or total % every > 0  # the last, which is saved whatever its number

    def count_multiples(number: int) -> int:
        return total // number - step // number

    written = (count_multiples(every) if every else 0) + is_extra
    if keep.everything:
        return written
    last = 2 if keep.last is None else keep.last
    kept = last + (keep.best is not None)
    if keep.every is not None:
        kept += count_multiples(math.lcm(every, keep.every)) if every else 0
        kept += is_extra and total % keep.every == 0
    return min(written, kept + 1)  # the newest is whole before an older one is deleted


def check_disk(
    request: RunRequest, spec: ModelSpec, recipe: Recipe, step: int, total: int
) -> list[str]:
    """Compare the space for a run's checkpoints with what is free. -> sentences for the user

    step: steps done; total: of the run. Raises StorageError where they do not fit.
    """
    count = count_kept_checkpoints(request.keep, step, total, recipe.save_every)
    one = count_checkpoint_bytes(spec, recipe, request.options.precision)
    folder = _find_existing(request.output)
    needed, free = count * one, count_free_bytes(folder)
    if not count or free is None or free >= 2 * needed:
        return []
    found = (
        f"{format_count(count, 'checkpoints')} of {format_with_unit(one, 'B')} "
        f"{'needs' if count == 1 else 'need'} {format_with_unit(needed, 'B')}, and {folder} has "
        f"{format_with_unit(free, 'B')} free"
    )
    if free < needed and request.force:
        return [f"{found}: the run ends when it is full"]
    if free >= needed:
        return [f"{found}: little for whatever else is written there"]
    advice = "make room, choose another --output, "
    advice += "or keep fewer by --keep-last" if count > 2 else "or a smaller model"
    raise StorageError(f"{found}; {advice}")


def _find_existing(path: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())
