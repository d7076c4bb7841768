"""Conversion: what goes in comes out, in every form, or nothing is written."""

import dataclasses
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as public

import hermes
from hermes.checkpoint import Disk, locate
from hermes.errors import CheckpointError, HermesError, NonFinite, StorageError
from hermes.interop.convert import convert
from hermes.interop.huggingface.config_writer import make_config, make_converted_config
from hermes.interop.open_model import open_model
from hermes.interop.verify import verify_conversion
from hermes.tokenizer import train_tokenizer
from tests.interop.models import GEMMA3, GPT2, GPT_NEOX, LLAMA, bare, change, hot_weights

FORMS = {"llama": LLAMA, "gemma3_text": GEMMA3, "gpt2": GPT2, "gpt_neox": GPT_NEOX}
TOKENS = {"<|eos|>": 0, "a": 1, "b": 2}
TOKENIZER = {"model": {"type": "BPE", "vocab": TOKENS, "merges": []}, "added_tokens": []}


def weights_of(folder):
    files = sorted(Path(folder).glob("model*.safetensors"))
    return {name: array for file in files for name, array in public.load_file(file).items()}


@pytest.mark.parametrize(("family", "spec"), FORMS.items())
def test_there_and_back_is_the_same_to_the_byte(tmp_path, family, spec):
    first = convert(**bare(tmp_path / "bare", spec), target=tmp_path / "a", to="hermes")
    there = convert(tmp_path / "a", tmp_path / "hf", to="hf")
    back = convert(tmp_path / "hf", tmp_path / "b", to="hermes")
    assert json.loads((tmp_path / "hf/config.json").read_text())["model_type"] == family
    assert (tmp_path / "a/model.safetensors").read_bytes() == (
        tmp_path / "b/model.safetensors"
    ).read_bytes()
    assert [x.verification.difference for x in (first, there, back)] == [0.0, 0.0, 0.0]
    assert locate(tmp_path / "b")[0].spec.identity == spec.identity


def test_a_hermes_folder_is_a_whole_checkpoint_that_no_run_goes_on_from(checkpoint):
    found, _ = locate(checkpoint)
    assert not found.resumable
    assert found.spec == LLAMA
    for name, array in hot_weights(LLAMA).items():
        np.testing.assert_array_equal(found.params[name], array)


def test_a_hugging_face_folder_has_what_others_read_and_nothing_else(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    assert {p.name for p in (tmp_path / "hf").iterdir()} == {"config.json", "model.safetensors"}
    with public.safe_open(tmp_path / "hf/model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(("family", "spec"), FORMS.items())
def test_shards_hold_the_same_tensors(tmp_path, family, spec):
    source = bare(tmp_path / "bare", spec)
    convert(**source, target=tmp_path / "one", to="hf")
    done = convert(**source, target=tmp_path / "many", to="hf", shard_limit=20_000)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    one, many = weights_of(tmp_path / "one"), weights_of(tmp_path / "many")
    assert one.keys() == many.keys() == index["weight_map"].keys()
    assert all(np.array_equal(one[name], many[name]) for name in one)
    assert done.size == sum(p.stat().st_size for p in (tmp_path / "many").iterdir())
    convert(tmp_path / "many", tmp_path / "back", to="hermes")


def test_a_dtype_rounds_every_number_to_nearest_and_config_says_it(tmp_path, checkpoint):
    done = convert(checkpoint, tmp_path / "half", to="hermes", dtype="bfloat16")
    config = json.loads((tmp_path / "half/config.json").read_text())
    assert config["torch_dtype"] == config["dtype"] == done.dtype == "bfloat16"
    found = locate(tmp_path / "half")[0].params
    for name, array in hot_weights(LLAMA).items():
        np.testing.assert_array_equal(found[name], array.astype(ml_dtypes.bfloat16))
    assert 1e-4 < done.verification.difference < 0.5


def test_tensors_keep_their_own_dtypes_without_one(tmp_path):
    weights = {
        name: array.astype(np.float16) if array.ndim == 2 else array
        for name, array in hot_weights(LLAMA).items()
    }
    done = convert(**bare(tmp_path / "bare", LLAMA, weights), target=tmp_path / "a", to="hf")
    stored = weights_of(tmp_path / "a")
    assert all(stored[name].dtype == weights[name].dtype for name in weights)
    assert done.dtype == "float16"
    assert done.verification.difference == 0.0


def test_a_number_too_large_for_float16_is_refused_by_tensor(tmp_path):
    weights = hot_weights(LLAMA)
    weights["model.norm.weight"][3] = 70_000.0
    with pytest.raises(HermesError) as refusal:
        convert(
            **bare(tmp_path / "bare", LLAMA, weights),
            target=tmp_path / "a",
            to="hf",
            dtype="float16",
        )
    assert str(refusal.value) == (
        "tensor 'model.norm.weight' reaches 7e+04, beyond what float16 can hold; "
        "choose bfloat16 or float32"
    )
    assert not (tmp_path / "a").exists()


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    weights = hot_weights(LLAMA)
    weights["model.norm.weight"][3] = np.nan
    with pytest.raises(NonFinite, match=r"^tensor 'model.norm.weight' holds NaN or an infinity"):
        convert(**bare(tmp_path / "bare", LLAMA, weights), target=tmp_path / "a", to="hf")
    assert {p.name for p in tmp_path.iterdir()} == {"bare"}


def test_parts_of_one_stored_tensor_must_have_one_dtype(tmp_path):
    weights = hot_weights(GPT2)
    name = "model.layers.0.self_attn.k_proj.weight"
    weights[name] = weights[name].astype(np.float16)
    source = bare(tmp_path / "bare", GPT2, weights)
    with pytest.raises(HermesError, match=r"are stored as float16, float32; choose a --dtype$"):
        convert(**source, target=tmp_path / "a", to="hf")
    convert(**source, target=tmp_path / "a", to="hf", dtype="float32")


class Refusing:
    """A disk that counts its operations and refuses one of them."""

    def __init__(self, refused=None):
        self.count, self.refused = 0, refused

    def __call__(self, operation):
        self.count += 1
        if self.count == self.refused:
            raise OSError(28, "No space left on device")


def test_a_disk_that_refuses_leaves_nothing(tmp_path, checkpoint):
    counting = Refusing()
    convert(checkpoint, tmp_path / "whole", to="hf", disk=Disk(counting))
    for refused in range(1, counting.count + 1):
        with pytest.raises(StorageError, match="no space left on device"):
            convert(checkpoint, tmp_path / "hf", to="hf", disk=Disk(Refusing(refused)))
        left = {p.name for p in tmp_path.iterdir()} - {"bare", "checkpoint", "whole"}
        # Once it has its name, the folder is whole; only that the name is synced is unknown.
        assert left <= {"hf"}
        if left:
            assert (tmp_path / "hf/model.safetensors").exists()
            shutil.rmtree(tmp_path / "hf")


def test_a_proof_that_fails_leaves_nothing(tmp_path, checkpoint, monkeypatch):
    wrong = change_config(make_config, rms_norm_eps=0.5)
    monkeypatch.setattr("hermes.interop.convert.make_converted_config", wrong)
    with pytest.raises(
        CheckpointError, match=r"would change its logits by .*; nothing was written"
    ):
        convert(checkpoint, tmp_path / "hf", to="hf")
    assert not (tmp_path / "hf").exists()


def change_config(make, **fields):
    return lambda spec, **ids: make(spec, **ids) | fields


def test_a_proof_sees_one_bit_of_one_tensor(tmp_path, checkpoint):
    source, other = open_model(checkpoint), open_model(checkpoint)
    params = {name: other.params[name] for name in other.params}
    name = "model.layers.2.mlp.down_proj.weight"
    params[name].view(np.uint32)[0, 0] ^= 1
    with pytest.raises(CheckpointError, match=f"^tensor {name!r} of .* would be changed by the"):
        verify_conversion(source, dataclasses.replace(other, params=params))


def test_a_large_model_is_proved_layer_by_layer(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr("hermes.interop.verify.MAX_AT_ONCE", 1)
    monkeypatch.setattr("hermes.interop.verify.VOCABULARY_ROWS", 50)
    for name, spec in FORMS.items():
        done = convert(**bare(tmp_path / "bare", spec), target=tmp_path / name, to="hf")
        assert (done.verification.passes, done.verification.difference) == (spec.num_layers, 0.0)
    wrong = change_config(make_converted_config, rope_theta=9.0, rope_parameters=None)
    monkeypatch.setattr("hermes.interop.convert.make_converted_config", wrong)
    with pytest.raises(CheckpointError, match="would change its logits"):
        convert(checkpoint, tmp_path / "wrong", to="hf")


@pytest.mark.parametrize("backend", ["torch", "mlx", "numpy"])
def test_any_backend_may_prove(tmp_path, checkpoint, backend):
    if backend != "numpy":
        pytest.importorskip(backend if backend == "torch" else "mlx.core")
    done = convert(checkpoint, tmp_path / "hf", to="hf", backend=backend)
    assert (done.verification.backend, done.verification.difference) == (backend, 0.0)


def test_the_tokenizer_travels_with_the_class_that_every_reader_has(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    files = {
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": {"tokenizer_class": "TokenizersBackend", "x": 1},
        "special_tokens_map.json": {"eos_token": "<|eos|>"},
        "generation_config.json": {"temperature": 0.7},
    }
    for name, body in files.items():
        (tmp_path / "hf" / name).write_text(json.dumps(body))
    (tmp_path / "hf/chat_template.jinja").write_text("{{ x }}")
    for to in ("hermes", "hf"):
        convert(tmp_path / "hf", tmp_path / to / "out", to=to)
        out = tmp_path / to / "out"
        for name in ("tokenizer.json", "special_tokens_map.json", "generation_config.json"):
            assert json.loads((out / name).read_text()) == files[name]
        config = json.loads((out / "tokenizer_config.json").read_text())
        assert config == {"tokenizer_class": "PreTrainedTokenizerFast", "x": 1}
        assert (out / "chat_template.jinja").read_text() == "{{ x }}"


def test_token_ids_reach_the_config_and_the_generation_config(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    ids = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    (tmp_path / "hf/config.json").write_text(json.dumps(config | ids))
    convert(tmp_path / "hf", tmp_path / "out", to="hermes")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert {name: written[name] for name in ids} == ids
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == ids


def test_a_tokenizer_that_does_not_fit_is_refused_with_both_sizes(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    large = {"model": {"vocab": {"a": 120}}, "added_tokens": []}
    (tmp_path / "hf/tokenizer.json").write_text(json.dumps(large))
    with pytest.raises(CheckpointError, match=r"has 121 tokens, but the model's vocab_size is 96"):
        convert(tmp_path / "hf", tmp_path / "out", to="hermes")


def test_nothing_is_overwritten(tmp_path, checkpoint):
    target = tmp_path / "there"
    target.mkdir()
    (target / "file").write_text("mine")
    with pytest.raises(HermesError, match="already exists; choose another name or remove it"):
        convert(checkpoint, target, to="hf")
    (target / "file").unlink()
    convert(checkpoint, target, to="hf")


def test_dropout_that_a_class_has_no_place_for_is_told(tmp_path):
    inside, outside = change(LLAMA, attention={"dropout": 0.1}), change(LLAMA, dropout=0.1)
    done = convert(**bare(tmp_path / "a", inside), target=tmp_path / "b", to="hf")
    assert done.notes == ()
    done = convert(**bare(tmp_path / "c", outside), target=tmp_path / "d", to="hf")
    assert done.notes == (
        "some of the model's dropout is left out, as Hugging Face's class has no field for it",
    )


def test_what_no_class_computes_stays_with_hermes(tmp_path):
    spec = dataclasses.replace(LLAMA, blocks=(dataclasses.replace(LLAMA.blocks[0], parallel=True),))
    source = bare(tmp_path / "bare", spec)
    with pytest.raises(
        HermesError, match=r"^no class of Hugging Face computes the model of "
    ) as no:
        convert(**source, target=tmp_path / "a", to="hf")
    assert str(no.value).endswith(
        ": no class has parallel: true with the rest of the model; use --to hermes"
    )
    convert(**source, target=tmp_path / "a", to="hermes")
    assert json.loads((tmp_path / "a/config.json").read_text())["model_type"] == "hermes"


def test_a_conversion_is_told_what_it_may_be(tmp_path, checkpoint):
    one_of = "hermes, hf, mlx-adapter, peft-adapter"
    with pytest.raises(HermesError, match=rf"^to is 'gguf'; it must be one of {one_of}$"):
        convert(checkpoint, tmp_path / "a", to="gguf")
    with pytest.raises(HermesError, match=r"^dtype is 'int8'; it must be one of float32, bfloat16"):
        convert(checkpoint, tmp_path / "a", to="hf", dtype="int8")


def test_an_added_token_without_a_row_is_said_never_made_and_refused_in_text(tmp_path):
    """Gemma 3's tokenizer has one token more than its model has rows."""
    tokenizer = train_tokenizer(["to be or not to be"], vocab_size=270, special_tokens=["<image>"])
    json_text = tokenizer.to_json()
    config = json.loads(json_text)
    last = tokenizer.vocab_size
    config["added_tokens"].append(
        {**config["added_tokens"][0], "id": last, "content": "<soft>", "special": True}
    )
    spec = dataclasses.replace(LLAMA, vocab_size=last)
    source = bare(tmp_path / "bare", spec)
    (tmp_path / "bare" / "tokenizer.json").write_text(json.dumps(config))
    done = convert(**source, target=tmp_path / "out", to="hf")
    assert any(note.startswith("<soft> of the tokenizer has no row") for note in done.notes)
    model = hermes.load(tmp_path / "out")
    assert model.tokenizer.vocab_size == last + 1
    assert all(token < last for token in model.tokens("to be", max_tokens=20))
    config["model"]["vocab"]["zzz"] = last + 1
    (tmp_path / "bare" / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="use the tokenizer that it was trained with"):
        convert(**source, target=tmp_path / "other", to="hf")
