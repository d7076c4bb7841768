"""The outside oracle of every family: Hugging Face's own classes on small loud models, float32."""

import shutil
import warnings

import pytest

from hermes.interface import Options, find_backend
from hermes.interop.huggingface.families import ARCHITECTURES
from hermes.interop.huggingface.reader_support import EXACT, NOT_EXPRESSIBLE, READERS, judge_readers
from hermes.interop.open_model import open_model
from hermes.numerics.params import list_parameters
from hermes.spec import Alibi, Llama3Scaling, RMSNorm, Rope, YarnScaling
from tests.against_other_tools.support import (
    FLOAT32,
    TOKENS,
    distance,
    folder_of,
    logits_of,
    quiet_weights,
)
from tests.interop.models import MODELS, change, hot_weights
from tests.interop.other_models import OTHERS

transformers = pytest.importorskip("transformers", reason="pip install 'hermes-llm[interop-test]'")
torch = pytest.importorskip("torch")

FOUR = transformers.__version__.startswith("4.")
READER = READERS[0] if FOUR else READERS[1]
CASES = [pytest.param(family, spec, id=name) for name, (family, spec) in (MODELS | OTHERS).items()]


@pytest.fixture(autouse=True, scope="module")
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def load(folder, **options):
    """Their model, every tensor of the file in its place and none left over."""
    key = "torch_dtype" if FOUR else "dtype"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **{key: torch.float32}, **options
        )
    assert {name: found for name, found in info.items() if found} == {}
    return model.eval()


def their_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.parametrize("weights", [hot_weights, quiet_weights])
@pytest.mark.parametrize(("family", "spec"), CASES)
def test_hugging_faces_class_computes_the_same(tmp_path, family, spec, weights):
    folder = folder_of(spec, tmp_path, weights)
    if dict(judge_readers(spec, converted=True))[READER].startswith(NOT_EXPRESSIBLE):
        with pytest.raises(ValueError, match="rope_scaling"):
            load(folder)
        return
    # Falcon's eager attention adds ALiBi twice.
    twice = family == "falcon" and isinstance(spec.attentions[0].position_encoding, Alibi)
    model = load(folder, attn_implementation="sdpa" if twice else "eager")
    assert type(model).__name__ == ARCHITECTURES[family]
    theirs = their_logits(model)
    assert distance(logits_of(spec, "numpy", weights), theirs) < FLOAT32
    assert distance(logits_of(spec, "torch", weights), theirs) < FLOAT32


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_the_verdict_on_this_reader_is_what_it_does(tmp_path, family, spec):
    """As the reader loads a folder by itself: exact, or as far off as the verdict says."""
    verdict = dict(judge_readers(spec, converted=True))[READER]
    if verdict.startswith(NOT_EXPRESSIBLE):
        return  # that it refuses is tested above
    error = distance(logits_of(spec, "numpy"), their_logits(load(folder_of(spec, tmp_path))))
    assert (error < FLOAT32) == (verdict == EXACT)


def test_mlx_computes_the_same(tmp_path):
    pytest.importorskip("mlx.core")
    for name in ("llama yarn", "mistral window", "gemma2", "gemma3", "olmo2", "gpt2", "neox"):
        _, spec = MODELS[name]
        (tmp_path / name).mkdir()
        theirs = their_logits(load(folder_of(spec, tmp_path / name), attn_implementation="eager"))
        assert distance(logits_of(spec, "mlx"), theirs) < FLOAT32, name


def altered(name, **changes):
    return MODELS[name][1], change(MODELS[name][1], **changes)


PLANTED = {
    "eps": altered("llama", norm=RMSNorm(2e-5)),
    "theta": altered("llama", attention={"position_encoding": Rope(11_000.0)}),
    "window": altered("mistral window", attention={"window_size": 6}),
    "yarn's ramp": altered(
        "llama yarn",
        attention={"position_encoding": Rope(100.0, YarnScaling(4.0, 64, 2.0, 1.0))},
    ),
    "llama3's ramp": altered(
        "llama llama3",
        attention={"position_encoding": Rope(5e5, Llama3Scaling(8.0, 1.0, 5.0, 16))},
    ),
    "scale": altered("gemma2", attention={"scale": 21**-0.5}),
    "soft cap": altered("gemma2", attention={"softcap": 30.0}),
    "gelu": altered("gpt2", ffn={"activation": "gelu"}),
    "share of the head that turns": altered(
        "neox", attention={"position_encoding": Rope(rotary_dim=4)}
    ),
    "parallel": altered("neox", parallel=False),
    "order of norm and residual": altered("olmo2", norm_position="pre"),
}


@pytest.mark.parametrize(("spec", "wrong"), PLANTED.values(), ids=PLANTED.keys())
def test_the_oracle_can_fail(tmp_path, spec, wrong):
    """The smallest differences that families could be confused by are well beyond the bound."""
    worst = 0.0
    for weights in (hot_weights, quiet_weights):
        folder = folder_of(spec, tmp_path, weights)
        theirs = their_logits(load(folder, attn_implementation="eager"))
        here = dict(zip(list_parameters(wrong), weights(spec).values(), strict=True))
        ours = logits_of(wrong, "numpy", lambda _, here=here: here)
        worst = max(worst, distance(ours, theirs))
        shutil.rmtree(folder)
    assert worst > 5 * FLOAT32


def test_what_they_save_is_read(tmp_path):
    """In the other direction: a folder of save_pretrained, as this version writes it."""
    for family, config in CONFIGS.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config()).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * (0.2 if weight.ndim > 1 else 0.3))
        model.save_pretrained(tmp_path / family, max_shard_size="40kB")
        found = open_model(tmp_path / family)
        params = {name: found.params[name] for name in found.params}
        ours = find_backend("numpy").build(found.spec, params, Options(precision="float64"))
        model.set_attn_implementation("eager")
        assert distance(ours.logits(TOKENS), their_logits(model)) < FLOAT32, family


SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
NAMES = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GEMMA = GROUPED | NAMES | {"head_dim": 12, "sliding_window": 5}
GPT2 = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=5),
    "qwen2": lambda: transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=12),
    "olmo2": lambda: transformers.Olmo2Config(**GROUPED | NAMES),
    "gemma2": lambda: transformers.Gemma2Config(**GEMMA, query_pre_attn_scalar=20),
    "gemma3": lambda: transformers.Gemma3TextConfig(**GEMMA, query_pre_attn_scalar=20),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "gpt2 by layer": lambda: transformers.GPT2Config(
        **GPT2, scale_attn_by_inverse_layer_idx=True, activation_function="relu"
    ),
    "gpt2 unscaled": lambda: transformers.GPT2Config(**GPT2, scale_attn_weights=False),
    "neox": lambda: transformers.GPTNeoXConfig(**SIZES),
}
