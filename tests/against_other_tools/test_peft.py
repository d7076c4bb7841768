"""Adapters travel: PEFT opens what hermes trained and hermes opens what PEFT saved, same logits."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from hermes.interface import Options, find_backend
from hermes.interop.adapters import merge_adapter
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from hermes_cli.main import run
from tests.against_other_tools.support import FLOAT32, TOKENS, distance, folder_of
from tests.finetuning.support import TEXT, small_tokenizer, some_chats, write_lines
from tests.interop.models import GEMMA3, LLAMA, OLMO2, QWEN2, QWEN3, change, hot_weights

peft = pytest.importorskip("peft", reason="pip install 'hermes-llm[interop-test]'")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

FOUR = transformers.__version__.startswith("4.")
SPECS = {
    "llama": change(LLAMA, attention={"bias": "all"}, ffn={"bias": True}),
    "qwen2 tied": QWEN2,
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "gemma3": GEMMA3,
}
TARGETS = ["q_proj", "o_proj", "up_proj"]


@pytest.fixture(params=SPECS)
def base(request, tmp_path):
    """A folder of Hugging Face's, a tokenizer beside it."""
    folder = folder_of(SPECS[request.param], tmp_path)
    (folder / "tokenizer.json").write_text(small_tokenizer().to_json())
    return folder


def their_model(folder):
    options = {"attn_implementation": "eager", "dtype": torch.float32}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def their_logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def our_logits(source, tokens=TOKENS):
    params = {name: source.params[name] for name in source.params}
    exact = Options(precision="float64")
    return find_backend("numpy").build(source.spec, params, exact).logits(tokens)


def train_adapters(base, tmp_path, *more):
    (tmp_path / "text.txt").write_text(TEXT * 20)
    arguments = ("finetune", "--checkpoint", base, "--data", tmp_path / "text.txt", "--output",
                 tmp_path / "run", "--seq-len", 16, "--batch-size", 2, "--max-steps", 4,
                 "--lora-rank", 3, "--lora-alpha", 12, "--lr", 0.02, "--lora-targets",
                 ",".join(TARGETS), *more)  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    return tmp_path / "run" / "step-00000004"


KINDS = {"plain": (), "rslora": ("--lora-rslora",), "dora": ("--dora",)}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_what_hermes_trained(base, tmp_path, kind):
    checkpoint = train_adapters(base, tmp_path, *KINDS[kind])
    convert(checkpoint, tmp_path / "merged", to="hf", backend="numpy")
    ours = our_logits(open_model(checkpoint))
    # 4.57 looks for the base on the Hub, under the name None. 5.23 leaves out DoRA's magnitudes of
    # any adapter, PEFT's own included, where it activates one by itself.
    if not FOUR and kind != "dora":
        # With peft installed transformers turns on the adapter that lies beside a model by itself.
        assert distance(ours, their_logits(their_model(checkpoint))) < FLOAT32
    (tmp_path / "plain").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, tmp_path / "plain" / name)
    plain = their_model(tmp_path / "plain")
    assert distance(ours, their_logits(plain)) > 100 * FLOAT32  # so much was learnt
    adapted = peft.PeftModel.from_pretrained(plain, checkpoint).eval()
    assert distance(ours, their_logits(adapted)) < FLOAT32
    assert distance(ours, their_logits(their_model(tmp_path / "merged"))) < FLOAT32
    assert distance(ours, their_logits(adapted.merge_and_unload())) < FLOAT32


@pytest.mark.parametrize("spec", ["llama", "qwen2 tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_rows_of_tokens_that_hermes_trained(tmp_path, spec, kind):
    """The base's rows of the chat tokens are zero; PEFT needs the base as it was."""
    tokenizer = small_tokenizer()
    ids = [tokenizer.find_special_id(name) for name in ("<|im_start|>", "<|im_end|>")]

    def make_weights(spec):
        weights = {name: np.array(weight) for name, weight in hot_weights(spec).items()}
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in weights:
                weights[name][ids] = 0
        return weights

    base = folder_of(replace(SPECS[spec], vocab_size=320), tmp_path, make_weights)
    (base / "tokenizer.json").write_text(tokenizer.to_json())
    data = write_lines(tmp_path / "chat.jsonl", some_chats(4))
    arguments = ("sft", "--checkpoint", base, "--data", data, "--output", tmp_path / "run",
                 "--seq-len", 48, "--batch-size", 2, "--max-steps", 6, "--lora-rank", 3,
                 "--lr", 0.02, "--no-pack", *KINDS[kind])  # fmt: skip
    assert run([str(argument) for argument in arguments]) == 0
    checkpoint = tmp_path / "run" / "step-00000006"
    source = open_model(checkpoint)
    tokens = np.array([[*ids, 5, *ids, 7]])
    assert distance(our_logits(source), their_logits(their_model(base))) > 100 * FLOAT32
    adapted = peft.PeftModel.from_pretrained(their_model(base), checkpoint).eval()
    assert distance(our_logits(source, tokens), their_logits(adapted, tokens)) < FLOAT32
    merged = adapted.merge_and_unload()
    assert distance(our_logits(source, tokens), their_logits(merged, tokens)) < FLOAT32
    found = merge_adapter(open_model(base), checkpoint)
    assert distance(our_logits(found, tokens), our_logits(source, tokens)) < FLOAT32


def saved_by_peft(base, folder, load=their_model, **options):
    """An adapter with nothing zero in it, as PEFT writes it, and its logits."""
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=10, **options)
    adapted = peft.get_peft_model(load(base), config).eval()
    tied = config.ensure_weight_tying  # copies would be told from what they are tied to
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if not weight.requires_grad or (tied and "embed" not in name and "lm_head" in name):
                continue
            noise = torch.randn_like(weight)
            weight.copy_(noise * 0.1 if "lora_A" in name or "lora_B" in name else weight + noise)
    adapted.save_pretrained(folder)
    return their_logits(adapted)


@pytest.mark.parametrize("targets", [TARGETS, "all-linear", r".*\.(q_proj|down_proj)"])
def test_hermes_opens_what_peft_saved(base, tmp_path, targets):
    theirs = saved_by_peft(base, tmp_path / "adapter", target_modules=targets)
    source = open_model(base)
    found = merge_adapter(source, tmp_path / "adapter")
    assert distance(our_logits(source), theirs) > 100 * FLOAT32
    assert distance(our_logits(found), theirs) < FLOAT32


def name_options(options):
    return "-".join(f"{name} {value}" for name, value in options.items())[:60]


ROWS = ["embed_tokens", "lm_head"]


@pytest.mark.parametrize("spec", ["llama", "qwen2 tied"])
@pytest.mark.parametrize(
    "options",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["o_proj"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 7}},
        {"rank_pattern": {r".*\.1\..*(q|o)_proj": 3}, "use_rslora": True},
        {"use_rslora": True},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True, "alpha_pattern": {"up_proj": 3}},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ROWS},
        {"modules_to_save": ROWS, "ensure_weight_tying": True},
        {"modules_to_save": ["norm", "input_layernorm"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", *ROWS]},
        {"target_modules": ["q_proj", *ROWS], "ensure_weight_tying": True},
        {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
        {"trainable_token_indices": [7, 3, 95]},
        {"trainable_token_indices": {"embed_tokens": [3, 95], "lm_head": [3, 95]}},
        {"trainable_token_indices": {"embed_tokens": [3, 95], "lm_head": [4]}},
    ],
    ids=name_options,
)
def test_hermes_computes_what_peft_does_with_its_options(tmp_path, options, spec):
    base = folder_of(SPECS[spec], tmp_path)
    theirs = saved_by_peft(base, tmp_path / "adapter", **({"target_modules": TARGETS} | options))
    source = open_model(base)
    merged = merge_adapter(source, tmp_path / "adapter")
    assert distance(our_logits(source), theirs) > 100 * FLOAT32
    assert distance(our_logits(merged), theirs) < FLOAT32
    written = convert(
        base, tmp_path / "merged", to="hf", adapter=tmp_path / "adapter", dtype="float32",
        backend="numpy",
    )  # fmt: skip
    assert distance(their_logits(their_model(written.target)), theirs) < FLOAT32


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_that_was_resized_for_peft_grows_here(tmp_path, tied):
    """modules_to_save holds embeddings and head that have rows for the new tokens."""
    base = folder_of(SPECS["qwen2 tied" if tied else "llama"], tmp_path)

    def resized(folder):
        torch.manual_seed(1)
        model = their_model(folder)
        model.resize_token_embeddings(model.config.vocab_size + 2, mean_resizing=False)
        return model

    theirs = saved_by_peft(
        base, tmp_path / "adapter", resized, target_modules=TARGETS, modules_to_save=ROWS
    )
    merged = merge_adapter(open_model(base), tmp_path / "adapter")
    assert merged.spec.vocab_size == 98
    assert distance(our_logits(merged), theirs) < FLOAT32


@pytest.mark.parametrize(
    "options",
    [
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"alora_invocation_tokens": [5]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_peft_computes_otherwise_is_refused_by_name(tmp_path, options):
    base = folder_of(SPECS["llama"], tmp_path)
    saved_by_peft(base, tmp_path / "adapter", target_modules=TARGETS, **options)
    (name,) = options
    with pytest.raises(Exception, match=f"{name} is .*, which hermes does not read"):
        merge_adapter(open_model(base), tmp_path / "adapter")
