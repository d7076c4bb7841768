"""What MAL cannot say is refused by the name of the field, and nothing is dropped."""

import math
import random
from contextlib import suppress

import pytest

from hermes.errors import SpecError
from hermes.interop.huggingface.config_reader import read_any_config, read_config
from hermes.interop.huggingface.config_writer import make_converted_config
from hermes.spec import Alibi, DynamicScaling, LongRopeScaling, Rope, YarnScaling
from tests.interop.models import MODELS
from tests.interop.other_models import OTHERS

CASES = [pytest.param(family, spec, id=name) for name, (family, spec) in (MODELS | OTHERS).items()]
REFUSED = [
    (
        "llama",
        {"model_type": "mamba"},
        "'model_type' is 'mamba': MAL has no state-space layers, so",
    ),
    ("llama", {"model_type": "lama"}, "'model_type' is 'lama', a family that hermes has no reader"),
    ("llama", {"hidden_size": None}, "config.json has no 'hidden_size'"),
    ("llama", {"hidden_size": "32"}, "'hidden_size' must be a whole number from 1, got '32'"),
    ("llama", {"num_hidden_layers": 0}, "'num_hidden_layers' must be a whole number from 1, got 0"),
    ("llama", {"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000, which MAL cannot"),
    ("llama", {"attention_bias": "yes"}, "'attention_bias' must be true or false, got 'yes'"),
    ("llama", {"hidden_act": "quick_gelu"}, "'hidden_act' is 'quick_gelu', which MAL cannot say"),
    ("llama", {"alibi": True}, "config.json: 'alibi' is True, which MAL cannot say"),
    ("llama", {"quantization_config": {"bits": 4}}, "are quantized (4 bits), and hermes reads"),
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
        {"rope_scaling": {"rope_type": "linear"}, "rope_parameters": None},
        "config.json: 'rope_scaling.factor' is None, which MAL cannot say",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mode": 1}},
        "config.json: 'rope_scaling.mode' is 1, and hermes does not know this field here",
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
    config = make_converted_config(MODELS[name][1]) | changes
    with pytest.raises(SpecError) as refusal:
        read_config(config)
    assert sentence in str(refusal.value)


SCALINGS = [
    (
        {"type": "dynamic", "factor": 2.0},
        DynamicScaling(2.0, 64),
    ),
    (
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0},
        YarnScaling(4.0, 64, attention_factor=2.0),
    ),
    (
        {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        YarnScaling(4.0, 64, attention_factor=1.0),
    ),
    (
        {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0},
        YarnScaling(4.0, 64),
    ),
    (
        {"rope_type": "yarn", "factor": 4.0, "truncate": False, "finetuned": True},
        YarnScaling(4.0, 64, truncate=False),
    ),
    (
        {
            **{"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2] * 4},
            **{"original_max_position_embeddings": 16, "factor": 2.0},
        },
        LongRopeScaling((1.0,) * 4, (2.0,) * 4, 16, math.sqrt(1 + math.log(2) / math.log(16))),
    ),
]


@pytest.mark.parametrize(("values", "scaling"), SCALINGS)
def test_scalings_of_rope_are_read_in_both_forms(values, scaling):
    config = make_converted_config(MODELS["llama"][1])
    for form in ({"rope_scaling": values}, {"rope_parameters": values}):
        plain = {"rope_scaling": None, "rope_parameters": None} | form
        rope = read_config(config | plain).layers[0].attention.position_encoding
        assert rope.scaling == scaling


def test_a_field_that_is_not_known_is_ignored_on_demand_and_said():
    config = make_converted_config(MODELS["llama"][1]) | {"something_new": 1}
    found = read_any_config(config, ["something_new"])
    assert found.spec.identity == MODELS["llama"][1].identity
    assert found.notes == ("of config.json, something_new was ignored, as you asked",)
    scaled = {"rope_type": "linear", "factor": 2.0, "mode": 1}
    nested = config | {"rope_scaling": scaled, "rope_parameters": None, "something_new": None}
    assert read_any_config(nested, ["rope_scaling.mode"]).notes[0].endswith("as you asked")


@pytest.mark.parametrize("name", ["rms_norm_eps", "absent", "tie_word_embeddings"])
def test_what_is_known_or_absent_is_not_ignored(name):
    config = make_converted_config(MODELS["llama"][1])
    with pytest.raises(SpecError, match=f"{name!r} is not to be ignored"):
        read_any_config(config, [name])


LACKING = [
    ({"model_type": "mixtral"}, "mixture of experts"),
    ({"model_type": "gpt_oss"}, "mixture of experts"),
    ({"model_type": "llama", "num_local_experts": 8}, "mixture of experts"),
    ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "mixture of experts"),
    ({"model_type": "minicpm3", "kv_lora_rank": 512}, "latent attention"),
    ({"model_type": "mamba2"}, "state-space layers"),
    ({"model_type": "qwen3_next"}, "linear attention"),
    ({"model_type": "lfm2"}, "short convolutions"),
    ({"model_type": "gemma3n"}, "embeddings per layer"),
    ({"model_type": "t5"}, "encoder"),
    ({"model_type": "apertus"}, "activation xielu"),
    ({"model_type": "xglm"}, "sinusoidal positions"),
    ({"model_type": "diffllama"}, "differential attention"),
    ({"model_type": "bitnet"}, "norms inside a sublayer"),
    (
        {"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512},
        "projections around the embedding",
    ),
    ({"model_type": "opt", "do_layer_norm_before": False}, "norms of the residual sum"),
]


BAICHUAN = {
    **{"model_type": "baichuan", "model_max_length": 64, "hidden_size": 80, "vocab_size": 96},
    **{"num_attention_heads": 40, "num_hidden_layers": 3, "intermediate_size": 48},
}


def test_the_baichuan_with_alibi_is_told_by_the_length_that_it_lacks():
    large = read_config(BAICHUAN)
    assert {one.position_encoding for one in large.attentions} == {Alibi()}
    assert large.max_seq_len == 64
    small = read_config(BAICHUAN | {"max_position_embeddings": 64})
    assert {one.position_encoding for one in small.attentions} == {Rope()}


CHATGLM = {
    **{"model_type": "chatglm", "num_layers": 2, "padded_vocab_size": 96, "hidden_size": 32},
    **{"ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4, "seq_length": 64},
    **{"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True},
    **{"layernorm_epsilon": 1e-5, "rmsnorm": True, "original_rope": True, "post_layer_norm": True},
}


def test_chatglm_turns_half_of_a_head_and_its_first_release_is_refused():
    spec = read_config(CHATGLM)
    assert {one.position_encoding for one in spec.attentions} == {Rope(rotary_dim=4)}
    assert (spec.attentions[0].kv_heads, spec.attentions[0].bias) == (2, "qkv")
    with pytest.raises(SpecError, match="MAL has no rotary positions in two dimensions"):
        read_config(CHATGLM | {"position_encoding_2d": True})
    with pytest.raises(SpecError, match=r"'rope_ratio' is 50, .* give the same model in the class"):
        read_config(CHATGLM | {"rope_ratio": 50})


def test_hunyuans_alpha_is_a_larger_theta():
    config = {
        **{"model_type": "hunyuan_v1_dense", "hidden_size": 32, "num_attention_heads": 4},
        **{"num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 96, "head_dim": 8},
    }
    scaled = {"rope_scaling": {"type": "dynamic", "alpha": 1000, "factor": 1}, "rope_theta": 1e4}
    (rope,) = {one.position_encoding for one in read_config(config | scaled).attentions}
    assert rope == Rope(1e4 * 1000 ** (8 / 6))
    again = {"rope_parameters": {"rope_type": "dynamic", "alpha": 1000, "rope_theta": 1e4}}
    assert read_config(config | again).identity == read_config(config | scaled).identity


def test_dynamic_scaling_may_name_the_length_that_its_class_does_not_use():
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}
    config = make_converted_config(MODELS["llama"][1]) | {"rope_parameters": dynamic}
    del config["rope_theta"]
    length = config["max_position_embeddings"]
    (rope,) = {one.position_encoding for one in read_config(config).attentions}
    assert rope == Rope(scaling=DynamicScaling(2.0, length))


@pytest.mark.parametrize(("config", "feature"), LACKING)
def test_a_model_is_refused_by_the_feature_that_mal_lacks(config, feature):
    with pytest.raises(SpecError, match=f"MAL has no {feature}, so hermes cannot express"):
        read_config(config)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "bitsandbytes", "mxfp4"])
def test_quantized_weights_are_refused_with_the_way_out(method):
    for name in ("quantization_config", "quantization"):
        with pytest.raises(SpecError, match=rf"\({method}\), .* mlx_lm.convert --dequantize"):
            read_config({"model_type": "llama", name: {"quant_method": method}})


ROPE_KEYS = ("factor", "rope_theta", "original_max_position_embeddings", "beta_fast", "mscale")


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_no_unknown_field_is_dropped(family, spec):
    config = make_converted_config(spec)
    assert read_config(config | {"something_new": None}).identity == spec.identity
    with pytest.raises(
        SpecError,
        match=r"^config.json: 'something_new' is 1, and hermes does not know .* --ignore-field",
    ):
        read_config(config | {"something_new": 1})


@pytest.mark.parametrize(
    "name", ["llama yarn", "qwen2 windows", "gemma2", "gemma3", "gpt2", "neox"]
)
def test_nothing_but_spec_errors_comes_of_any_value(name):
    odd = [None, True, -1, 0, 7, 2.5, -0.5, 1e308, 10**30, "", "x", [], [1], {}, {"factor": "a"}]
    config = make_converted_config(MODELS[name][1])
    for field in config:
        for value in odd:
            with suppress(SpecError):
                read_config(config | {field: value})
    for seed in range(200):
        chosen = random.Random(seed)
        scaling = {key: chosen.choice(odd) for key in ROPE_KEYS}
        scaling["rope_type"] = chosen.choice(["linear", "llama3", "yarn", "default", 1])
        with suppress(SpecError):
            read_config(config | {"rope_scaling": scaling, "rope_parameters": None})
