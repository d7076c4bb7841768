"""What adapters train beside A and B: rows of new tokens, DoRA's magnitudes; saved and resumed."""

import json

import numpy as np
import pytest

import hermes
from hermes.checkpoint import open_checkpoint
from hermes.errors import HermesError
from hermes.interop.adapters import merge_adapter
from hermes.interop.open_model import open_model
from hermes.storage.safetensors import TensorFile
from tests.finetuning.support import some_chats, write_lines
from tests.finetuning.test_new_tokens import CHAT, EMBED, HEAD, ids_of, make_base, set_rows

BACKENDS = ["torch", "mlx"]
DELTA = "token_adapter.trainable_tokens_delta"
LORA = {"lora_rank": 4, "lora_alpha": 8, "batch_size": 4, "lr": 2e-2, "seq_len": 48}
KINDS = {
    "rows": {},
    "rslora": {"lora_rslora": True},
    "dora": {"dora": True},
    "attention": {"lora_targets": "q_proj,v_proj"},
}


def tune(tmp_path, output="run", *, records=None, **settings):
    """The last checkpoint of a run on conversations, and what it noted."""
    data = write_lines(tmp_path / "chat.jsonl", records or some_chats())
    settings = {"max_steps": 4, "backend": "torch"} | LORA | settings
    start = {} if settings.get("resume") else {"checkpoint": tmp_path / "base"}
    return hermes.sft(data=data, output=tmp_path / output, **start, **settings).checkpoint


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_tuned_base_without_chat_tokens_ends_its_answers(tmp_path, backend, tied):
    """Their rows are zero: with those left alone it never stops."""

    def change(weights):
        for name in weights:
            weights[name] *= 5 if weights[name].ndim > 1 else 1
        set_rows(ids_of(*CHAT), 0.0)(weights)

    make_base(tmp_path / "base", change=change, tied=tied)
    records = [{"prompt": "the cat", "completion": "sat on the mat"}]
    for output, trains in {"run": True, "other": False}.items():
        tune(tmp_path, output, records=records, max_steps=100, backend=backend, batch_size=1,
             lora_rank=8, lora_alpha=16, train_new_tokens=trains)  # fmt: skip
        talk = hermes.chat(
            tmp_path / output, temperature=0, max_tokens=30, backend=backend, device="cpu"
        )
        assert ("".join(talk.say("the cat")) == "sat on the mat") is trains


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_saved_as_peft_has_them_and_alone_have_moments(tmp_path, tied):
    ids = sorted(ids_of(*CHAT))
    weights = make_base(tmp_path / "base", change=set_rows(ids_of(*CHAT), 0.0), tied=tied)
    path = tune(tmp_path)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == (
        ids if tied else {"embed_tokens": ids, "lm_head": ids}
    )
    stored = TensorFile(path / "adapter_model.safetensors")
    moments = TensorFile(path / "optimizer.safetensors")
    after = open_checkpoint(path)
    for name in (EMBED,) if tied else (EMBED, HEAD):
        rows = stored[f"base_model.model.{name.replace('weight', DELTA)}"]
        assert moments.infos[f"exp_avg.{name.replace('weight', DELTA)}"].shape == (2, 32)
        assert f"exp_avg.{name}" not in moments.infos
        merged = after.params[name]
        np.testing.assert_array_equal(merged[ids], rows)
        assert len(np.unique(rows, axis=0)) == 2  # no longer alike
        others = np.delete(np.arange(300), ids)
        np.testing.assert_array_equal(merged[others], weights[name][others])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_on_the_other_backend(tmp_path, kind):
    make_base(tmp_path / "base", change=set_rows(ids_of(*CHAT), 0.0))
    options = KINDS[kind]
    whole = open_checkpoint(tune(tmp_path, "whole", **options))
    tune(tmp_path, max_steps=2, **options)
    found = open_checkpoint(tune(tmp_path, resume=True, backend="mlx", **options))
    assert found.progress.recipe.lora == whole.progress.recipe.lora
    assert found.progress.recipe.lora.token_ids == tuple(sorted(ids_of(*CHAT)))
    for name, tensor in whole.params.items():
        np.testing.assert_allclose(found.params[name], tensor, atol=1e-4)


def test_an_adapter_with_rows_is_merged_into_the_base_that_lacks_them(tmp_path):
    make_base(tmp_path / "base", change=set_rows(ids_of(*CHAT), 0.0))
    path = tune(tmp_path)
    after, merged = open_checkpoint(path), merge_adapter(open_model(tmp_path / "base"), path)
    for name, tensor in after.params.items():
        np.testing.assert_array_equal(merged.params[name], tensor)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_tokens_beyond_the_vocabulary_enlarge_the_base_that_they_are_merged_into(
    tmp_path, tied
):
    from tests.finetuning.test_new_tokens import NO_CHAT

    make_base(tmp_path / "base", NO_CHAT, rows=280, tied=tied)
    path = tune(tmp_path)
    after, merged = open_checkpoint(path), merge_adapter(open_model(tmp_path / "base"), path)
    assert merged.spec.vocab_size == after.spec.vocab_size == 282
    assert "the vocabulary grows from 280 to 282 tokens" in merged.notes
    for name, tensor in after.params.items():
        np.testing.assert_array_equal(merged.params[name], tensor)


def test_without_new_tokens_no_row_is_trained(tmp_path):
    make_base(tmp_path / "base")
    assert open_checkpoint(tune(tmp_path)).progress.recipe.lora.token_ids == ()


def test_rows_are_left_alone_where_that_is_asked(tmp_path):
    make_base(tmp_path / "base", change=set_rows(ids_of(*CHAT), 0.0))
    path = tune(tmp_path, train_new_tokens=False, max_steps=2)
    with pytest.raises(HermesError, match=r"^train_new_tokens is False in .* and True here; leave"):
        tune(tmp_path, resume=True, train_new_tokens=True)
    assert open_checkpoint(path).progress.recipe.lora.token_ids == ()
    rows = open_checkpoint(path).params[EMBED][ids_of(*CHAT)]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_rows_with_adapters_alone_and_ids_of_the_model(tmp_path):
    make_base(tmp_path / "base")
    with pytest.raises(
        HermesError, match=r"^dora=True belongs to adapters; give lora_rank with it"
    ):
        hermes.sft(tmp_path / "base", "chat.jsonl", output=tmp_path / "out", dora=True)
    from hermes.numerics.lora import list_adapter_tensors
    from hermes.recipe import Lora
    from tests.finetuning.support import small_spec

    with pytest.raises(HermesError, match="names token 300, and the model has rows for 300"):
        list_adapter_tensors(small_spec(), Lora(token_ids=(3, 300)))
    with pytest.raises(HermesError, match=r"^lora.token_ids must be ascending ids, each once"):
        Lora(token_ids=(3, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_base_held_in_bfloat16_is_saved_as_it_came_also_after_its_folder_is_gone(
    tmp_path, backend
):
    """The second part of the run reads it from a checkpoint that its first save deletes."""
    weights = make_base(tmp_path / "base")
    how = {"backend": backend, "precision": "bfloat16", "save_every": 1, "keep_last": 1}
    whole = tune(tmp_path, "whole", max_steps=6, **how)
    first = tune(tmp_path, "parts", max_steps=3, **how)
    parts = tune(tmp_path, "parts", max_steps=6, resume=True, **how)
    assert not first.exists()
    ours, other = (open_checkpoint(path).state for path in (whole, parts))
    for name in weights:
        assert (weights[name].view(np.uint32) & 0xFFFF).any() or weights[name].ndim < 2
        np.testing.assert_array_equal(ours.params[name], weights[name], err_msg=name)
    for name, tensor in ours.params.items():
        np.testing.assert_array_equal(other.params[name], tensor, err_msg=name)
    for name, tensor in ours.exp_avg_sq.items():
        np.testing.assert_array_equal(other.exp_avg_sq[name], tensor, err_msg=name)
