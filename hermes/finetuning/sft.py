"""Supervised finetuning: batches of conversations, with a loss mask on what the assistant says."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hermes.chat_templates.encoder import ChatEncoder, Example
from hermes.chat_templates.messages import Conversation
from hermes.data.example_dataset import ExampleDataset, fit_examples
from hermes.formatting import format_count
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.training_data import TrainingData

__all__ = ["SFTData"]


@dataclass(frozen=True)
class SFTData:
    """Conversations to learn from; `material` makes a run's.

    whole: learn every token, not the assistant's alone. pack: examples share rows, each in a
    segment of its own; else one a row. overlong: 'error', 'drop' or 'truncate'. samples: shown the
    first examples, as they are learnt.
    """

    conversations: Iterable[Conversation]
    encoder: ChatEncoder
    whole: bool = False
    pack: bool = True
    overlong: str = "error"
    show: Callable[[Sequence[Example]], None] = lambda examples: None

    def material(self, spec: ModelSpec, tokenizer: Tokenizer, recipe: Recipe) -> TrainingData:
        """What a run learns from. Raises DataError."""
        made = (self.encoder.encode(one, whole=self.whole) for one in self.conversations)
        held = fit_examples(made, recipe.seq_len, self.overlong)
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
        learnt = sum(int(example.loss_mask.sum()) for example in trained)
        words = [
            f"{format_count(len(trained), 'examples')} in {format_count(len(data.train), 'rows')}; "
            f"{learnt:,} of {sum(map(len, trained)):,} tokens are learnt, each with equal weight"
        ]
        if out := len(held.examples) - len(trained):
            one = "example is held out, in a row of its own"
            words.append(format_count(out, "examples are held out, in rows of their own", one))
        if held.dropped:
            words.append(format_count(held.dropped, *_long(recipe, "left out")))
        if held.cut:
            words.append(format_count(held.cut, *_long(recipe, "cut at the end")))
        return TrainingData(data, data, "rows", tuple(words))


def _long(recipe: Recipe, done: str) -> tuple[str, str]:
    """What is done with examples longer than a row, with one of them."""
    longer = f"longer than {recipe.seq_len}"
    return f"examples {longer} are {done}", f"example {longer} is {done}"
