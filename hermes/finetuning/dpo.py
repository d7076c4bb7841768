"""Preference optimization (DPO and its relatives): the training data and its reference.

Such a run is a run like any other, with the same loop, folder and resuming. It starts from an
existing model (`hermes.finetuning.base_model`), whose log-probabilities are the reference.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.example import Example, describe_unread
from hermes.data.bad_records import BadRecords
from hermes.data.encoded_pairs import (
    EncodedPair,
    FittedPairs,
    encode_pairs,
    encode_plain_pair,
    fit_pairs,
)
from hermes.data.example_cache import EncodedRecords, ExampleCache
from hermes.data.example_key import hash_records, make_example_key
from hermes.data.preference_dataset import (
    PREFERENCE_METRICS,
    PreferenceDataset,
    compute_preference_metrics,
)
from hermes.data.preferences import PreferencePair
from hermes.data.weighted_records import select_weighted
from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import CheckpointError, HermesError
from hermes.finetuning.base_model import BaseModel
from hermes.finetuning.preference_evaluation import evaluate_preferences
from hermes.finetuning.reference_logprobs import Reference, compute_reference, hash_weights
from hermes.finetuning.sft import describe_open_ends
from hermes.formatting import format_count
from hermes.interface import Backend, Batch, Model, Options, StepReport, Tensors
from hermes.model_info.memory import explain_out_of_memory
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.stages import report_stage
from hermes.tokenizer import Tokenizer
from hermes.training.run_yaml import read_reference_weights
from hermes.training.training_data import TrainingData

__all__ = ["DPOData"]

REFERENCE = "reference.npz"
# What to choose where the reference's passes do not fit: they have as many pairs as a micro-batch.
SMALLER = "a smaller --batch-size with more --grad-accum, a smaller --max-len, or a smaller model"


@dataclass(frozen=True)
class DPOData:
    """The preference pairs of a run.

    start: the model that the run starts from, which is the reference; in a resumed run, the run's
    newest checkpoint. base: opens the reference's weights in a resumed run, called only if they are
    needed; named: compare them with those in run.yaml even if they are not. reference_cache: a file
    of the reference's log-probabilities, read if it exists; None for the run's own.
    keeps_reference: whether it is written. use_template: False for plain text. drop: leave out
    pairs whose completion does not fit. stop: of computing the reference. files: how many the pairs
    are from, 0 if unknown. show: called with both sides of each pair once they are encoded. bad:
    counted records that are left out. cache: keeps the encoded pairs.
    """

    pairs: Iterable[PreferencePair]
    start: BaseModel
    backend: Backend
    options: Options
    output: Path
    reference_cache: Path | None = None
    keeps_reference: bool = True
    use_template: bool = True
    drop: bool = False
    base: Callable[[], Tensors] | None = None
    named: bool = False
    stop: Callable[[], bool] = lambda: False
    files: int = 0
    show: Callable[[Sequence[Example]], None] = lambda examples: None
    bad: BadRecords | None = None
    cache: ExampleCache = field(default_factory=ExampleCache)

    def make_training_data(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        recipe: Recipe,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> TrainingData:
        """Encode the pairs, and read or compute the reference. Raises HermesError of every kind."""
        encoder = self.start.encoder
        every = list(self.pairs)
        pairs = select_weighted(every)
        held = self._open_pairs(pairs, encoder, tokenizer, recipe.seq_len, process_group)
        self.show([side for pair in held.pairs for side in (pair.chosen, pair.rejected)])
        data = PreferenceDataset(
            held.pairs,
            max_len=recipe.seq_len,
            vocab_size=spec.vocab_size,
            rule=recipe.preference,
            seed=recipe.seed,
            val_fraction=recipe.val_fraction,
        )
        count = format_count(len(held.pairs), "pairs")
        words = [f"{count} of at most {recipe.seq_len} tokens a side"]
        if held.cut:
            cut = (
                "prompts lost their beginning, after the system prompt",
                "prompt lost its beginning, after the system prompt",
            )
            words.append(format_count(held.cut, *cut))
        if held.dropped:
            left = "whose completion does not fit"
            words.append(
                format_count(held.dropped, f"pairs {left} are left out", f"pair {left} is left out")
            )
        if data.weighted:
            words.append("pairs are weighted as the records say")
        if silent := len(every) - len(pairs):
            out = ("pairs of weight 0 are left out", "pair of weight 0 is left out")
            words.append(format_count(silent, *out))
        if open_ends := sum(_has_open_end(pair) for pair in pairs):
            words.append(describe_open_ends(open_ends))
        words += describe_unread(encoder.unread)
        words += self.bad.describe() if self.bad else []
        reference = None
        if recipe.preference.needs_reference:
            reference, said = self._find_reference(data, recipe, process_group)
            data.reference = reference.logprobs
            words += said

        def write_files(output: Path) -> None:
            if reference is not None and self.reference_cache is None:
                reference.save(output / REFERENCE)

        def measure(batch: Batch, report: StepReport) -> Mapping[str, float]:
            assert report.row_logprobs is not None, "of pairs a backend tells each row's"
            return compute_preference_metrics(batch, report.row_logprobs)

        def evaluate(model: Model, stop: Callable[[], bool]) -> Mapping[str, float] | None:
            return evaluate_preferences(model, data, recipe.batch_size, stop, process_group)

        weights = reference.weights if reference else None
        return TrainingData(
            data,
            data,
            evaluate,
            "pairs",
            tuple(words),
            PREFERENCE_METRICS,
            measure,
            write_files,
            weights,
            self.files,
            encode_prompt=encoder.encode_message if self.use_template else None,
        )

    def _open_pairs(
        self,
        pairs: Sequence[PreferencePair],
        encoder: ChatEncoder,
        tokenizer: Tokenizer,
        max_len: int,
        process_group: ProcessGroup,
    ) -> FittedPairs:
        """The pairs as tokens, fitted to max_len, from the cache or encoded. Raises DataError."""
        before = Counter(encoder.unread)

        def encode() -> EncodedRecords:
            fitted = fit_pairs(self._encode(pairs, encoder, tokenizer), max_len, drop=self.drop)
            sides = [side for pair in fitted.pairs for side in (pair.chosen, pair.rejected)]
            numbers = [number for number in fitted.numbers for _ in range(2)]
            facts = {"cut": fitted.cut, "dropped": fitted.dropped}
            return EncodedRecords(sides, numbers, encoder.unread - before, facts)

        digest, size = hash_records(pairs)
        settings = {"max_len": max_len, "drop": self.drop}
        own = encoder if self.use_template else None
        key = make_example_key("dpo", digest, tokenizer, own, settings)
        places = [pair.where for pair in pairs]
        found = self.cache.open(key, size, places, encode, process_group)
        encoder.unread.clear()
        encoder.unread.update(before + Counter(found.unread))
        numbers = tuple(found.records[::2])
        sides = zip(found.examples[::2], found.examples[1::2], strict=True)
        fitted = tuple(
            EncodedPair(chosen, rejected, pairs[number].weight)
            for number, (chosen, rejected) in zip(numbers, sides, strict=True)
        )
        return FittedPairs(fitted, found.facts["cut"], found.facts["dropped"], numbers)

    def _encode(
        self, pairs: Sequence[PreferencePair], encoder: ChatEncoder, tokenizer: Tokenizer
    ) -> Iterator[EncodedPair]:
        if self.use_template:
            encoded = encode_pairs(pairs, encoder)
        else:
            encoder.unread.update(repr(name) for pair in pairs for name in pair.unread)
            encoded = (encode_plain_pair(pair, tokenizer) for pair in pairs)
        for done, pair in enumerate(encoded, 1):
            yield pair
            report_stage("encoding pairs", done, len(pairs))
        report_stage("")

    def _find_reference(
        self, data: PreferenceDataset, recipe: Recipe, process_group: ProcessGroup
    ) -> tuple[Reference, list[str]]:
        """The reference, read from its file or computed, and what to tell the user about it."""
        path = self.reference_cache or self.output / REFERENCE
        there = _check_exists(path, process_group)
        weights = self._hash_reference(path, there)
        text = self.start.template.source if self.use_template else ""
        template = sha256(text.encode()).hexdigest()
        how: dict[str, str | int] = {
            "backend": self.backend.name,
            "device": self.options.device or self.backend.devices()[0],
            "precision": self.options.precision,
            "pairs": recipe.batch_size,
            "seed": recipe.seed,
        }
        if there:
            known = Reference.load(path)
            known.require(
                path,
                weights=weights,
                data=data.fingerprint,
                template=template,
                goes_on=self.base is not None,
            )
            said = [f"the reference's log-probabilities are read from {path}"]
            if dict(known.how) != how:
                conditions = _format_conditions(known.how)
                said.append(f"they were computed with {conditions}: equal but for rounding")
            return known, said
        options = replace(self.options, as_trained=True)
        pairs = format_count(recipe.batch_size, "pairs")
        doing = f"computing the reference's log-probabilities, {pairs} at a time"
        with explain_out_of_memory(doing, SMALLER, self.backend, self.options.device):
            model = self.backend.build(self.start.spec, self._open_base(), options, process_group)
            logprobs = compute_reference(
                model,
                data,
                recipe,
                process_group=process_group,
                stop=self.stop,
            )
        made = Reference(logprobs, weights, data.fingerprint, template, how)
        computed = "the reference's log-probabilities were computed"
        if not self.keeps_reference:
            return made, [f"{computed}; a run would keep them in {path}"]
        if self.reference_cache is not None and process_group.rank_info.rank == 0:
            made.save(self.reference_cache)
        return made, [f"{computed}; they are kept in {path}"]

    def _open_base(self) -> Tensors:
        return self.base() if self.base else self.start.params

    def _hash_reference(self, path: Path, there: bool) -> str:
        """SHA-256 of the reference's weights. Raises CheckpointError if they are not the run's."""
        known = read_reference_weights(self.output)
        if known is None and there and self.base is not None:
            known = Reference.load(path).weights  # of a run whose run.yaml does not say it
        if known is not None and there and self.base is not None and not self.named:
            return known
        found = hash_weights(self._open_base())
        if known not in (None, found):
            raise CheckpointError(
                f"the reference of run {self.output} has weights {known[:12]}, the checkpoint here "
                f"has {found[:12]}; give the one that the run began from, or choose another "
                "--output for a new run"
            )
        return found


def _has_open_end(pair: PreferencePair) -> bool:
    return any(side[-1]["role"] != "assistant" for side in (pair.chosen, pair.rejected))


def _check_exists(path: Path, process_group: ProcessGroup) -> bool:
    """Whether the file exists, the same for all ranks. Raises HermesError where they differ."""
    size = process_group.rank_info.world_size
    seen = all_or_none(process_group, path.exists)
    count = int(process_group.all_reduce_sum([seen])[0])
    if 0 < count < size:
        raise HermesError(
            f"reference cache {path} is there for {count} of {size} processes; all must see "
            "the same folder"
        )
    return seen


def _format_conditions(how: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in how.items())
