"""Learning from preferences: the reference as data, and whole runs on either backend."""

import json
import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from hermes.data.example_cache import ExampleCache
from hermes.data.preferences import (
    read_pairs,
)
from hermes.errors import CheckpointError, HermesError, Interrupted, OutOfMemory
from hermes.finetuning.base_model import open_base_model
from hermes.finetuning.dpo import DPOData
from hermes.finetuning.reference_logprobs import Reference, hash_weights
from hermes.interface import Options, find_backend
from hermes.recipe import Lora, Preference, Recipe
from hermes.stages import show_stages
from hermes.training.request import RunRequest
from hermes.training.run import open_run
from tests.finetuning.support import (
    small_checkpoint,
    small_spec,
    some_chats,
    some_pairs,
    train_to_end,
    write_lines,
)

BACKENDS = ["torch", "mlx"]


def preferences(tmp_path, backend, *, output="run", resume=False, spec=None, **settings):
    """A request of a run, and what it learns from."""
    start = open_base_model(small_checkpoint(tmp_path / "base", spec=spec))
    file = tmp_path / "prefs.jsonl"
    if not file.exists():
        write_lines(file, some_pairs())
    realised, options = find_backend(backend), Options(device="cpu")
    given = {"max_steps": 4} if resume else {
        "objective": "preference",
        "batch_size": 2,
        "max_steps": 4,
        "lr": 1e-4,
        "seq_len": 64,
        "val_fraction": 0.2,
    }  # fmt: skip
    given |= settings.pop("given", {})
    folder = tmp_path / output
    some = DPOData(read_pairs(file), start, realised, options, folder, **settings)
    return RunRequest(
        output=folder,
        data=(str(file),),
        backend=realised,
        tokenizer=start.tokenizer,
        options=options,
        given=given,
        resume=resume,
        initial_model=start.start,
        make_data=some.make_training_data,
        tokenizer_settings=start.settings,
    )


def carried_out(request):
    with open_run(request) as run:
        train_to_end(run)
        return run.notes


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "method", "doing", "advice"),
    [
        (
            "inference.Model",
            "row_logprobs",
            "computing the reference's log-probabilities, 2 pairs at a time",
            "a smaller --batch-size with more --grad-accum",
        ),
        (
            "learner.Learner",
            "__init__",
            "training small on cpu with 2 x 2 x 64 tokens at a time",
            "--batch-size 1 with --grad-accum 2",
        ),
    ],
)
def test_memory_that_runs_out_is_one_sentence(
    backend, kind, method, doing, advice, tmp_path, monkeypatch
):
    def fail(self, *arguments, **named):
        raise RuntimeError("[malloc] Unable to allocate 8 bytes.")

    module, name = kind.split(".")
    monkeypatch.setattr(getattr(import_module(f"hermes_{backend}.{module}"), name), method, fail)
    with pytest.raises(OutOfMemory) as refused:
        carried_out(preferences(tmp_path, backend))
    said = str(refused.value)
    assert said.startswith(f"out of memory while {doing} ([malloc] Unable to allocate 8 bytes.)")
    assert f"; choose {advice}" in said


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_the_first_loss_is_ln_2_also_with_dropout_in_the_model(backend, beta, tmp_path):
    """Reference and policy run the same kernels on the same shapes, and neither drops anything."""
    rule = {"preference.beta": beta, "grad_accum": 2, "max_steps": 1}
    carried_out(preferences(tmp_path, backend, given=rule, spec=small_spec(dropout=0.3)))
    first, last = lines(tmp_path / "run")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (first["reward_margin"], first["kl"]) == (0.0, 0.0)
    assert set(last) == {
        *("step", "val_loss", "val_reward_margin", "val_accuracy", "val_chosen_reward"),
        *("val_rejected_reward", "val_chosen_logprob", "val_rejected_logprob", "val_kl"),
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_adapters_the_reference_is_the_base_without_them(backend, tmp_path):
    """So the first loss is ln 2, and a run that goes on reads the same reference."""
    adapters = {"lora": Lora(rank=2, dropout=0.5), "lr": 1e-2, "max_steps": 2}
    carried_out(preferences(tmp_path, backend, given=adapters))
    first, second = (line["loss"] for line in lines(tmp_path / "run") if "loss" in line)
    assert first == pytest.approx(math.log(2), abs=1e-6)
    assert second < first - 1e-3
    base = open_base_model(tmp_path / "base").params
    kept = Reference.load(tmp_path / "run" / "reference.npz")
    assert kept.weights == hash_weights(base)
    carried_out(preferences(tmp_path, backend, resume=True))
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4]
    tuned = hash_weights(open_base_model(tmp_path / "run").params)
    assert tuned != kept.weights


def test_a_run_stopped_on_one_backend_goes_on_on_the_other(tmp_path):
    carried_out(preferences(tmp_path, "torch", output="whole"))
    carried_out(preferences(tmp_path, "torch", given={"max_steps": 2}))
    notes = carried_out(preferences(tmp_path, "mlx", resume=True))
    kept = tmp_path / "run" / "reference.npz"
    assert notes[1:3] == (
        f"the reference's log-probabilities are read from {kept}",
        "they were computed with backend torch, device cpu, precision float32, pairs 2, seed 0: "
        "equal but for rounding",
    )
    whole, parts = lines(tmp_path / "whole"), lines(tmp_path / "run")
    assert [line["loss"] for line in parts if "loss" in line] == pytest.approx(
        [line["loss"] for line in whole if "loss" in line], rel=1e-5
    )
    assert parts[-1]["val_loss"] == pytest.approx(whole[-1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", ["ipo", "hinge", "orpo", "simpo"])
def test_every_loss_trains_and_those_without_a_reference_compute_none(backend, loss, tmp_path):
    beta = {"ipo": 0.1, "hinge": 0.1, "orpo": 0.1, "simpo": 2.0}[loss]
    rule = {"preference.loss": loss, "preference.beta": beta, "lr": 3e-3, "max_steps": 12}
    carried_out(preferences(tmp_path, backend, given=rule))
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    firsts = {"ipo": 25.0, "hinge": 1.0}
    if loss in firsts:
        assert losses[0] == pytest.approx(firsts[loss], abs=1e-4)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert (tmp_path / "run" / "reference.npz").exists() is (loss in firsts)


def test_a_reference_is_computed_once_and_used_again(tmp_path):
    cache = tmp_path / "reference.npz"
    first = carried_out(preferences(tmp_path, "torch", reference_cache=cache))
    assert first[1] == (
        f"the reference's log-probabilities were computed; they are kept in {cache}"
    )

    seen = []
    with show_stages(lambda what, *rest: seen.append(what)):
        notes = carried_out(preferences(tmp_path, "torch", output="b", reference_cache=cache))
    assert "encoding pairs" in seen
    assert "computing the reference, pairs" not in seen
    assert notes[1] == f"the reference's log-probabilities are read from {cache}"
    assert not (tmp_path / "b" / "reference.npz").exists()
    assert lines(tmp_path / "b")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("what", ["weights", "data", "template"])
def test_a_reference_of_something_else_is_refused(what, tmp_path):
    cache = tmp_path / "reference.npz"
    carried_out(preferences(tmp_path, "torch", reference_cache=cache))
    known = Reference.load(cache)
    replace(known, **{what: "0" * 64}).save(cache)
    with pytest.raises(CheckpointError) as refused:
        open_run(preferences(tmp_path, "torch", output="b", reference_cache=cache))
    words = {"weights": "other weights", "data": "other data", "template": "another chat template"}
    assert str(refused.value) == (
        f"reference cache {cache} is of {words[what]} ({what} 000000000000 there, "
        f"{getattr(known, what)[:12]} here); remove it, or name another with --reference-cache"
    )
    assert not (tmp_path / "b").exists()


def test_of_another_template_the_same_file_is_not_called_other_data(tmp_path):
    cache = tmp_path / "reference.npz"
    carried_out(preferences(tmp_path, "torch", reference_cache=cache))
    with pytest.raises(CheckpointError, match=r"is of another chat template .*; remove it, or"):
        open_run(
            preferences(tmp_path, "torch", output="b", reference_cache=cache, use_template=False)
        )


def test_a_run_that_goes_on_with_other_pairs_is_not_told_to_remove_its_reference(tmp_path):
    carried_out(preferences(tmp_path, "torch"))
    write_lines(tmp_path / "prefs.jsonl", some_pairs(9))
    request = preferences(tmp_path, "torch", resume=True, base=lambda: pytest.fail("not needed"))
    with pytest.raises(CheckpointError) as refused:
        open_run(request)
    assert str(refused.value).startswith(
        f"reference cache {tmp_path}/run/reference.npz is of other data ("
    )
    assert str(refused.value).endswith(
        "here); a run is resumed with the data, the template and the reference that it began with; "
        "give these, or choose another --output for a new one"
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"text"])
def test_a_file_that_is_no_reference_is_refused(content, tmp_path):
    cache = tmp_path / "reference.npz"
    cache.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"reference\.npz is no reference cache") as refused:
        Reference.load(cache)
    assert "pickle" not in str(refused.value)


def test_the_hash_of_weights_sees_every_bit_and_every_name():
    weights = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    changed = {**weights, "a": weights["a"] + np.float32(1e-7) * np.eye(2, 3, dtype=np.float32)}
    renamed = {"c": weights["a"], "b": weights["b"]}
    reshaped = {**weights, "a": weights["a"].T}
    hashes = {hash_weights(w) for w in (weights, changed, renamed, reshaped)}
    assert len(hashes) == 4
    assert hash_weights(dict(reversed(weights.items()))) == hash_weights(weights)


def test_a_signal_while_the_reference_is_computed_leaves_nothing(tmp_path):
    with pytest.raises(Interrupted, match="stopped while the reference was computed"):
        open_run(preferences(tmp_path, "torch", stop=lambda: True))
    assert not (tmp_path / "run").exists()


def test_conversations_are_no_preferences(tmp_path):
    write_lines(tmp_path / "prefs.jsonl", some_chats())
    with pytest.raises(HermesError) as refused:
        open_run(preferences(tmp_path, "torch"))
    assert str(refused.value) == (
        f"{tmp_path}/prefs.jsonl:1: no field 'chosen', only 'prompt', 'completion'; "
        "conversations are for hermes sft; --skip-bad-records leaves such records out"
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", ["sigmoid", "orpo"])
def test_a_pair_of_weight_2_counts_as_if_it_were_there_twice(backend, loss, tmp_path):
    """And one of weight 0 as if it were not; the sum is divided by the weights'."""
    whole = some_pairs(4)
    given = {"max_steps": 3, "lr": 1e-3, "val_fraction": 0.0, "preference.loss": loss}

    def train(name, records):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "base").symlink_to(tmp_path / "base")
        write_lines(folder / "prefs.jsonl", records)
        batch = {"batch_size": sum(record.get("weight") != 0 for record in records) or 1}
        notes = carried_out(preferences(folder, backend, given=given | batch))
        return notes, [line["loss"] for line in lines(folder / "run") if "loss" in line]

    small_checkpoint(tmp_path / "base")
    weights = [2, 1, 0, 1]
    weighted = [{**pair, "weight": w} for pair, w in zip(whole, weights, strict=True)]
    notes, found = train("weighted", weighted)
    assert "pairs are weighted as the records say" in notes
    assert "1 pair of weight 0 is left out" in notes
    assert not any("'weight'" in note for note in notes)
    expected = train("twice", [whole[0], whole[0], whole[1], whole[3]])[1]
    assert found == pytest.approx(expected, abs=2e-6)
    assert train("alike", [whole[0], whole[1], whole[3]])[1][1:] != pytest.approx(
        found[1:], abs=1e-5
    )
    with pytest.raises(HermesError, match=r"all records have weight 0, such as .*prefs\.jsonl:1"):
        train("none", [{**pair, "weight": 0} for pair in whole])


def test_messages_that_nothing_answers_are_named(tmp_path):
    side = [{"role": "assistant", "content": "the cat"}, {"role": "user", "content": "why?"}]
    first, *others = some_pairs(4)
    write_lines(tmp_path / "prefs.jsonl", [{**first, "chosen": side}, *others])
    notes = carried_out(preferences(tmp_path, "torch", given={"max_steps": 1}))
    assert "1 record ends with messages that nothing answers, which are left out" in notes


def test_a_dry_run_keeps_no_reference(tmp_path):
    cache = tmp_path / "reference.npz"
    request = preferences(tmp_path, "torch", reference_cache=cache, keeps_reference=False)
    with open_run(request) as run:
        computed = "the reference's log-probabilities were computed; a run would keep them in"
        assert f"{computed} {cache}" in run.notes
    assert not cache.exists()


@pytest.mark.parametrize("use_template", [True, False])
def test_the_second_start_encodes_no_pair(use_template, tmp_path, monkeypatch):
    """What was cut and left out is said as before; another --max-len is encoded anew."""
    small_checkpoint(tmp_path / "base")
    long, *others = some_pairs(6)
    records = [{**long, "prompt": "the cat sat " * 30, "weight": 2, "id": 1}, *others]
    file = write_lines(tmp_path / "prefs.jsonl", records)
    start = open_base_model(tmp_path / "base")
    backend = find_backend("torch")

    def make(seq_len):
        data = DPOData(
            read_pairs(file),
            start,
            backend,
            Options(device="cpu"),
            tmp_path / "run",
            use_template=use_template,
            cache=ExampleCache(tmp_path / "cache"),
        )
        recipe = Recipe(
            seq_len=seq_len, batch_size=2, objective="preference", preference=Preference("orpo")
        )
        return data.make_training_data(start.spec, start.tokenizer, recipe)

    first = make(48)
    assert "1 prompt lost its beginning, after the system prompt" in first.notes
    monkeypatch.setattr(DPOData, "_encode", lambda *_: iter(()))
    second = make(48)
    assert second.dataset.fingerprint == first.dataset.fingerprint
    assert second.notes == first.notes
    assert "fields that are not read: 'id' (1)" in second.notes
    with pytest.raises(HermesError, match="no pair is left"):
        make(40)
