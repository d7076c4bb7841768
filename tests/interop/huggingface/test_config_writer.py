"""config.json out of a specification, and back: which class, which fields, what is refused."""

import dataclasses
import json

import pytest

from hermes.interop.huggingface.config_reader import read_config
from hermes.interop.huggingface.config_writer import make_config, make_converted_config
from hermes.interop.huggingface.families import ARCHITECTURES, FAMILIES, find_family
from hermes.numerics.params import count_parameters
from hermes.spec import (
    Alibi,
    EmbeddingsSpec,
    LayerNorm,
    Learned,
    NoNorm,
    OutputSpec,
    RMSNorm,
    Rope,
    YarnScaling,
)
from tests.interop.huggingface.published import PUBLISHED
from tests.interop.models import GEMMA2, GEMMA3, GPT2, GPT_NEOX, LLAMA, MODELS, OLMO2, QWEN3, change
from tests.interop.other_models import OTHERS

CASES = [pytest.param(family, spec, id=name) for name, (family, spec) in (MODELS | OTHERS).items()]


def through_json(config):
    return json.loads(json.dumps(config))


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_a_model_says_the_smallest_class_that_computes_it(family, spec):
    config = make_converted_config(spec)
    assert config["model_type"] == family
    assert config["architectures"] == [ARCHITECTURES[family]]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_a_config_reads_back_to_the_same_function(family, spec):
    config = through_json(make_converted_config(spec))
    back = read_config(config)
    assert back.identity == spec.identity
    assert make_converted_config(back) == config


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_under_our_own_names_classes_with_other_names_do_not_count(family, spec):
    config = through_json(make_config(spec))
    assert config["model_type"] == ("hermes" if FAMILIES[family].is_renamed(spec) else family)
    assert read_config(config).identity == spec.identity


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_what_readers_have_different_defaults_for_is_always_written(family, spec):
    config = make_converted_config(
        spec, dtype="bfloat16", bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0
    )
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is spec.embeddings.tie_weights
    ids = config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]
    assert ids == (1, [2, 3], 0)
    if FAMILIES[family].is_renamed(spec):
        return
    attention = spec.layers[0].attention
    assert config["head_dim"] == attention.head_size
    assert config["num_key_value_heads"] == attention.kv_heads
    eps = {"rms_norm_eps", "layer_norm_eps"} & config.keys()
    assert all(type(config[name]) is float for name in eps)
    assert {"mlp_bias", "rope_theta", "rope_scaling"} <= config.keys()


def test_both_forms_of_rope_say_the_same():
    config = make_config(MODELS["llama yarn"][1])
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
    config = make_config(GEMMA3)
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (1e6, 1e4)
    assert config["rope_parameters"] == {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    assert [kind[0] for kind in config["layer_types"]] == ["s", "s", "f", "s"]
    assert config["sliding_window_pattern"] == 3


def test_a_pattern_that_older_readers_cannot_know_is_written_as_null():
    assert make_config(MODELS["gemma3 full first"][1])["sliding_window_pattern"] is None


def test_gpt2_with_more_positions_than_it_uses_reads_back_with_all_of_them():
    spec = change(GPT2, attention={"position_encoding": Learned(80)})
    back = read_config(make_converted_config(spec))
    assert back.identity == dataclasses.replace(GPT2, max_seq_len=80).identity


BEYOND = {
    "learned positions": change(LLAMA, attention={"position_encoding": Learned()}),
    "alibi": change(LLAMA, attention={"position_encoding": Alibi()}),
    "an empty ramp of yarn": change(
        LLAMA, attention={"position_encoding": Rope(10.0, YarnScaling(4.0, 1))}
    ),
    "not causal": change(LLAMA, attention={"causal": False}),
    "a soft cap": change(LLAMA, attention={"softcap": 20.0}),
    "no norm": change(LLAMA, norm=NoNorm()),
    "unit offset": change(LLAMA, norm=RMSNorm(unit_offset=True)),
    "post norm": change(LLAMA, norm_position="post"),
    "output norm alone": change(LLAMA, norm_position="output"),
    "no residual": change(LLAMA, residual=False),
    "parallel": change(LLAMA, parallel=True),
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
    "qwen3 with ffn bias": change(QWEN3, ffn={"bias": True}),
    "flat qk_norm before norms": change(OLMO2, norm_position="pre"),
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
    assert find_family(spec, renamed=True) == "hermes"
    config = through_json(make_converted_config(spec))
    assert (config["architectures"], config["model_type"]) == (["HermesForCausalLM"], "hermes")
    assert read_config(config).identity == spec.identity


def test_dropout_changes_no_class_and_is_written_where_the_class_has_it():
    dropping = change(GPT2, attention={"dropout": 0.2}, dropout=0.3)
    dropping = dataclasses.replace(dropping, embeddings=EmbeddingsSpec(True, dropout=0.1))
    config = make_converted_config(dropping)
    assert (config["attn_pdrop"], config["resid_pdrop"], config["embd_pdrop"]) == (0.2, 0.3, 0.1)
    assert read_config(config).identity == dropping.identity
    config = make_converted_config(change(LLAMA, attention={"dropout": 0.2}, ffn={"dropout": 0.5}))
    assert (config["model_type"], config["attention_dropout"]) == ("llama", 0.2)


@pytest.mark.parametrize(("count", "config"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_models_have_their_published_number_of_parameters(count, config):
    assert count_parameters(read_config(config)) == count


def test_gemma_3_has_a_full_layer_after_every_five_that_slide():
    windows = [
        layer.attention.window_size for layer in read_config(PUBLISHED["gemma-3-1b"][1]).layers
    ]
    assert [i for i, window in enumerate(windows) if window is None] == [5, 11, 17, 23]
    assert set(windows) == {512, None}


def test_gpt2_may_scale_scores_by_the_layer():
    config = PUBLISHED["gpt2"][1] | {"scale_attn_by_inverse_layer_idx": True}
    scales = [layer.attention.score_scale for layer in read_config(config).layers]
    assert scales == pytest.approx([1 / 8 / (i + 1) for i in range(12)])
