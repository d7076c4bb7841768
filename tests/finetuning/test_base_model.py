"""Beginning from a model: what stays frozen, how a vocabulary grows, and adapters on disk."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hermes.checkpoint import open_checkpoint
from hermes.checkpoint.adapters import open_adapter
from hermes.errors import CheckpointError, HermesError, SpecError
from hermes.finetuning.base_model import add_special_tokens, open_base_model, resize_embeddings
from hermes.interface import Options, find_backend
from hermes.interop.adapters import merge_adapter
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import init_weights, list_parameters, list_unfrozen
from hermes.recipe import Lora, Recipe
from hermes.storage.safetensors import TensorFile
from hermes.tokenizer import Tokenizer
from hermes.training.request import RunRequest
from hermes.training.run import open_run
from tests.finetuning.support import (
    TEXT,
    small_checkpoint,
    small_spec,
    small_tokenizer,
    train_to_end,
)

BACKENDS = ["torch", "mlx"]


def request(tmp_path, backend="torch", *, output="run", spec=None, **settings):
    """A run on text that begins from a small checkpoint."""
    base = small_checkpoint(tmp_path / "base", spec=spec)
    start = open_base_model(base, chat=False, tokenizer=settings.pop("tokenizer", None))
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 12)
    given = {"batch_size": 2, "max_steps": 3, "lr": 1e-2, "seq_len": 24}
    given = (
        settings.pop("given", {}) if settings.get("resume") else given | settings.pop("given", {})
    )
    return RunRequest(
        output=tmp_path / output,
        data=(str(text),),
        backend=find_backend(backend),
        tokenizer=start.tokenizer,
        options=Options(device="cpu"),
        given=given,
        initial_model=start.start,
        tokenizer_settings=start.settings,
        **settings,
    )


def carried_out(asked):
    """The run's notes and its last checkpoint."""
    with open_run(asked) as run:
        done = train_to_end(run)
        return run.notes, open_checkpoint(done.checkpoint)


def moved(tmp_path, checkpoint):
    """The tensors that differ from those of the base, in any bit."""
    base = open_checkpoint(tmp_path / "base" / "step-00000001").params
    return {n for n in checkpoint.params if not np.array_equal(base[n], checkpoint.params[n])}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_begins_from_the_weights_it_is_given(backend, tmp_path):
    asked = request(tmp_path, backend)
    _, after = carried_out(asked)
    first = json.loads((asked.output / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(5.7, abs=0.1)
    assert moved(tmp_path, after) == set(list_parameters(after.spec))
    assert after.progress.step == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_layers_keep_their_bits_and_have_no_moments(backend, tmp_path):
    notes, after = carried_out(request(tmp_path, backend, given={"freeze_layers": 1}))
    frozen = {
        n for n in list_parameters(after.spec) if n.startswith(("model.embed", "model.layers.0."))
    }
    assert moved(tmp_path, after) == set(list_parameters(after.spec)) - frozen
    stored = TensorFile(after.path / "optimizer.safetensors")
    assert {name.split(".", 1)[1] for name in stored} == set(list_parameters(after.spec)) - frozen
    assert notes[:2] == (
        f"{len(frozen)} of {len(list_parameters(after.spec))} tensors are frozen",
        "the head is tied to the embeddings and frozen with them",
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_are_frozen_by_name_and_stay_so_when_the_run_goes_on(backend, tmp_path):
    globs = ("*.mlp.*", "model.norm.weight")
    carried_out(request(tmp_path, backend, given={"freeze": globs}))
    _, after = carried_out(
        request(tmp_path, backend, resume=True, given={"max_steps": 5})
    )  # fmt: skip
    assert after.progress.recipe.freeze == globs
    assert moved(tmp_path, after) == {
        n for n in list_parameters(after.spec) if ".mlp." not in n and n != "model.norm.weight"
    }


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (
            ("model.layer.*",),
            "freeze 'model.layer.*' matches no tensor of the model; names are as "
            "'model.layers.0.self_attn.q_proj.weight'",
        ),
        (
            ("lm_head*",),
            "freeze 'lm_head*' matches no tensor of the model; the head is tied, so freeze "
            "'model.embed_tokens.weight'",
        ),
        (("*",), "every tensor is frozen, so there is nothing to train"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(freeze, message, tmp_path):
    with pytest.raises(SpecError) as refused:
        list_unfrozen(small_spec(), 0, freeze)
    assert str(refused.value) == message
    with pytest.raises(SpecError):
        open_run(request(tmp_path, given={"freeze": freeze}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_get_rows_at_the_mean_and_the_old_ones_their_scores(tied):
    spec = small_spec(tied=tied)
    params = init_weights(spec, 0)
    larger, rows = resize_embeddings(spec, params, 307)
    assert larger == replace(spec, vocab_size=307)
    for name in ("model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])):
        np.testing.assert_array_equal(rows[name][:300], params[name])
        mean = params[name].astype(np.float64).mean(0)
        np.testing.assert_allclose(rows[name][300:], np.tile(mean, (7, 1)), atol=1e-9)
    tokens = np.arange(20)[None]
    oracle = find_backend("numpy")
    before = oracle.build(spec, params).logits(tokens)
    after = oracle.build(larger, rows).logits(tokens)
    np.testing.assert_allclose(after[..., :300], before, atol=1e-12)
    assert resize_embeddings(spec, params, 300) == (spec, params)


def test_special_tokens_are_added_behind_all_others():
    plain = small_tokenizer()
    larger, added = add_special_tokens(plain, ["<|im_end|>", "<|tool|>"])
    assert added == ["<|tool|>"]
    assert larger.find_special_id("<|tool|>") == plain.vocab_size
    assert larger.encode("a<|tool|>") == plain.encode("a<|tool|>")  # text stays text
    assert larger.encode("<|tool|>", special=True) == [300]
    assert add_special_tokens(larger, ["<|tool|>"]) == (larger, [])


def test_a_vocabulary_that_grows_says_so_and_trains(tmp_path):
    tokenizer, _ = add_special_tokens(small_tokenizer(), ["<|tool|>"])
    notes, after = carried_out(request(tmp_path, tokenizer=tokenizer))
    assert notes[0] == (
        "the vocabulary grows from 300 to 301 tokens; new rows are the mean of the others"
    )
    assert after.spec.vocab_size == 301
    assert Tokenizer.from_json(after.tokenizer_json).find_special_id("<|tool|>") == 300


def test_a_tokenizer_whose_ids_mean_other_tokens_is_told(tmp_path):
    from hermes.tokenizer import train_tokenizer

    base = small_checkpoint(tmp_path)
    other = train_tokenizer(["some other words altogether, of which no one learns"], vocab_size=280)
    own = [small_tokenizer(), other]
    differ = sum(
        number >= other.vocab_size
        or own[0].get_token_bytes(number) != own[1].get_token_bytes(number)
        for number in range(own[0].vocab_size)
    )
    assert open_base_model(base, chat=False, tokenizer=other).notes == (
        f"the tokenizer given is not the checkpoint's: {differ} of 300 ids mean other tokens now "
        "than those that the model was trained on",
        f"the tokenizer given has {other.vocab_size} tokens, and the model rows for "
        f"{300 - other.vocab_size} more, which stay as they are and which no text uses",
    )
    with pytest.raises(HermesError) as refused:
        open_base_model(base, chat=False, tokenizer=other, refuse_other_ids=True)
    assert str(refused.value) == (
        f"the tokenizer given is not the checkpoint's: {differ} of 300 ids mean other tokens now "
        "than those that the model was trained on; give one that only adds tokens, or "
        "--allow-tokenizer-change"
    )
    assert open_base_model(base, chat=False, tokenizer=other).spec.vocab_size == 300
    assert open_base_model(base, chat=False, tokenizer=small_tokenizer()).notes == ()


def test_adapters_of_the_checkpoint_are_merged_aloud(tmp_path):
    _, after = carried_out(request(tmp_path, given={"lora": LORA}))
    assert open_base_model(after.path, chat=False).notes == (
        f"the adapters of {after.path} are merged into the weights",
    )


def test_a_model_without_chat_tokens_gets_them(tmp_path):
    from hermes.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([TEXT] * 9, vocab_size=280, special_tokens=["<|eos|>"])
    start = open_base_model(small_checkpoint(tmp_path, tokenizer=tokenizer))
    path = tmp_path / "step-00000001"
    assert start.notes == (
        f"{path} has no chat template; conversations are written as ChatML",
        "the tokenizer gets the tokens <|im_start|>, <|im_end|>",
        "the vocabulary grows from 280 to 282 tokens; new rows are the mean of the others",
    )
    assert start.encoder.find_end_of_turn() == 281
    assert start.new_ids == (280, 281)
    assert start.make_adapted_start(start.new_ids).notes == (
        *start.notes,
        "the rows of <|im_start|>, <|im_end|> are trained beside the adapters",
    )
    assert start.make_adapted_start(()).notes == (
        *start.notes,
        "adapters train no embeddings, so <|im_start|>, <|im_end|> stay alike, and an answer that "
        "ends with one of them may never end; --train-new-tokens trains their rows",
    )


def test_a_hugging_face_folder_and_bare_weights_are_beginnings_too(tmp_path):
    base = small_checkpoint(tmp_path / "base", spec=small_spec(tied=False))
    convert(base, tmp_path / "hf", to="hf", backend="torch")
    start = open_base_model(tmp_path / "hf", chat=False)
    weights = open_checkpoint(base).params
    np.testing.assert_array_equal(start.params["lm_head.weight"], weights["lm_head.weight"])
    bare = open_base_model(base / "model.safetensors", config=base / "model.mal", chat=False)
    np.testing.assert_array_equal(bare.params["model.norm.weight"], weights["model.norm.weight"])


LORA = Lora(rank=3, alpha=6.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_adapters_are_saved_as_peft_has_them_and_read_merged(backend, tmp_path):
    _, after = carried_out(request(tmp_path, backend, given={"lora": LORA}))
    assert moved(tmp_path, after) == {n for n in list_parameters(after.spec) if "_proj" in n}
    stored = TensorFile(after.path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    assert stored.infos[name].shape == (48, 3)
    config = json.loads((after.path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    weight = "model.layers.1.mlp.up_proj.weight"
    base = TensorFile(after.path / "model.safetensors")[weight].astype(np.float64)
    a = stored[name.replace("lora_B", "lora_A")].astype(np.float64)
    merged = base + 6.0 / 3 * stored[name].astype(np.float64) @ a
    np.testing.assert_allclose(after.params[weight], merged, atol=1e-7)
    np.testing.assert_array_equal(open_model(after.path).params[weight], after.params[weight])


def test_a_run_of_adapters_goes_on_on_the_other_backend(tmp_path):
    whole = request(tmp_path, "torch", output="whole", given={"lora": LORA, "max_steps": 4})
    _, expected = carried_out(whole)
    carried_out(request(tmp_path, "torch", given={"lora": LORA, "max_steps": 2}))
    _, found = carried_out(request(tmp_path, "mlx", resume=True, given={"max_steps": 4}))
    for name, tensor in expected.params.items():
        np.testing.assert_allclose(found.params[name], tensor, atol=2e-5)


def test_an_adapter_is_merged_into_the_model_it_belongs_to(tmp_path):
    _, after = carried_out(request(tmp_path, given={"lora": LORA}))
    base = open_model(tmp_path / "base")
    merged = merge_adapter(base, after.path)
    for name, tensor in after.params.items():
        np.testing.assert_array_equal(merged.params[name], tensor)
    convert(tmp_path / "base", tmp_path / "out", to="hermes", adapter=after.path, dtype="float32",
            backend="torch")  # fmt: skip
    written = open_checkpoint(tmp_path / "out")
    assert not written.has_adapters
    np.testing.assert_array_equal(
        written.params["model.layers.0.mlp.up_proj.weight"],
        after.params["model.layers.0.mlp.up_proj.weight"],
    )


def test_an_adapter_goes_on_the_weights_it_was_trained_on_and_no_others(tmp_path):
    _, after = carried_out(request(tmp_path, given={"lora": LORA}))
    other = small_checkpoint(tmp_path / "other", seed=1)
    whole = {"dtype": "float32", "backend": "torch"}
    convert(tmp_path / "base", tmp_path / "once", to="hermes", adapter=after.path, **whole)
    for base in (other, tmp_path / "once", after.path):
        with pytest.raises(CheckpointError) as refused:
            merge_adapter(open_model(base), after.path)
        assert re.fullmatch(
            rf"adapter {after.path} was trained on other weights than those of {base}: '\S+' "
            rf"differs; give the model that it was trained on, or merge --checkpoint {after.path} "
            "alone",
            str(refused.value),
        )
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(after.path / name, alone)
    assert merge_adapter(open_model(other), alone).adapted


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_adapter_goes_on_its_weights_rounded(dtype, tmp_path):
    _, after = carried_out(request(tmp_path, given={"lora": LORA}))
    convert(tmp_path / "base", tmp_path / "small", to="hf", dtype=dtype, backend="torch")
    assert merge_adapter(open_model(tmp_path / "small"), after.path).adapted


def test_an_adapter_goes_on_the_model_whose_vocabulary_its_run_enlarged(tmp_path):
    larger, _ = add_special_tokens(small_tokenizer(), ["<|new|>"])
    _, after = carried_out(request(tmp_path, tokenizer=larger, given={"lora": LORA}))
    assert after.spec.vocab_size == 301
    assert merge_adapter(open_model(tmp_path / "base"), after.path).adapted


def changed_adapter(tmp_path, change):
    _, after = carried_out(request(tmp_path, given={"lora": LORA}))
    file = after.path / "adapter_config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    return after.path


FOREIGN = {
    "rank": (
        lambda config: config.update(r=2),
        "adapter {path} is of another model: 'model.layers.0.self_attn.q_proj.lora_A.weight' is "
        "F32 (3, 32) there, (2, 32) here",
    ),
    "dora": (
        lambda config: config.update(use_dora=True),
        "adapter {path} is of another model: it lacks "
        "'model.layers.0.self_attn.q_proj.lora_magnitude_vector'",
    ),
    "feature": (
        lambda config: config.update(target_parameters=["mlp.experts"]),
        "{path}/adapter_config.json: target_parameters is ['mlp.experts'], which hermes does not "
        "read",
    ),
    "unknown key": (
        lambda config: config.update(use_lora_next=2),
        "{path}/adapter_config.json: use_lora_next is 2, which hermes does not read",
    ),
    "pattern": (
        lambda config: config.update(alpha_pattern={"(q+)+_proj": 3}),
        "{path}/adapter_config.json cannot be read: the pattern '(q+)+_proj' is not one that "
        "hermes reads",
    ),
    "token": (
        lambda config: config.update(trainable_token_indices=[3, 3]),
        "{path}/adapter_config.json cannot be read: trainable_token_indices of 'embed_tokens' name "
        "a token twice",
    ),
    "kind": (
        lambda config: config.update(peft_type="IA3"),
        "{path}/adapter_config.json is not the config of a LoRA adapter",
    ),
    "no alpha": (
        lambda config: config.pop("lora_alpha"),
        "{path}/adapter_config.json cannot be read: 'lora_alpha'",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_adapter_that_does_not_fit_is_refused(name, tmp_path):
    change, message = FOREIGN[name]
    path = changed_adapter(tmp_path, change)
    with pytest.raises(CheckpointError) as refused:
        open_adapter(path, small_spec())
    assert str(refused.value) == message.format(path=path)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    path = changed_adapter(tmp_path, lambda config: None)
    with pytest.raises(CheckpointError) as refused:
        open_adapter(path, small_spec(layers=3))
    assert str(refused.value) == (
        f"adapter {path} is of another model: it lacks "
        "'model.layers.2.self_attn.q_proj.lora_A.weight'"
    )
    with pytest.raises(
        CheckpointError, match=r"is not an adapter: it has no adapter_model\.safetensors"
    ):
        open_adapter(tmp_path / "base", small_spec())


def test_fresh_adapters_change_nothing_and_freezing_beside_them_means_nothing():
    adapters = init_adapters(small_spec(), LORA, 0, {})
    assert all(not adapters[name].any() for name in adapters if "lora_B" in name)
    with pytest.raises(HermesError, match="freeze has no meaning with lora"):
        Recipe(lora=LORA, freeze=("*",))
