"""A run's checkpoint is a folder that transformers and mlx-lm open unchanged, tokenizer and all."""

import dataclasses

import numpy as np
import pytest

from hermes.checkpoint import Progress, save
from hermes.interface import Options, TrainState, find_backend
from hermes.interop.companions import make_companions
from hermes.numerics.params import init_weights, list_parameters
from hermes.recipe import Recipe
from hermes.tokenizer import train_tokenizer
from tests.against_other_tools.support import FLOAT32, distance
from tests.interop.models import GEMMA3, LLAMA, MODELS, OLMO2, QWEN3

TEXT = "The quick brown fox, 0123456789 \u00e9\u4e2d\U0001f600 jumps\n\n\tdef f(x): return x\n"
SPECS = {
    "llama": LLAMA,
    "llama tied": MODELS["llama biases tied"][1],
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "gemma3": GEMMA3,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT * 5], vocab_size=300)


@pytest.fixture(params=SPECS)
def checkpoint(request, tmp_path, tokenizer):
    """A checkpoint as a run leaves it, its vocabulary padded beyond the tokenizer's."""
    spec = dataclasses.replace(SPECS[request.param], vocab_size=320)
    zeros = {name: np.zeros(t.shape, np.float32) for name, t in list_parameters(spec).items()}
    state = TrainState(init_weights(spec, 0), zeros, zeros, 3)
    progress = Progress(run="r", step=3, recipe=Recipe(), tokens=9, sample=3)
    return spec, save(
        tmp_path / "run",
        state,
        spec=spec,
        progress=progress,
        companions=make_companions(spec, tokenizer),
    )


def our_logits(spec, ids):
    model = find_backend("numpy").build(spec, init_weights(spec, 0), Options(precision="float64"))
    return model.logits(np.array([ids]))


def test_transformers_opens_a_checkpoint(checkpoint, tokenizer):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    spec, folder = checkpoint
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs(TEXT)["input_ids"]
    assert ids == tokenizer.encode(TEXT)
    assert theirs.decode(ids) == TEXT
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.pad_id,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids[:50]])).logits.numpy()
    assert distance(our_logits(spec, ids[:50]), logits) < FLOAT32
    greedy = model.generate(torch.tensor([ids[:8]]), max_new_tokens=4, do_sample=False)
    assert greedy.shape[1] <= 12


def test_mlx_lm_opens_a_checkpoint(checkpoint, tokenizer):
    mlx_lm = pytest.importorskip("mlx_lm")
    mx = pytest.importorskip("mlx.core")
    spec, folder = checkpoint
    with mx.stream(mx.cpu):
        model, theirs = mlx_lm.load(str(folder))
        ids = theirs.encode(TEXT)
        assert ids == tokenizer.encode(TEXT)
        logits = np.array(model(mx.array([ids[:50]])).astype(mx.float32))
    assert distance(our_logits(spec, ids[:50]), logits) < FLOAT32
