"""A small model, a tokenizer and data to tune it with, shared by the tests of tuning."""

import json
from functools import cache

from hermes.checkpoint import Progress, save
from hermes.interface import TrainState
from hermes.interop.companions import make_companions
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec, RMSNorm, Rope
from hermes.tokenizer import train_tokenizer
from hermes.training.result import ResultCollector

TEXT = "the cat sat on the mat and the dog ran far away from the big red house of the old man\n"


@cache
def small_tokenizer(vocab_size=300):
    return train_tokenizer([TEXT] * 9, vocab_size=vocab_size)


def small_spec(*, layers=2, tied=True, dropout=0.0, vocab_size=300):
    block = BlockSpec(
        attention=AttentionSpec(num_heads=2, position_encoding=Rope(), dropout=dropout),
        ffn=FfnSpec(hidden_dim=48),
        norm=RMSNorm(),
        dropout=dropout,
    )
    return ModelSpec(
        name="small",
        blocks=(block,),
        vocab_size=vocab_size,
        max_seq_len=128,
        hidden_size=32,
        num_layers=layers,
        embeddings=EmbeddingsSpec(tie_weights=tied),
    )


def small_checkpoint(folder, *, seed=0, spec=None, tokenizer=None):
    """A checkpoint of fresh weights, as a run of hermes would leave it."""
    if (folder / "step-00000001").exists():
        return folder / "step-00000001"
    tokenizer = tokenizer or small_tokenizer()
    spec = spec or small_spec(vocab_size=tokenizer.vocab_size)
    weights = dict(init_weights(spec, seed))
    zeros = {name: 0 * weight for name, weight in weights.items()}
    return save(
        folder,
        TrainState(weights, zeros, zeros, 1),
        spec=spec,
        progress=Progress(run="a" * 16, step=1, recipe=Recipe()),
        companions=make_companions(spec, tokenizer),
    )


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def some_words(number, count):
    words = TEXT.split()
    return " ".join(words[(7 * number + 3 * i + i * i) % len(words)] for i in range(count))


def some_chats(count=12):
    return [
        {"prompt": some_words(i, 2 + i % 3), "completion": some_words(i + 5, 1 + i % 6)}
        for i in range(count)
    ]


def some_pairs(count=12):
    """The shorter answer is the chosen one."""
    return [
        {
            "prompt": some_words(i, 2 + i % 3),
            "chosen": some_words(i + 3, 1 + i % 2),
            "rejected": some_words(i + 5, 4 + i % 4),
        }
        for i in range(count)
    ]


def train_to_end(run):
    """Train an open run; its result."""
    collector = ResultCollector(run)
    for event in run.train():
        collector.add(event)
    return collector.result
