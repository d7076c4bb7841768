"""Runs of a little model on a text of some 4,000 tokens, for the tests of what a run leaves."""

import random

import numpy as np
from safetensors.numpy import load_file, save_file

from hermes.api import train
from hermes.checkpoint import open_checkpoint
from hermes.tokenizer import train_tokenizer
from hermes.training.metrics_file import read_metrics

SPEC = """model little { max_seq_len: 32 hidden_size: 16 num_layers: 2 vocab_size: 300
  block: { attention: { num_heads: 2 num_kv_heads: 1 dropout: 0.1 } ffn: { hidden_dim: 24 }
           dropout: 0.1 }
  embeddings { tie_weights: true } }"""
SENTENCE = "the cat sat on a mat and then it ran off to see what else there was "
DEFAULTS = {
    "max_steps": 12, "seq_len": 16, "batch_size": 4, "lr": 3e-3, "val_fraction": 0.05,
    "schedule": "cosine", "warmup_steps": 2, "grad_clip": 0.5, "seed": 5,
}  # fmt: skip


def corpus_in(folder):
    """A text and its tokenizer."""
    choose, words = random.Random(3), SENTENCE.split()
    text = " ".join(choose.choice(words) for _ in range(3_000))
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path, train_tokenizer([text], vocab_size=290)


class Runs:
    """Trains the little model in FOLDER/NAME when called."""

    def __init__(self, corpus, folder):
        self.folder = folder
        self.corpus = self._path, self._tokenizer = corpus

    def __call__(self, name="run", *, spec=SPEC, data=None, stop_at=None, **options):
        seen = []

        def report(event):
            seen.append(event)
            options.get("report", lambda event: None)(event)

        def stop():
            """Asked after each update, before it is reported."""
            made = max((event.step for event in seen), default=None)
            return stop_at is not None and made is not None and made >= stop_at - 1

        return train(
            spec,
            data or self._path,
            tokenizer=options.pop("tokenizer", self._tokenizer),
            output=self.folder / name,
            backend=options.pop("backend", "torch"),
            **DEFAULTS | options | {"report": report, "stop": stop},
        )


def tensors(path):
    """Weights and both moments of a checkpoint."""
    state = open_checkpoint(path).state
    return [
        {name: np.array(part[name]) for name in part}
        for part in (state.params, state.exp_avg, state.exp_avg_sq)
    ]


def losses(run):
    """By step."""
    return {r["step"]: r["loss"] for r in read_metrics(run) if "loss" in r}


# Doubled, the greatest numbers overflow.
PLAIN = SPEC.replace("tie_weights: true", "tie_weights: false scale: 2")


def write_model_that_overflows(folder, words):
    """A model, one of whose tokens no arithmetic in float32 survives, and texts that have it.

    words: of the text that has it at three of them.
    """
    path, tokenizer = corpus_in(folder)
    Runs((path, tokenizer), folder)("base", spec=PLAIN, max_steps=1)
    (bad,) = tokenizer.encode("Q")
    weights = load_file(folder / "base" / "step-00000001" / "model.safetensors")
    weights["model.embed_tokens.weight"][bad] = 3e38
    save_file(weights, folder / "model.safetensors")
    (folder / "model.mal").write_text(PLAIN.replace("vocab_size: 300", "vocab_size: 290"))
    text = path.read_text().split()
    for at in (50, 120, 121):
        text[at] = "Q"
    (folder / "some.txt").write_text(" ".join(text[:words]), encoding="utf-8")
    (folder / "every.txt").write_text("Q the " * 400, encoding="utf-8")
    return folder
