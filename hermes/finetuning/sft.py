"""Supervised finetuning: batches of conversations, with a loss mask on what the assistant says."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.example import Example, describe_unread
from hermes.chat_templates.messages import Conversation
from hermes.data.bad_records import BadRecords
from hermes.data.example_cache import EncodedRecords, ExampleCache
from hermes.data.example_dataset import ExampleDataset, fit_examples
from hermes.data.example_key import hash_records, make_example_key
from hermes.data.trained_text import split_trained
from hermes.data.weighted_records import select_weighted
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.formatting import format_count
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.stages import report_stage
from hermes.tokenizer import Tokenizer
from hermes.training.host import RunHost
from hermes.training.training_data import TrainingData, make_perplexity_evaluation

__all__ = ["SFTData", "describe_open_ends", "mark_trained_tokens", "show_examples"]


@dataclass(frozen=True)
class SFTData:
    """The conversations of a run.

    whole: train on every token, not on the assistant's alone. pack: several examples share a row,
    each in its own segment; otherwise one example per row. overlong: 'error', 'drop' or 'truncate'.
    show: called with the examples once they are encoded. files: how many the conversations are
    from, 0 if unknown. bad: counted records that are left out. cache: keeps the examples.
    """

    conversations: Iterable[Conversation]
    encoder: ChatEncoder
    whole: bool = False
    pack: bool = True
    overlong: str = "error"
    show: Callable[[Sequence[Example]], None] = lambda examples: None
    files: int = 0
    bad: BadRecords | None = None
    cache: ExampleCache = field(default_factory=ExampleCache)

    def make_training_data(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        recipe: Recipe,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> TrainingData:
        """Encode the conversations and lay them out in rows. Raises DataError."""
        every = list(self.conversations)
        conversations = select_weighted(every)
        encoded = self._open_examples(conversations, tokenizer, process_group)
        held = fit_examples(encoded, recipe.seq_len, self.overlong)
        self.show(held.examples)
        data = ExampleDataset(
            held.examples,
            seq_len=recipe.seq_len,
            vocab_size=spec.vocab_size,
            pack=self.pack,
            seed=recipe.seed,
            val_fraction=recipe.val_fraction,
        )
        trained = [*data.iterate_examples(data.train)]
        trained_tokens = sum(int(example.loss_mask.sum()) for example in trained)
        equal = "each with equal weight"
        words = [
            f"{format_count(len(trained), 'examples')} in {format_count(len(data.train), 'rows')}; "
            f"{trained_tokens:,} of {sum(map(len, trained)):,} tokens are "
            f"trained on, {'weighted as the records say' if data.weighted else equal}"
        ]
        if silent := len(every) - len(conversations):
            words.append(
                format_count(
                    silent, "records of weight 0 are left out", "record of weight 0 is left out"
                )
            )
        if open_ends := sum(_has_open_end(one) for one in conversations):
            words.append(describe_open_ends(open_ends))
        if out := len(held.examples) - len(trained):
            one = "example is held out, in a row of its own"
            words.append(format_count(out, "examples are held out, in rows of their own", one))
        if parted := sum(example.part == 1 for example in held.examples):
            many = "conversations are trained on as several examples, as the template renders"
            one = "conversation is trained on as several examples, as the template renders"
            words.append(f"{format_count(parted, many, one)} a turn otherwise once more follows")
        if held.dropped:
            words.append(format_count(held.dropped, *_describe_overlong(recipe, "left out")))
        if held.cut:
            words.append(format_count(held.cut, *_describe_overlong(recipe, "cut at the end")))
        words += describe_unread(self.encoder.unread)
        words += self.bad.describe() if self.bad else []
        evaluate = make_perplexity_evaluation([data], tokenizer, recipe.batch_size, process_group)
        return TrainingData(
            data,
            data,
            evaluate,
            "rows",
            tuple(words),
            files=self.files,
            encode_prompt=self.encoder.encode_message,
        )

    def _open_examples(
        self,
        conversations: Sequence[Conversation],
        tokenizer: Tokenizer,
        process_group: ProcessGroup,
    ) -> Sequence[Example]:
        """The examples of conversations, from the cache or encoded. Raises DataError."""
        encoder, before = self.encoder, Counter(self.encoder.unread)

        def encode() -> EncodedRecords:
            found, records = list[Example](), list[int]()
            encoded = encoder.encode_many(conversations, whole=self.whole)
            for number, examples in enumerate(encoded):
                found += examples
                records += [number] * len(examples)
                report_stage("encoding conversations", number + 1, len(conversations))
            report_stage("")
            return EncodedRecords(found, records, encoder.unread - before)

        digest, size = hash_records(conversations)
        key = make_example_key("sft", digest, tokenizer, encoder, {"whole": self.whole})
        places = [one.where for one in conversations]
        encoded = self.cache.open(key, size, places, encode, process_group)
        encoder.unread.clear()
        encoder.unread.update(before + Counter(encoded.unread))
        return encoded.examples


def _has_open_end(conversation: Conversation) -> bool:
    messages = conversation.messages
    return bool(messages) and messages[-1]["role"] != "assistant"


def describe_open_ends(count: int) -> str:
    """The sentence about records that end with messages which nothing answers."""
    end = "with messages that nothing answers, which are left out"
    return format_count(count, f"records end {end}", f"record ends {end}")


def _describe_overlong(recipe: Recipe, done: str) -> tuple[str, str]:
    """The words for examples longer than a row, in the plural and in the singular."""
    longer = f"longer than {recipe.seq_len}"
    return f"examples {longer} are {done}", f"example {longer} is {done}"


def show_examples(host: RunHost, tokenizer: Tokenizer, examples: Sequence[Example]) -> None:
    """Show the user conversations as they are trained on, in rank 0 alone."""
    for example in examples if host.leads else ():
        if host.show_example is not None:
            host.show_example(tokenizer, example)
        else:
            host.tell(mark_trained_tokens(tokenizer, example, "[{}]".format))


def mark_trained_tokens(tokenizer: Tokenizer, example: Example, mark: Callable[[str], str]) -> str:
    """An example as text, with `mark` around each stretch of tokens that is trained on."""
    parts = split_trained(tokenizer, example.ids, example.loss_mask)
    text = "".join(mark(words) if trained else words for words, trained in parts)
    return f"{example.where}, {format_count(len(example), 'tokens')}:\n{text}\n"
