"""config.json out of a specification, and back: which class, which fields, what is refused."""

import dataclasses
import json
import random
from contextlib import suppress

import pytest

from hermes.errors import SpecError
from hermes.interop.families import ARCHITECTURES, family_of
from hermes.interop.hf import config_of, converted_config_of, spec_of
from hermes.params import tensor_count
from hermes.spec import (
    Alibi,
    EmbeddingsSpec,
    LayerNorm,
    Learned,
    NoNorm,
    NoPositions,
    OutputSpec,
    RMSNorm,
    Rope,
    YarnScaling,
)
from tests.interop.models import GEMMA2, GEMMA3, GPT2, GPT_NEOX, LLAMA, MODELS, OLMO2, QWEN3, change

CASES = [pytest.param(family, spec, id=name) for name, (family, spec) in MODELS.items()]
RENAMED = ("gpt2", "gpt_neox")


def through_json(config):
    return json.loads(json.dumps(config))


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_a_model_says_the_smallest_class_that_computes_it(family, spec):
    config = converted_config_of(spec)
    assert config["model_type"] == family
    assert config["architectures"] == [ARCHITECTURES[family]]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_a_config_reads_back_to_the_same_function(family, spec):
    config = through_json(converted_config_of(spec))
    back = spec_of(config)
    assert back.identity == spec.identity
    assert converted_config_of(back) == config


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_under_our_own_names_classes_with_other_names_do_not_count(family, spec):
    config = through_json(config_of(spec))
    assert config["model_type"] == ("hermes" if family in RENAMED else family)
    assert spec_of(config).identity == spec.identity


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_what_readers_have_different_defaults_for_is_always_written(family, spec):
    config = converted_config_of(
        spec, dtype="bfloat16", bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0
    )
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is spec.embeddings.tie_weights
    ids = config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]
    assert ids == (1, [2, 3], 0)
    if family in RENAMED:
        return
    attention = spec.layers[0].attention
    assert config["head_dim"] == attention.head_size
    assert config["num_key_value_heads"] == attention.kv_heads
    assert type(config["rms_norm_eps"]) is float
    assert {"attention_bias", "mlp_bias", "rope_theta", "rope_scaling"} <= config.keys()


def test_both_forms_of_rope_say_the_same():
    config = config_of(MODELS["llama yarn"][1])
    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 4.0,
        "beta_slow": 1.0,
    }
    assert config["rope_theta"] == 100.0
    assert config["rope_scaling"] == scaling
    assert config["rope_parameters"] == {"rope_theta": 100.0, **scaling}


def test_two_thetas_are_written_in_both_forms():
    config = config_of(GEMMA3)
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert config["rope_parameters"] == {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    assert [kind[0] for kind in config["layer_types"]] == ["s", "s", "f", "s"]
    assert config["sliding_window_pattern"] == 3


def test_a_pattern_that_older_readers_cannot_know_is_written_as_null():
    assert config_of(MODELS["gemma3 full first"][1])["sliding_window_pattern"] is None


def test_gpt2_with_more_positions_than_it_uses_reads_back_with_all_of_them():
    spec = change(GPT2, attention={"position_encoding": Learned(80)})
    back = spec_of(converted_config_of(spec))
    assert back.identity == dataclasses.replace(GPT2, max_seq_len=80).identity


BEYOND = {
    "learned positions": change(LLAMA, attention={"position_encoding": Learned()}),
    "no positions": change(LLAMA, attention={"position_encoding": NoPositions()}),
    "alibi": change(LLAMA, attention={"position_encoding": Alibi()}),
    "part of the head turns": change(LLAMA, attention={"position_encoding": Rope(rotary_dim=4)}),
    "an empty ramp of yarn": change(
        LLAMA, attention={"position_encoding": Rope(10.0, YarnScaling(4.0, 1))}
    ),
    "not causal": change(LLAMA, attention={"causal": False}),
    "a soft cap": change(LLAMA, attention={"softcap": 20.0}),
    "a scale": change(LLAMA, attention={"scale": 0.2}),
    "no gate": change(LLAMA, ffn={"activation": "gelu"}),
    "layernorm": change(LLAMA, norm=LayerNorm()),
    "no norm": change(LLAMA, norm=NoNorm()),
    "unit offset": change(LLAMA, norm=RMSNorm(unit_offset=True)),
    "post norm": change(LLAMA, norm_position="post"),
    "output norm alone": change(LLAMA, norm_position="output"),
    "sandwich norm": change(LLAMA, norm_position="sandwich"),
    "no residual": change(LLAMA, residual=False),
    "parallel": change(LLAMA, parallel=True),
    "window and bias": change(LLAMA, attention={"window_size": 5, "bias": "all"}),
    "window and ffn bias": change(LLAMA, attention={"window_size": 5}, ffn={"bias": True}),
    "qkv and ffn bias": change(LLAMA, attention={"bias": "qkv"}, ffn={"bias": True}),
    "some layers slide": dataclasses.replace(
        LLAMA,
        blocks=(
            dataclasses.replace(LLAMA.blocks[0], name="a"),
            dataclasses.replace(change(LLAMA, attention={"window_size": 5}).blocks[0], name="b"),
        ),
    ),
    "layers of two widths": dataclasses.replace(
        LLAMA,
        blocks=(
            dataclasses.replace(LLAMA.blocks[0], name="a"),
            dataclasses.replace(change(LLAMA, ffn={"hidden_dim": 64}).blocks[0], name="b"),
        ),
    ),
    "two thetas": dataclasses.replace(
        LLAMA,
        blocks=(
            dataclasses.replace(LLAMA.blocks[0], name="a"),
            dataclasses.replace(
                change(LLAMA, attention={"position_encoding": Rope(1e6)}).blocks[0], name="b"
            ),
        ),
    ),
    "another final norm": dataclasses.replace(LLAMA, output=OutputSpec(norm=RMSNorm(1e-6))),
    "no final norm": dataclasses.replace(LLAMA, output=OutputSpec(norm=NoNorm())),
    "a bias of the head": dataclasses.replace(LLAMA, output=OutputSpec(bias=True)),
    "a soft cap of the logits": dataclasses.replace(LLAMA, output=OutputSpec(softcap=30.0)),
    "a scale of the embeddings": dataclasses.replace(LLAMA, embeddings=EmbeddingsSpec(scale=2.0)),
    "qwen3 with ffn bias": change(QWEN3, ffn={"bias": True}),
    "flat qk_norm before norms": change(OLMO2, norm_position="pre"),
    "head qk_norm after norms": change(OLMO2, attention={"qk_norm": "head"}),
    "olmo2 with a window": change(OLMO2, attention={"window_size": 4}),
    "gemma without its scale": dataclasses.replace(
        GEMMA2, embeddings=EmbeddingsSpec(tie_weights=True)
    ),
    "gemma with another scale of scores": change(GEMMA2, attention={"scale": 0.3}),
    "gemma with two windows": dataclasses.replace(
        GEMMA2,
        blocks=(
            GEMMA2.blocks[0],
            dataclasses.replace(
                change(GEMMA2, attention={"window_size": 9}).blocks[0], name="wider"
            ),
        ),
    ),
    "gemma3 with a soft cap": change(GEMMA3, attention={"softcap": 50.0}),
    "gemma3 with scaled local rope": change(
        GEMMA3, attention={"position_encoding": GEMMA3.blocks[2].attention.position_encoding}
    ),
    "gpt2 with grouped queries": change(GPT2, attention={"num_kv_heads": 2}),
    "gpt2 without biases": change(GPT2, attention={"bias": "none"}),
    "gpt2 with parallel blocks": change(GPT2, parallel=True),
    "gpt2 with a window": change(GPT2, attention={"window_size": 3}),
    "layernorm without bias": change(GPT2, norm=LayerNorm(bias=False)),
    "neox without ffn bias": change(GPT_NEOX, ffn={"bias": False}),
    "neox with qkv bias": change(GPT_NEOX, attention={"bias": "qkv"}),
}


@pytest.mark.parametrize("spec", BEYOND.values(), ids=BEYOND.keys())
def test_what_no_class_says_is_our_own_and_carries_its_mal(spec):
    assert family_of(spec, renamed=True) == "hermes"
    config = through_json(converted_config_of(spec))
    assert (config["architectures"], config["model_type"]) == (["HermesForCausalLM"], "hermes")
    assert spec_of(config).identity == spec.identity


def test_dropout_changes_no_class_and_is_written_where_the_class_has_it():
    dropping = change(GPT2, attention={"dropout": 0.2}, dropout=0.3)
    dropping = dataclasses.replace(dropping, embeddings=EmbeddingsSpec(True, dropout=0.1))
    config = converted_config_of(dropping)
    assert (config["attn_pdrop"], config["resid_pdrop"], config["embd_pdrop"]) == (0.2, 0.3, 0.1)
    assert spec_of(config).identity == dropping.identity
    config = converted_config_of(change(LLAMA, attention={"dropout": 0.2}, ffn={"dropout": 0.5}))
    assert (config["model_type"], config["attention_dropout"]) == ("llama", 0.2)


PUBLISHED = {
    "gpt2": (124_439_808, {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12}),
    "pythia-70m": (
        70_426_624,
        {
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "hidden_size": 512,
            "intermediate_size": 2048,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048,
            "num_attention_heads": 8,
            "num_hidden_layers": 6,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
    ),
    "Llama-3.2-1B": (
        1_235_814_400,
        {
            "model_type": "llama",
            "attention_bias": False,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 16,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "vocab_size": 128256,
        },
    ),
    "Mistral-7B-v0.1": (
        7_241_732_096,
        {
            "model_type": "mistral",
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        {
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "max_position_embeddings": 32768,
            "max_window_layers": 24,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_mrope": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
    ),
    "Qwen3-0.6B": (
        596_049_920,
        {
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 128,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "max_position_embeddings": 40960,
            "max_window_layers": 28,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
    ),
    "gemma-2-2b": (
        2_614_341_888,
        {
            "model_type": "gemma2",
            "attention_bias": False,
            "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "max_position_embeddings": 8192,
            "num_attention_heads": 8,
            "num_hidden_layers": 26,
            "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "vocab_size": 256000,
        },
    ),
    "gemma-3-1b": (
        999_885_952,
        {
            "model_type": "gemma3_text",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "eos_token_id": [1, 106],
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "max_position_embeddings": 32768,
            "num_attention_heads": 4,
            "num_hidden_layers": 26,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "vocab_size": 262144,
        },
    ),
    "OLMo-2-1124-7B": (
        7_298_617_344,
        {
            "model_type": "olmo2",
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "vocab_size": 100352,
        },
    ),
}


@pytest.mark.parametrize(("count", "config"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_models_have_their_published_number_of_parameters(count, config):
    assert tensor_count(spec_of(config)) == count


def test_gemma_3_has_a_full_layer_after_every_five_that_slide():
    windows = [layer.attention.window_size for layer in spec_of(PUBLISHED["gemma-3-1b"][1]).layers]
    assert [i for i, window in enumerate(windows) if window is None] == [5, 11, 17, 23]
    assert set(windows) == {512, None}


def test_gpt2_may_scale_scores_by_the_layer():
    config = PUBLISHED["gpt2"][1] | {"scale_attn_by_inverse_layer_idx": True}
    scales = [layer.attention.score_scale for layer in spec_of(config).layers]
    assert scales == pytest.approx([1 / 8 / (i + 1) for i in range(12)])


REFUSED = [
    ("llama", {"model_type": "mamba"}, "'model_type' is 'mamba'; hermes reads llama, mistral, "),
    ("llama", {"model_type": "lama"}, "hermes; did you mean 'llama'?"),
    ("llama", {"hidden_size": None}, "config.json has no 'hidden_size'"),
    ("llama", {"hidden_size": "32"}, "'hidden_size' must be a whole number from 1, got '32'"),
    ("llama", {"num_hidden_layers": 0}, "'num_hidden_layers' must be a whole number from 1, got 0"),
    ("llama", {"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000, which MAL cannot"),
    ("llama", {"attention_bias": "yes"}, "'attention_bias' must be true or false, got 'yes'"),
    ("llama", {"hidden_act": "quick_gelu"}, "'hidden_act' is 'quick_gelu', which MAL cannot say"),
    ("llama", {"alibi": True}, "config.json: 'alibi' is True, which MAL cannot say"),
    ("llama", {"quantization_config": {"bits": 4}}, "'quantization_config' is {'bits': 4}, which"),
    ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "'auto_map' is {'AutoModel': 'x.Y'}, which MAL"),
    ("llama", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5, which MAL cannot"),
    ("llama", {"layer_types": ["sliding_attention"] * 3}, "'layer_types' is ['sliding_attention',"),
    ("llama", {"layer_types": ["full_attention"]}, "'layer_types' is ['full_attention'], which"),
    ("llama", {"layer_types": ["linear_attention"] * 3}, "'layer_types' is 'linear_attention',"),
    ("llama", {"final_logit_softcapping": 30.0}, "'final_logit_softcapping' is 30.0, which MAL"),
    ("llama", {"attn_logit_softcapping": 30.0}, "'attn_logit_softcapping' is 30.0, which MAL"),
    ("llama", {"is_encoder_decoder": True}, "'is_encoder_decoder' is True, which MAL cannot say"),
    ("llama", {"pruned_heads": {"0": [1]}}, "'pruned_heads' is {'0': [1]}, which MAL cannot say"),
    ("llama", {"rope_scaling": [1]}, "'rope_scaling' must be an object, got [1]"),
    (
        "llama",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None},
        "config.json: 'rope_scaling.rope_type' is 'dynamic', which MAL cannot say",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear"}, "rope_parameters": None},
        "config.json: 'rope_scaling.factor' is None, which MAL cannot say",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mode": 1}},
        "config.json: 'rope_scaling.mode' is 1, which MAL cannot say",
    ),
    (
        "llama",
        {"rope_theta": 5.0},
        "config.json: 'rope_parameters' says 10000.0 and the older rope fields say 5.0; remove the "
        "one that is wrong",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        "'rope_parameters' says None and the older rope fields say LinearScaling(factor=2.0)",
    ),
    (
        "llama yarn",
        {
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0} | {"attention_factor": 2.0},
        },
        "config.json: 'rope_parameters.attention_factor' is 2.0, which MAL cannot say",
    ),
    (
        "llama yarn",
        {
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0}
            | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
        "config.json: 'rope_parameters.mscale_all_dim' is 1.0, which MAL cannot say",
    ),
    (
        "llama yarn",
        {
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0} | {"truncate": False},
        },
        "config.json: 'rope_parameters.truncate' is False, which MAL cannot say",
    ),
    ("mistral window", {"attention_bias": True}, "'attention_bias' is True, which MAL cannot say"),
    ("mistral window", {"layer_types": ["full_attention"] * 3}, "'layer_types' is ['full_attent"),
    ("qwen2", {"mlp_bias": True}, "'mlp_bias' is True, which MAL cannot say"),
    ("gemma2", {"query_pre_attn_scalar": 2.5}, "must be a whole number from 1, got 2.5"),
    ("gemma2", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' is True"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping' is 50.0, which MAL"),
    ("gemma3", {"rope_parameters": {"rope_type": "default"}}, "'rope_parameters' is {'rope_type'"),
    ("gpt2", {"add_cross_attention": True}, "'add_cross_attention' is True, which MAL cannot say"),
    ("gpt2", {"n_ctx": 8}, "config.json: 'n_ctx' is 8, which MAL cannot say"),
    ("gpt2", {"activation_function": "tanh"}, "'activation_function' is 'tanh', which MAL cannot"),
    ("neox", {"rotary_pct": 0.0}, "'rotary_pct' is 0.0, which MAL cannot say"),
    ("neox", {"rotary_pct": 0.5}, "'rotary_pct' is 0.5, which MAL cannot say"),
    ("neox", {"rotary_emb_base": 5.0}, "'rotary_emb_base' is 5.0, which MAL cannot say"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), REFUSED)
def test_what_mal_cannot_say_is_refused_by_the_name_of_the_field(name, changes, sentence):
    config = converted_config_of(MODELS[name][1]) | changes
    with pytest.raises(SpecError) as refusal:
        spec_of(config)
    assert sentence in str(refusal.value)


ROPE_KEYS = ("factor", "rope_theta", "original_max_position_embeddings", "beta_fast", "mscale")


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_no_unknown_field_is_dropped(family, spec):
    config = converted_config_of(spec)
    assert spec_of(config | {"something_new": None}).identity == spec.identity
    with pytest.raises(
        SpecError, match=r"^config.json: 'something_new' is 1, which MAL cannot say"
    ):
        spec_of(config | {"something_new": 1})


@pytest.mark.parametrize(
    "name", ["llama yarn", "qwen2 windows", "gemma2", "gemma3", "gpt2", "neox"]
)
def test_nothing_but_spec_errors_comes_of_any_value(name):
    odd = [None, True, -1, 0, 7, 2.5, -0.5, 1e308, 10**30, "", "x", [], [1], {}, {"factor": "a"}]
    config = converted_config_of(MODELS[name][1])
    for field in config:
        for value in odd:
            with suppress(SpecError):
                spec_of(config | {field: value})
    for seed in range(200):
        chosen = random.Random(seed)
        scaling = {key: chosen.choice(odd) for key in ROPE_KEYS}
        scaling["rope_type"] = chosen.choice(["linear", "llama3", "yarn", "default", 1])
        with suppress(SpecError):
            spec_of(config | {"rope_scaling": scaling, "rope_parameters": None})
