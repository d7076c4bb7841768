"""The data of a run: a dataset, and how it is measured and evaluated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hermes.data import Cursor
from hermes.data.dataset import Dataset, TokenSource
from hermes.data.run_data import DataRecord
from hermes.distributed.process_group import ProcessGroup
from hermes.evaluation.perplexity import Perplexity, evaluate_perplexity
from hermes.interface import Batch, Model, StepReport
from hermes.tokenizer import Tokenizer

__all__ = ["Evaluate", "Mean", "Measures", "TrainingData", "make_perplexity_evaluation"]

# Numbers by name, 'val_loss' among them; None where the second argument said to stop.
Evaluate = Callable[[Model, Callable[[], bool]], Mapping[str, float] | None]


class Mean(NamedTuple):
    """A mean over some of a step's terms, which those of other ranks are added to."""

    total: float
    weight: float


# Numbers by name: a mean over all of a rank's terms, or over some.
Measures = Mapping[str, "float | Mean"]


@dataclass(frozen=True)
class TrainingData:
    """The dataset of a run, with what belongs to its kind.

    tokens: what the dataset's samples are made of. evaluate: computes the loss on held-out samples.
    unit: what a sample is called, in the plural. notes: sentences for the user. measures: names of
    what `measure` finds of a step besides its loss. write_files: writes further files into the
    run's folder when its first files are written. reference_weights: SHA-256 of the weights that
    the loss compares with, None without a reference. files: the number of files that the tokens are
    from, 0 if unknown. encode_prompt: the ids of a sample's prompt as a message to the assistant;
    None for plain text. record: what `hermes data trace` needs to know of text.
    counts_steps: whether which samples a step takes depends on how many samples steps have;
    continue_data then makes what `continue_from` does.
    """

    tokens: TokenSource
    dataset: Dataset
    evaluate: Evaluate
    unit: str = "sequences"
    notes: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    measure: Callable[[Batch, StepReport], Measures] = lambda batch, report: {}
    write_files: Callable[[Path], None] = lambda output: None
    reference_weights: str | None = None
    files: int = 0
    encode_prompt: Callable[[str], list[int]] | None = None
    record: DataRecord | None = None
    counts_steps: bool = False
    continue_data: "Callable[[TrainingData, int, Cursor], TrainingData] | None" = None

    def continue_from(self, step: int, cursor: Cursor) -> "TrainingData":
        """The data of a run that went back to `step`, and on with the samples from `cursor`."""
        return self if self.continue_data is None else self.continue_data(self, step, cursor)


def make_perplexity_evaluation(
    datasets: Sequence[Dataset],
    tokenizer: Tokenizer,
    batch_size: int,
    process_group: ProcessGroup,
    names: Sequence[str] = (),
) -> Evaluate:
    """The evaluation of next-token prediction: nats per token and bits per byte.

    Of all datasets together and, where they have names, the loss of each that holds something out.
    """

    def evaluate(model: Model, stop: Callable[[], bool]) -> Mapping[str, float] | None:
        rank_info = process_group.rank_info
        whole, by_name = Perplexity(0.0, 0, 0), {}
        for number, dataset in enumerate(datasets):
            if not dataset.held_out:
                continue
            batches = dataset.iterate_validation(
                batch_size, rank=rank_info.rank, world_size=rank_info.world_size
            )
            text_bytes = dataset.count_validation_bytes(tokenizer.count_bytes)
            found = evaluate_perplexity(model, batches, text_bytes, stop, process_group)
            if found is None:
                return None
            whole += found
            if names and found.tokens:
                by_name[f"val_loss/{names[number]}"] = found.loss
        return {"val_loss": whole.loss, "val_bits_per_byte": whole.bits_per_byte, **by_name}

    return evaluate
