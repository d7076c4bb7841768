"""Adapters cross to mlx-lm and back: the same logits on both sides."""

import json

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.interface import Options, find_backend
from hermes.interop.adapters import merge_adapter
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from hermes_cli.main import run
from tests.against_other_tools.support import FLOAT32, TOKENS, distance, folder_of
from tests.finetuning.support import TEXT, small_tokenizer
from tests.interop.models import GEMMA3, GPT2, LLAMA, OLMO2, QWEN2, QWEN3, change
from tests.interop.other_models import COHERE, GPTJ

utils = pytest.importorskip("mlx_lm.utils", reason="pip install 'hermes-llm[interop-test]'")
tuner = pytest.importorskip("mlx_lm.tuner.utils")
mx = pytest.importorskip("mlx.core")
mlx_utils = pytest.importorskip("mlx.utils")

SPECS = {
    "llama": change(LLAMA, attention={"bias": "all"}, ffn={"bias": True}),
    "qwen2 tied": QWEN2,
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "gemma3": GEMMA3,
}


@pytest.fixture(params=SPECS)
def base(request, tmp_path):
    folder = folder_of(SPECS[request.param], tmp_path)
    (folder / "tokenizer.json").write_text(small_tokenizer().to_json())
    return folder


def their_logits(model):
    return np.array(model(mx.array(TOKENS)).astype(mx.float32))


def our_logits(source):
    params = {name: source.params[name] for name in source.params}
    exact = Options(precision="float64")
    return find_backend("numpy").build(source.spec, params, exact).logits(TOKENS)


def save_theirs(base, folder, kind="lora", num_layers=-1, **parameters):
    """An adapter with nothing zero in it, saved as mlx_lm.lora does, and its logits."""
    model, _ = utils.load_model(base)
    layers = len(model.layers) if num_layers == -1 else num_layers
    model.freeze()
    settings = {"rank": 3, "scale": 2.5, "dropout": 0.0} | parameters
    if kind == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
    else:
        tuner.linear_to_lora_layers(model, layers, settings, use_dora=kind == "dora")
    rng = np.random.default_rng(0)
    weights = {
        name: value + mx.array(rng.normal(0, 0.1, value.shape).astype("f4"))
        for name, value in mlx_utils.tree_flatten(model.trainable_parameters())
    }
    model.load_weights(list(weights.items()), strict=False)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": settings, "seed": 0}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return their_logits(model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1},
        {"keys": ["self_attn.q_proj", "mlp.up_proj"]},
        {"keys": ["self_attn.v_proj", "model.embed_tokens"]},
        {"kind": "dora"},
        {"kind": "dora", "keys": ["self_attn.v_proj", "model.embed_tokens"]},
        {"kind": "full", "num_layers": 1},
    ],
    ids=str,
)
def test_hermes_opens_what_mlx_lm_saved(base, tmp_path, options):
    with mx.stream(mx.cpu):
        theirs = save_theirs(base, tmp_path / "adapter", **options)
    source = open_model(base)
    assert distance(our_logits(source), theirs) > 100 * FLOAT32
    assert distance(our_logits(merge_adapter(source, tmp_path / "adapter")), theirs) < FLOAT32


def test_a_head_that_mlx_lm_adapted_is_read(tmp_path):
    base = folder_of(SPECS["llama"], tmp_path)
    with mx.stream(mx.cpu):
        theirs = save_theirs(base, tmp_path / "adapter", keys=["lm_head"])
    found = merge_adapter(open_model(base), tmp_path / "adapter")
    assert distance(our_logits(found), theirs) < FLOAT32


def train_adapters(base, tmp_path, *more):
    (tmp_path / "text.txt").write_text(TEXT * 20)
    arguments = ("finetune", "--checkpoint", base, "--data", tmp_path / "text.txt", "--output",
                 tmp_path / "run", "--seq-len", 16, "--batch-size", 2, "--max-steps", 4,
                 "--lora-rank", 3, "--lora-alpha", 12, "--lr", 0.02, "--lora-targets",
                 "q_proj,o_proj,up_proj", "--no-train-new-tokens", *more)  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    return tmp_path / "run" / "step-00000004"


@pytest.mark.parametrize("more", [(), ("--dora", "--lora-rslora")], ids=str)
def test_mlx_lm_opens_what_hermes_trained(base, tmp_path, more):
    checkpoint = train_adapters(base, tmp_path, *more)
    out = tmp_path / "adapter"
    assert run(["convert", str(checkpoint), str(out), "--to", "mlx-adapter"]) == 0
    ours = our_logits(open_model(checkpoint))
    with mx.stream(mx.cpu):
        model, _ = utils.load_model(checkpoint)
        plain = their_logits(model)
        theirs = their_logits(tuner.load_adapters(model, str(out)))
    assert distance(ours, plain) > 100 * FLOAT32  # so much was trained
    assert distance(ours, theirs) < FLOAT32


def test_what_cannot_be_an_adapter_of_mlx_lm_is_refused(tmp_path):
    base = folder_of(SPECS["llama"], tmp_path)
    with pytest.raises(HermesError, match="has no adapters; give a run that trained some"):
        convert(base, tmp_path / "out", to="mlx-adapter")
    (base / "tokenizer.json").write_text(small_tokenizer().to_json())
    run_of_rows = train_adapters(base, tmp_path, "--train-new-tokens")
    with pytest.raises(HermesError, match="has trained rows of 204 tokens, which mlx-lm's adapte"):
        convert(run_of_rows, tmp_path / "out", to="mlx-adapter")
    assert not (tmp_path / "out").exists()


CLASSES = {"gpt2": GPT2, "cohere": COHERE, "gptj": GPTJ}


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("name", CLASSES)
def test_hermes_opens_what_mlx_lm_trained_of_fused_and_permuted_matrices(tmp_path, name, kind):
    base = folder_of(CLASSES[name], tmp_path)
    with mx.stream(mx.cpu):
        theirs = save_theirs(base, tmp_path / "a", kind)
    source = open_model(base)
    assert distance(our_logits(source), theirs) > 100 * FLOAT32
    assert distance(our_logits(merge_adapter(source, tmp_path / "a")), theirs) < FLOAT32
