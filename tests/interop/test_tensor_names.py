"""Other layouts of the same tensors: each of ours in its place, and nothing besides."""

import dataclasses
import re

import numpy as np
import pytest

from hermes.checkpoint import TensorInfo
from hermes.errors import CheckpointError
from hermes.interop.tensor_layout import make_layout
from hermes.interop.tensor_names import pack, unpack
from hermes.numerics.params import list_parameters
from hermes.spec import EmbeddingsSpec
from tests.interop.models import GPT2, GPT_NEOX, LLAMA, MODELS, QWEN2, hot_weights

FOREIGN = [
    ("gpt2", GPT2),
    ("gpt2", MODELS["gpt2 untied"][1]),
    ("nanogpt", GPT2),
    ("gpt_neox", GPT_NEOX),
    ("litgpt", GPT_NEOX),
    ("litgpt-old", GPT_NEOX),
    ("litgpt", QWEN2),
    ("litgpt-old", QWEN2),
    ("litgpt", MODELS["gemma3 untied"][1]),
    ("litgpt", MODELS["olmo2"][1]),
    ("llama", LLAMA),
]


class Shelf(dict):
    """A file of tensors in memory."""

    @property
    def infos(self):
        return {
            n: TensorInfo(CODES.get(str(a.dtype), str(a.dtype)), a.shape) for n, a in self.items()
        }


CODES = {"float32": "F32", "float64": "F64", "int64": "I64"}


def stored(family, spec):
    return Shelf(pack(hot_weights(spec), spec, family))


@pytest.mark.parametrize(("family", "spec"), FOREIGN)
def test_every_tensor_comes_back_from_another_layout(family, spec):
    weights = hot_weights(spec)
    shelf = stored(family, spec)
    back, dtypes = unpack(shelf, spec, family, "x")
    assert list(back) == list(list_parameters(spec))
    assert set(dtypes.values()) == {"F32"}
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
    shapes = {
        one.name: one.compute_shape(list_parameters(spec)) for one in make_layout(spec, family)
    }
    assert shapes == {name: array.shape for name, array in shelf.items()}


def test_gpt2_keeps_matrices_as_in_by_out_and_queries_keys_values_side_by_side():
    weights, shelf = hot_weights(GPT2), stored("gpt2", GPT2)
    at = "model.layers.1.self_attn"
    joined = shelf["h.1.attn.c_attn.weight"]
    assert joined.shape == (32, 96)
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        part = joined[:, 32 * i : 32 * (i + 1)]
        np.testing.assert_array_equal(part, weights[f"{at}.{name}.weight"].T)
    # A square matrix, whose shape does not tell.
    np.testing.assert_array_equal(shelf["h.1.attn.c_proj.weight"], weights[f"{at}.o_proj.weight"].T)
    assert "wte.weight" in shelf
    assert "lm_head.weight" not in shelf


def test_a_gpt2_with_a_head_of_its_own_has_the_prefix():
    names = set(stored("gpt2", MODELS["gpt2 untied"][1]))
    assert {"transformer.wte.weight", "lm_head.weight"} <= names


def test_nanogpt_has_gpt2s_names_over_ordinary_matrices():
    weights, shelf = hot_weights(GPT2), stored("nanogpt", GPT2)
    name = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(shelf["h.0.mlp.c_fc.weight"], weights[name])


def test_gpt_neox_has_query_key_and_value_of_one_head_after_another():
    weights, shelf = hot_weights(GPT_NEOX), stored("gpt_neox", GPT_NEOX)
    joined = shelf["gpt_neox.layers.2.attention.query_key_value.bias"]
    at, size = "model.layers.2.self_attn", 8
    for head in range(4):
        rows = joined[3 * size * head : 3 * size * (head + 1)]
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            ours = weights[f"{at}.{name}.bias"][size * head : size * (head + 1)]
            np.testing.assert_array_equal(rows[size * i : size * (i + 1)], ours)


def test_stablelm_has_a_norm_for_each_head():
    spec = MODELS["stablelm head norms"][1]
    weights, shelf = hot_weights(spec), stored("stablelm", spec)
    for name, heads in (("q", 4), ("k", 2)):
        ours = weights[f"model.layers.1.self_attn.{name}_norm.weight"].reshape(heads, 8)
        for head in range(heads):
            theirs = shelf[f"model.layers.1.self_attn.{name}_layernorm.norms.{head}.weight"]
            np.testing.assert_array_equal(theirs, ours[head])
    del shelf["model.layers.1.self_attn.k_layernorm.norms.1.weight"]
    with pytest.raises(CheckpointError, match=r"^x has no tensor '.*k_layernorm.norms.1.weight'"):
        unpack(shelf, spec, "stablelm", "x")


@pytest.mark.parametrize(("vocab_size", "second"), [(125_696, True), (64_000, False)])
def test_baichuan_2_divides_each_row_of_its_head_by_its_length(vocab_size, second):
    spec = dataclasses.replace(
        LLAMA, vocab_size=vocab_size, embeddings=EmbeddingsSpec(tie_weights=False)
    )
    weights, shelf = hot_weights(spec), stored("baichuan", spec)
    head = weights["lm_head.weight"]
    divided = head / np.sqrt((head**2).sum(axis=1, keepdims=True))
    back, _ = unpack(shelf, spec, "baichuan", "x")
    np.testing.assert_allclose(back["lm_head.weight"], divided if second else head, rtol=1e-6)
    joined = shelf["model.layers.0.self_attn.W_pack.weight"]
    np.testing.assert_array_equal(joined[:32], weights["model.layers.0.self_attn.q_proj.weight"])


def test_old_litgpt_has_the_queries_of_a_key_head_before_it():
    weights, shelf = hot_weights(QWEN2), stored("litgpt-old", QWEN2)
    joined = shelf["h.0.attn.attn.weight"]
    at = "model.layers.0.self_attn"
    group = joined[32:64]  # the second key head: its two queries, key and value of 8 rows each
    np.testing.assert_array_equal(group[:16], weights[f"{at}.q_proj.weight"][16:])
    np.testing.assert_array_equal(group[16:24], weights[f"{at}.k_proj.weight"][8:])
    np.testing.assert_array_equal(group[24:], weights[f"{at}.v_proj.weight"][8:])


@pytest.mark.parametrize(
    "prefix", ["transformer.", "_orig_mod.", "module.", "module._orig_mod.transformer."]
)
def test_prefixes_of_wrappers_are_passed_over(prefix):
    shelf = Shelf({prefix + name: array for name, array in stored("nanogpt", GPT2).items()})
    back, _ = unpack(shelf, GPT2, "nanogpt", "x")
    np.testing.assert_array_equal(back["model.norm.bias"], shelf[f"{prefix}ln_f.bias"])


def test_a_name_with_and_without_a_prefix_is_refused():
    shelf = stored("nanogpt", GPT2)
    shelf["module.ln_f.bias"] = shelf["ln_f.bias"]
    with pytest.raises(CheckpointError, match=r"^x has two tensors for 'ln_f.bias': "):
        unpack(shelf, GPT2, "nanogpt", "x")


BUFFERS = {
    "gpt2": ("h.0.attn.bias", "h.2.attn.masked_bias"),
    "gpt_neox": (
        "gpt_neox.layers.0.attention.bias",
        "gpt_neox.layers.0.attention.masked_bias",
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
    ),
    "llama": ("model.layers.0.self_attn.rotary_emb.inv_freq",),
}


@pytest.mark.parametrize(
    ("family", "spec"), [("gpt2", GPT2), ("gpt_neox", GPT_NEOX), ("llama", LLAMA)]
)
def test_masks_and_frequencies_of_older_files_are_passed_over(family, spec):
    shelf = stored(family, spec)
    for name in BUFFERS[family]:
        shelf[name] = np.ones((1, 1, 4, 4), np.float32)
    unpack(shelf, spec, family, "x")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s: s.pop("h.1.ln_1.bias"),
            "x has no tensor 'h.1.ln_1.bias', which its config needs",
        ),
        (
            lambda s: s.update({"h.3.ln_1.bias": np.zeros(32, np.float32)}),
            "x has a tensor 'h.3.ln_1.bias', which its config does not have",
        ),
        (
            lambda s: s.update({"wpe.weight": np.zeros((32, 64), np.float32)}),
            "x: tensor 'wpe.weight' has shape (32, 64), expected (64, 32)",
        ),
        (
            lambda s: s.update({"ln_f.bias": np.zeros(32, np.int64)}),
            "x: tensor 'ln_f.bias' is I64, and hermes reads F64, F32, F16, BF16",
        ),
        (
            lambda s: s.update({"lm_head.weight": s["wte.weight"] + 1}),
            "x has a 'lm_head.weight' that differs from 'wte.weight', but its config ties the two",
        ),
    ],
)
def test_a_file_of_another_model_is_refused(change, sentence):
    shelf = stored("gpt2", GPT2)
    change(shelf)
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}"):
        unpack(shelf, GPT2, "gpt2", "x")


def test_a_head_that_is_the_embedding_is_passed_over():
    shelf = stored("gpt2", GPT2)
    shelf["lm_head.weight"] = shelf["wte.weight"]
    back, _ = unpack(shelf, GPT2, "gpt2", "x")
    assert "lm_head.weight" not in back


def test_an_untied_head_is_needed():
    spec = dataclasses.replace(GPT2, embeddings=EmbeddingsSpec())
    with pytest.raises(CheckpointError, match=r"^x has no tensor 'lm_head.weight', which its"):
        unpack(stored("gpt2", GPT2), spec, "gpt2", "x")
