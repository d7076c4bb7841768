"""Small models, batches and learners for tests of every backend."""

import numpy as np

from hermes.interface import IGNORE, Batch, Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec

TRAINING_BACKENDS = ("torch", "mlx")
EXACT = Options(device="cpu", precision="float64")
FLOAT32 = Options(device="cpu")

PLAIN = AttentionSpec(4, 2)


def make_spec(*, layers=2, attention=PLAIN, tied=False, dropout=0.0):
    return ModelSpec(
        blocks=(BlockSpec(attention, FfnSpec(hidden_dim=24), dropout=dropout),),
        vocab_size=37,
        max_seq_len=32,
        hidden_size=16,
        num_layers=layers,
        embeddings=EmbeddingsSpec(tie_weights=tied),
    )


def make_weights(model, scale=10):
    return {n: w * scale if w.ndim > 1 else w for n, w in init_weights(model, 0).items()}


def make_batch(A=1, B=2, T=10, seed=0, counted=None):
    ids = np.random.default_rng(seed).integers(0, 37, (A, B, T + 1)).astype(np.int32)
    targets = ids[..., 1:].copy()
    for (a, b), n in (counted or {}).items():
        targets[a, b, n:] = IGNORE
    return Batch(ids[..., :-1], targets, np.arange(A * B, dtype=np.uint32).reshape(A, B))


def make_learner(backend, model, recipe=None, options=EXACT, state=None):
    state = state or TrainState(make_weights(model), {}, {}, 0)
    return find_backend(backend).learner(model, state, recipe or Recipe(), options)


def split_batch(whole, A):
    """The same samples in A micro-batches."""

    def cut(array):
        return array.reshape(A, -1, *array.shape[2:])

    return Batch(cut(whole.tokens), cut(whole.targets), cut(whole.rows))
