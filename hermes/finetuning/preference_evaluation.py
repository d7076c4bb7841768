"""The evaluation of held-out preference pairs."""

import json
from collections.abc import Callable, Mapping

from hermes.data.preference_dataset import PreferenceDataset, compute_preference_metrics
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import HermesError
from hermes.interface import Model

__all__ = ["evaluate_preferences"]


def evaluate_preferences(
    model: Model,
    data: PreferenceDataset,
    micro_batch: int,
    stop: Callable[[], bool],
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Mapping[str, float] | None:
    """The loss per held-out pair and what is reported beside it; None where `stop` said so."""
    total: dict[str, float] = {}
    pairs, rank_info = 0, process_group.rank_info
    for batch in data.iterate_validation(
        micro_batch, rank=rank_info.rank, world_size=rank_info.world_size
    ):
        if stop():
            return None
        loss, sums = model.preferences(batch)
        if not batch.num_terms:
            continue
        found = {"val_loss": loss}
        measured = compute_preference_metrics(batch, sums)
        found |= {f"val_{name}": value for name, value in measured.items()}
        pairs += batch.num_terms
        for name, value in found.items():
            total[name] = total.get(name, 0.0) + batch.num_terms * value
    # Who had no pair knows no names either.
    names: list[str] = max(
        map(json.loads, process_group.all_gather_text(json.dumps([*total]))), key=len
    )
    *weighted, count = process_group.all_reduce_sum(
        [*(total.get(name, 0.0) for name in names), pairs]
    )
    if not count:
        raise HermesError("no pair is held out, so there is nothing to evaluate")
    return {name: value / count for name, value in zip(names, weighted, strict=True)}
