"""PEFT's adapters of classes with matrices of their own: fused, permuted, transposed, renamed."""

import json

import pytest

from hermes.errors import HermesError
from hermes.interop.adapters import merge_adapter
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from hermes_cli.main import run
from tests.against_other_tools.small_models import CONFIGURATIONS, randomize, shrink
from tests.against_other_tools.support import FLOAT32, distance
from tests.against_other_tools.test_peft import our_logits, saved_by_peft, their_logits, their_model
from tests.finetuning.support import TEXT, small_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="pip install 'hermes-llm[interop-test]'")
peft = pytest.importorskip("peft")

# A configuration of each layout, and the names of its matrices for PEFT.
CLASSES = {
    "pythia-70m": ["query_key_value", "dense_4h_to_h"],
    "gpt2": ["c_attn", "c_proj"],
    "Phi-3-mini-4k-instruct": ["qkv_proj", "gate_up_proj"],
    "GLM-4-9B-0414": ["gate_up_proj", "q_proj", "v_proj"],
    "glm-4-9b-chat-hf": ["k_proj", "down_proj"],
    "c4ai-command-r-v01": ["q_proj", "k_proj", "up_proj"],
    "gpt-j-6b": ["q_proj", "v_proj", "fc_in"],
    "codegen-350M-mono": ["qkv_proj", "out_proj"],
    "starcoderbase-1b": ["c_attn", "c_fc"],
    "falcon-40b": ["query_key_value", "dense"],
    "bloom-560m": ["query_key_value", "dense_h_to_4h"],
    "mpt-7b": ["Wqkv", "up_proj"],
    "opt-125m": ["q_proj", "fc1"],
    "phi-2": ["q_proj", "dense", "fc2"],
    "starcoder2-7b": ["q_proj", "c_fc"],
    "biogpt": ["q_proj", "fc2"],
    "persimmon-8b-base": ["query_key_value", "dense_h_to_4h"],
    "nanochat": ["q_proj", "k_proj", "fc1"],
    "helium-1-preview-2b": ["q_proj", "k_proj"],
}
LAYOUTS = list(CLASSES)


@pytest.fixture
def base(request, tmp_path):
    """A folder as transformers saves it."""
    config = shrink(CONFIGURATIONS[request.param]) | {"vocab_size": 300}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "base")
    randomize(transformers.AutoModelForCausalLM.from_config(theirs), torch).save_pretrained(
        tmp_path / "base"
    )
    return tmp_path / "base"


def check(base, folder, theirs):
    source = open_model(base)
    merged = merge_adapter(source, folder)
    assert distance(our_logits(source), theirs) > 100 * FLOAT32
    assert distance(our_logits(merged), theirs) < FLOAT32


@pytest.mark.parametrize(("base", "targets"), CLASSES.items(), indirect=["base"], ids=LAYOUTS)
def test_hermes_reads_adapters_of_fused_matrices(base, targets, tmp_path):
    check(base, tmp_path / "a", saved_by_peft(base, tmp_path / "a", target_modules=targets))


OPTIONS = {
    "all": {"target_modules": "all-linear"},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {r"layers\.1\..*": 2, r"h\.1\..*": 2}, "use_rslora": True},
    "layers": {"layers_to_transform": [1]},
    "bias": {"bias": "lora_only"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "base", ["pythia-70m", "gpt2", "Phi-3-mini-4k-instruct", "c4ai-command-r-v01"], indirect=True
)
def test_hermes_reads_the_options_of_their_adapters(base, options, tmp_path, request):
    targets = CLASSES[request.node.callspec.params["base"]]
    chosen = {"target_modules": targets} | options
    check(base, tmp_path / "a", saved_by_peft(base, tmp_path / "a", **chosen))


ROWS = {
    "gpt2": ("wte", "c_attn"),
    "pythia-70m": ("embed_in", "query_key_value"),
    "glm-4-9b-chat-hf": ("embed_tokens", "q_proj"),
}


@pytest.mark.parametrize("kind", ["target", "saved", "tokens", "tokens by name", "norm"])
@pytest.mark.parametrize(
    ("base", "names"), ROWS.items(), indirect=["base"], ids=[name for name in ROWS]
)
def test_hermes_reads_their_embeddings_and_norms(base, names, kind, tmp_path):
    embedding, matrix = names
    options = {
        "target": {"target_modules": [matrix, embedding]},
        "saved": {"modules_to_save": [embedding]},
        "tokens": {"trainable_token_indices": {embedding: [7, 3]}},
        "tokens by name": {"trainable_token_indices": {embedding: [3, 90]}},
        "norm": {"modules_to_save": ["ln_1", "input_layernorm"]},
    }[kind]
    chosen = {"target_modules": [matrix]} | options
    check(base, tmp_path / "a", saved_by_peft(base, tmp_path / "a", **chosen))


@pytest.mark.parametrize("base", ["gpt2"], indirect=True)
def test_an_adapter_of_learned_positions_is_refused_by_that(base, tmp_path):
    saved_by_peft(base, tmp_path / "a", target_modules=["c_attn", "wpe"])
    with pytest.raises(HermesError, match="adapts 'wpe', and of embeddings"):
        merge_adapter(open_model(base), tmp_path / "a")


@pytest.mark.parametrize("base", ["pythia-70m"], indirect=True)
def test_an_adapter_of_another_class_is_refused_with_the_names_expected(base, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    config = shrink(CONFIGURATIONS["gpt2"])
    (other / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoConfig.from_pretrained(other)
    transformers.AutoModelForCausalLM.from_config(theirs).save_pretrained(other)
    saved_by_peft(other, tmp_path / "a", target_modules=["c_attn"])
    said = r"it has 'transformer\.h\.0\.attn\.c_attn.*named as those of gpt_neox"
    with pytest.raises(HermesError, match=said):
        merge_adapter(open_model(base), tmp_path / "a")


@pytest.mark.parametrize("base", ["gpt2", "glm-4-9b-chat-hf"], indirect=True)
def test_a_model_with_their_adapter_is_converted_whole(base, tmp_path, request):
    targets = CLASSES[request.node.callspec.params["base"]]
    theirs = saved_by_peft(base, tmp_path / "a", target_modules=targets)
    done = convert(base, tmp_path / "merged", to="hf", adapter=tmp_path / "a", backend="numpy")
    assert distance(their_logits(their_model(done.target)), theirs) < FLOAT32


def train(base, folder, *more):
    """A run of adapters on the base, with hermes; its newest checkpoint."""
    (base / "tokenizer.json").write_text(small_tokenizer().to_json())
    (folder / "text.txt").write_text(TEXT * 20)
    arguments = ("finetune", "--checkpoint", base, "--data", folder / "text.txt", "--output",
                 folder / "run", "--seq-len", 16, "--batch-size", 2, "--max-steps", 4,
                 "--lora-rank", 3, "--lora-alpha", 12, "--lr", 0.02, *more)  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    return folder / "run" / "step-00000004"


WRITTEN = {
    "every matrix": ("--lora-targets", "all"),
    "some parts": ("--lora-targets", "q_proj,v_proj"),
    "rslora": ("--lora-rslora", "--lora-targets", "q_proj,v_proj,up_proj"),
    "dora": ("--dora", "--lora-targets", "all"),
}


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize(
    "base",
    ["pythia-70m", "gpt2", "Phi-3-mini-4k-instruct", "GLM-4-9B-0414", "c4ai-command-r-v01"],
    indirect=True,
)
def test_peft_opens_what_hermes_trained_of_fused_matrices(base, options, tmp_path):
    checkpoint = train(base, tmp_path, *options)
    assert run(["convert", str(checkpoint), str(tmp_path / "a"), "--to", "peft-adapter"]) == 0
    plain = their_model(base)
    ours = our_logits(open_model(checkpoint))
    assert distance(ours, their_logits(plain)) > 100 * FLOAT32
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "a").eval()
    assert distance(ours, their_logits(adapted)) < FLOAT32
    assert distance(ours, our_logits(merge_adapter(open_model(base), tmp_path / "a"))) < FLOAT32


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("base", ["pythia-70m", "gpt2", "c4ai-command-r-v01"], indirect=True)
def test_training_continues_from_their_adapter(base, backend, tmp_path, request):
    """Ranks and factors differ between matrices; the first step has PEFT's numbers."""
    name = request.node.callspec.params["base"]
    patterns = {"rank_pattern": {r".*\.1\..*": 2}, "alpha_pattern": {r".*\.0\..*": 3}}
    theirs = saved_by_peft(base, tmp_path / "a", target_modules=CLASSES[name], **patterns)
    (base / "tokenizer.json").write_text(small_tokenizer().to_json())
    (tmp_path / "text.txt").write_text(TEXT * 20)
    arguments = ("finetune", "--checkpoint", base, "--adapter", tmp_path / "a", "--data",
                 tmp_path / "text.txt", "--output", tmp_path / "run", "--seq-len", 16,
                 "--batch-size", 2, "--max-steps", 1, "--lr", 1e-12, "--backend",
                 backend)  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    assert distance(our_logits(open_model(tmp_path / "run")), theirs) < FLOAT32
