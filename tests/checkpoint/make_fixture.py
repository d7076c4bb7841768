"""Writes `fixtures/v1`, a checkpoint of format 1; run once, when that format was new.

    python -m tests.checkpoint.make_fixture FOLDER

It stays as it is for ever: every later hermes must read it.
"""

import sys
from pathlib import Path

from hermes.checkpoint import Companions, Progress, save
from hermes.interface import TrainState
from hermes.mal import loads
from hermes.numerics.params import list_parameters
from hermes.recipe import OptimizerRecipe, Recipe

MAL = """
attention narrow { num_heads: 2  num_kv_heads: 1 }
model fixture {
  vocab_size: 8
  max_seq_len: 16
  hidden_size: 4
  num_layers: 2
  embeddings { tie_weights: true }
  block { attention: narrow  ffn { hidden_dim: 6 } }
}
"""
STEP = 200


def values(spec, offset):
    """Exact in float32, different for every tensor and element: no generator is trusted here."""
    import numpy as np

    made = {}
    for number, (name, tensor) in enumerate(list_parameters(spec).items()):
        counted = np.arange(tensor.size, dtype=np.float32).reshape(tensor.shape)
        made[name] = (counted + 1000 * number + offset) / 64
    return made


def state():
    spec = loads(MAL)
    return spec, TrainState(values(spec, 0), values(spec, 0.25), values(spec, 0.5), STEP)


def progress():
    recipe = Recipe(
        lr=1e-3, batch_size=4, grad_accum=2, seq_len=16, schedule="cosine", warmup_steps=10, seed=7
    )
    recipe = Recipe(**{**vars(recipe), "optimizer": OptimizerRecipe(beta2=0.98)})
    return Progress(
        run="0123456789abcdef",
        step=STEP,
        recipe=recipe,
        tokens=25_600,
        epoch=1,
        sample=600,
        total_steps=1000,
        world_size=2,
        metrics={"loss": 1.5, "val_loss": 1.625},
        data="sha256:00ff",
        backend="torch",
        device="cpu",
        precision="float32",
        versions={"hermes": "0.1.0", "torch": "2.13.0"},
    )


def companions():
    return Companions(
        tokenizer_json='{"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": []}\n',
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
        generation_config={"eos_token_id": 0},
    )


if __name__ == "__main__":
    spec, saved = state()
    save(Path(sys.argv[1]), saved, spec=spec, progress=progress(), companions=companions())
