"""Where a model is looked for, and which one is meant."""

import errno
import os
from pathlib import Path

import pytest

import hermes_specs
from hermes import mal
from hermes.errors import HermesError, MalError, SpecError, StorageError
from hermes.numerics.params import count_parameters
from hermes.spec import Learned, RMSNorm, Rope

TEXT = "model m { hidden_size: 64  block { attention { num_heads: 4 } } }"
TWO = "block b { attention { num_heads: 4 } } model one { block: b } model two { block: b }"

# name: (layers, hidden, heads, kv heads, ffn, function, eps, positions, bias, tied, vocab, length,
# parameters)
TABLE = {
    "nano": (2, 64, 2, 2, 256, "gelu", "rms", Rope(), "none", False, 32000, 256, 4_194_624),
    "tiny": (4, 128, 4, 4, 512, "gelu", "rms", Rope(), "none", False, 32000, 512, 8_979_584),
    "gpt2-small": (
        *(12, 768, 12, 12, 3072, "gelu_tanh", "layer", Learned(1024), "all", True, 50257, 1024),
        124_439_808,
    ),
    "gpt2-medium": (
        *(24, 1024, 16, 16, 4096, "gelu_tanh", "layer", Learned(1024), "all", True, 50257, 1024),
        354_823_168,
    ),
    "gpt2-large": (
        *(36, 1280, 20, 20, 5120, "gelu_tanh", "layer", Learned(1024), "all", True, 50257, 1024),
        774_030_080,
    ),
    "llama-small": (
        *(16, 1024, 16, 16, 2752, "silu", "rms", Rope(), "none", False, 32000, 2048),
        267_944_960,
    ),
    "llama-22m": (
        *(6, 384, 6, 2, 1024, "silu", "rms", Rope(), "none", True, 32000, 2048),
        21_730_176,
    ),
    "llama-1b": (
        *(22, 2048, 32, 4, 5632, "silu", "rms", Rope(), "none", False, 32000, 2048),
        1_100_048_384,
    ),
    "llama-2b": (
        *(26, 2560, 20, 4, 6912, "silu", "rms", Rope(), "none", False, 32000, 2048),
        1_953_108_480,
    ),
    "llama-4b": (
        *(38, 3072, 24, 8, 8192, "silu", "rms", Rope(), "none", False, 32000, 2048),
        4_022_049_792,
    ),
    "llama-7b": (
        *(32, 4096, 32, 32, 11008, "silu", "rms", Rope(), "none", False, 32000, 4096),
        6_738_415_616,
    ),
    "mistral-7b": (
        *(32, 4096, 32, 8, 14336, "silu", "rms", Rope(), "none", False, 32000, 32768),
        7_241_732_096,
    ),
    "smol-llama": (
        *(32, 960, 15, 5, 2560, "silu", "rms", Rope(), "none", True, 49152, 2048),
        361_821_120,
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_bundled_model_is_what_its_table_says(name):
    spec = mal.load(name)
    layer = spec.layers[0]
    assert spec.name == name
    assert set(spec.layers) == {layer}
    assert (
        spec.num_layers,
        spec.hidden_size,
        layer.attention.num_heads,
        layer.attention.kv_heads,
        layer.ffn.hidden_dim,
        layer.ffn.function,
        "rms" if isinstance(layer.norm, RMSNorm) else "layer",
        layer.attention.position_encoding,
        layer.attention.bias,
        spec.embeddings.tie_weights,
        spec.vocab_size,
        spec.max_seq_len,
        count_parameters(spec),
    ) == TABLE[name]
    assert layer.norm.eps == 1e-5
    assert spec.final_norm == layer.norm
    assert layer.attention.window_size == (4096 if name == "mistral-7b" else None)
    assert layer.ffn.gated == (layer.ffn.function == "silu")
    assert layer.ffn.bias == (layer.attention.bias == "all")
    dropouts = (layer.attention.dropout, layer.dropout, spec.embeddings.dropout, layer.ffn.dropout)
    assert dropouts == ((0.1, 0.1, 0.1, 0.0) if name.startswith("gpt2") else (0.0, 0.0, 0.0, 0.0))


def test_the_table_is_of_all_bundled_models():
    assert set(mal.list_bundled()) == set(TABLE)


@pytest.mark.parametrize(
    "spelling", ["gpt2-small", "gpt2_small", "gpt2-small.mal", "well-known/gpt2_small.mal"]
)
def test_a_bundled_name_has_several_spellings(spelling):
    assert mal.load(spelling).name == "gpt2-small"


def test_text_is_read_as_it_is():
    assert mal.load(TEXT).hidden_size == 64
    assert mal.load(TEXT) == mal.loads(TEXT) == mal.loads(TEXT.encode())


def test_a_bundled_name_wins_over_a_file_unless_the_path_says_file(tmp_path, monkeypatch):
    (tmp_path / "nano.mal").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    assert mal.load("nano.mal").name == "nano"
    assert mal.load("./nano.mal").name == "m"
    assert mal.load(Path("nano.mal")).name == "m"


def test_a_folder_with_a_model_in_it_is_that_model(tmp_path):
    (tmp_path / "model.mal").write_text(TEXT)
    assert mal.load(str(tmp_path)).name == "m"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(HermesError, match="is an empty folder with no model"):
        mal.load(str(tmp_path))


def test_one_of_several_models_is_named_after_a_colon(tmp_path):
    path = tmp_path / "two.mal"
    path.write_text(TWO)
    assert mal.load(f"{path}:two").name == "two"
    with pytest.raises(MalError) as caught:
        mal.load(path)
    assert str(caught.value).splitlines()[0] == (
        f"{path}:1:69: this file has several models, one, two; name one, as in {path}:two"
    )
    with pytest.raises(HermesError, match="has no model 'three'; it has one, two"):
        mal.load(f"{path}:three")


def test_an_error_names_the_file_as_it_was_asked_for(tmp_path, monkeypatch):
    (tmp_path / "bad.mal").write_text("model m {\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MalError, match=r"^bad\.mal:1:9: "):
        mal.load("bad.mal")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("llama7b", "there is no model or file 'llama7b'; did you mean 'llama-7b'?"),
        ("lama_7b.mal", "there is no file 'lama_7b.mal'; did you mean 'llama-7b'?"),
        ("nowhere/my.mal", "there is no file 'nowhere/my.mal'"),
        ("", f"there is no model or file ''; bundled are {', '.join(hermes_specs.list_models())}"),
        ("x" * 300, "there is no model or file 'xxxx"),
        ("a\0b", "there is no model or file 'a\\x00b'"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(source, message):
    with pytest.raises(HermesError) as caught:
        mal.load(source)
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, SpecError)


def test_what_cannot_be_read_is_an_error_of_storage(tmp_path, monkeypatch):
    path = tmp_path / "my.mal"
    path.write_text(TEXT)

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageError) as caught:
        mal.load(path)
    assert str(caught.value) == f"cannot read {path}: {os.strerror(errno.EIO).lower()}"
