"""Every place a model can be read from, and what is said of the others."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors import numpy as public

from hermes.checkpoint import locate
from hermes.errors import CheckpointError, HermesError, SpecError, StorageError
from hermes.interop.convert import convert
from hermes.interop.huggingface.config_writer import make_config
from hermes.interop.open_model import open_model
from hermes.interop.tensor_names import pack
from tests.interop.models import GPT2, LLAMA, MODELS, bare, hot_weights


def test_a_run_is_converted_from_its_newest_checkpoint(tmp_path, checkpoint):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(checkpoint, run / "step-00000000")
    done = convert(run, tmp_path / "hf", to="hf")
    assert done.source.path == run / "step-00000000"


def test_weights_find_the_config_beside_them(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    done = convert(tmp_path / "hf/model.safetensors", tmp_path / "b", to="hermes")
    assert done.source.spec.identity == LLAMA.identity


def test_a_folder_of_hermes_without_its_manifest_is_read_by_its_mal(tmp_path):
    dropping = dataclasses.replace(
        GPT2, blocks=(dataclasses.replace(GPT2.blocks[0], dropout=0.25),)
    )
    convert(**bare(tmp_path / "bare", dropping), target=tmp_path / "a", to="hermes")
    (tmp_path / "a/manifest.json").unlink()
    assert open_model(tmp_path / "a").spec == dropping


def test_a_source_says_what_it_lacks(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"it has no manifest.json, config.json or lit_model"):
        open_model(empty)
    with pytest.raises(CheckpointError, match=r"nothing: no such file or folder; check the name$"):
        open_model(tmp_path / "nothing")
    (empty / "config.json").write_text(json.dumps(make_config(LLAMA)))
    with pytest.raises(CheckpointError, match=r"has no model.safetensors, .* with --config"):
        open_model(empty)
    public.save_file(dict(hot_weights(LLAMA)), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="holds weights only; name their model with --config"):
        open_model(tmp_path / "w.safetensors")
    (tmp_path / "w.gguf").write_text("")
    with pytest.raises(CheckpointError, match=r"a file must end in .safetensors, .pt, "):
        open_model(tmp_path / "w.gguf")
    with pytest.raises(HermesError, match=r"^--config .* must end in .json, .mal or .yaml$"):
        open_model(tmp_path / "w.safetensors", config=tmp_path / "c.toml")
    with pytest.raises(HermesError, match="is a folder, which has its own config"):
        open_model(empty, config=tmp_path / "c.json")
    (tmp_path / "c.json").write_text(json.dumps(make_config(LLAMA) | {"num_hidden_layers": -1}))
    with pytest.raises(SpecError, match=r"/c.json: 'num_hidden_layers' must be a whole number"):
        open_model(tmp_path / "w.safetensors", config=tmp_path / "c.json")


class TestTraining:
    """Checkpoints of nanoGPT and litgpt, in torch's own format."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    def nanogpt(self, torch, path, spec, prefix="", **more):
        block = spec.layers[0]
        shelf = pack(hot_weights(spec), spec, "nanogpt")
        model = {prefix + "transformer." + n: torch.tensor(np.array(a)) for n, a in shelf.items()}
        model[f"{prefix}lm_head.weight"] = model[f"{prefix}transformer.wte.weight"]
        args = {
            "n_layer": spec.num_layers,
            "n_head": block.attention.num_heads,
            "n_embd": spec.hidden_size,
            "block_size": spec.max_seq_len,
            "bias": block.attention.bias == "all",
            "vocab_size": spec.vocab_size,
            "dropout": 0.0,
        }
        torch.save({"model": model, "model_args": args, "iter_num": 3, **more}, path)

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("n_layer", 10**9, r"/ckpt.pt: num_layers must be at most 10000, got 1000000000$"),
            ("n_embd", float("nan"), r"/ckpt.pt: model_args: 'n_embd' must be a whole .* nan$"),
        ],
    )
    def test_a_mistake_in_its_arguments_names_the_file(self, torch, tmp_path, name, value, words):
        sizes = dict.fromkeys(("n_layer", "n_head", "n_embd", "block_size", "vocab_size"), 2)
        held = {"model": {"wte": torch.zeros(2, 2)}, "model_args": sizes | {name: value}}
        torch.save(held, tmp_path / "ckpt.pt")
        with pytest.raises(SpecError, match=words):
            open_model(tmp_path / "ckpt.pt")

    @pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
    def test_nanogpt(self, torch, tmp_path, prefix):
        spec = MODELS["gpt2 gelu"][1]
        path = tmp_path / "ckpt.pt"
        self.nanogpt(torch, path, spec, prefix, optimizer={"state": {0: torch.zeros(2)}})
        done = convert(path, tmp_path / "a", to="hermes")
        assert locate(tmp_path / "a")[0].spec.identity == spec.identity
        assert done.source.notes == (
            "nanoGPT's gelu is read as the exact one; checkpoints from before May 2023 used "
            "gelu_tanh",
            "the optimizer state is not converted, as it has names of its own",
        )
        for name, array in hot_weights(spec).items():
            np.testing.assert_array_equal(done.source.params[name], array)

    def test_litgpt(self, torch, tmp_path):
        spec = MODELS["llama llama3"][1]
        config = {
            "name": "pythia-x",
            "block_size": 64,
            "n_layer": 3,
            "n_embd": 32,
            "n_head": 4,
            "n_query_groups": 2,
            "vocab_size": 90,
            "padded_vocab_size": 96,
            "norm_class_name": "RMSNorm",
            "mlp_class_name": "LLaMAMLP",
            "intermediate_size": 48,
            "rotary_percentage": 1.0,
            "rope_base": 500000,
            "rope_adjustments": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_seq_len": 16,
            },
            "bias": False,
            "parallel_residual": False,
            "n_expert": 0,
            "latent_attention": None,
        }
        (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(config))
        for family in ("litgpt", "litgpt-old"):
            shelf = pack(hot_weights(spec), spec, family)
            names = {n if "lm_head" in n else f"transformer.{n}": n for n in shelf}
            model = {name: torch.tensor(np.array(shelf[n])) for name, n in names.items()}
            torch.save({"model": model}, tmp_path / "lit_model.pth")
            done = convert(tmp_path, tmp_path / family / "out", to="hf")
            assert (done.source.kind, done.architecture) == (
                f"{family} checkpoint",
                "LlamaForCausalLM",
            )
            found = open_model(tmp_path / family / "out")
            assert found.spec.identity == spec.identity
            for name, array in hot_weights(spec).items():
                np.testing.assert_array_equal(found.params[name], array)
        for field, value in (("rope_interleave", True), ("n_expert", 4), ("new", 1)):
            (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(config | {field: value}))
            with pytest.raises(SpecError, match=f"model_config.yaml: {field!r} is {value}, "):
                open_model(tmp_path)

    def make_litgpt_folder(self, torch, folder, name="lit_model.pth"):
        """What litgpt's finetuning leaves: its own files, and those of the model it began from."""
        folder.mkdir()
        shelf = pack(hot_weights(LLAMA), LLAMA, "litgpt")
        names = {n if "lm_head" in n else f"transformer.{n}": n for n in shelf}
        model = {name: torch.tensor(np.array(shelf[n])) for name, n in names.items()}
        torch.save({"model": model}, folder / name)
        block = LLAMA.layers[0]
        config = {
            "name": "Llama-x",
            "hf_config": {"org": "x", "name": "x"},
            "block_size": LLAMA.max_seq_len,
            "n_layer": LLAMA.num_layers,
            "n_embd": LLAMA.hidden_size,
            "n_head": block.attention.num_heads,
            "n_query_groups": block.attention.num_kv_heads,
            "vocab_size": LLAMA.vocab_size,
            "padded_vocab_size": LLAMA.vocab_size,
            "norm_class_name": "RMSNorm",
            "norm_eps": block.norm.eps,
            "mlp_class_name": "LLaMAMLP",
            "intermediate_size": block.ffn.hidden_dim,
            "rotary_percentage": 1.0,
            "rope_base": int(block.attention.position_encoding.theta),
            "bias": False,
            "parallel_residual": False,
        }
        (folder / "model_config.yaml").write_text(yaml.safe_dump(config))
        own = make_config(LLAMA) | {"bos_token_id": 1, "eos_token_id": 2}
        (folder / "config.json").write_text(json.dumps(own))
        style = {"class_path": "litgpt.prompts.Alpaca", "init_args": {}}
        (folder / "prompt_style.json").write_text(json.dumps(style))
        return folder

    def test_a_litgpt_folder_with_the_config_that_it_began_from(self, torch, tmp_path):
        found = open_model(self.make_litgpt_folder(torch, tmp_path / "lit"))
        assert found.kind == "litgpt checkpoint"
        assert found.notes == (
            "litgpt's prompt style 'litgpt.prompts.Alpaca' is not read; chat as it was trained "
            "with --template",
        )
        assert (found.ids["bos_token_id"], found.ids["eos_token_id"]) == (1, 2)
        for name, array in hot_weights(LLAMA).items():
            np.testing.assert_array_equal(found.params[name], array)

    def test_weights_of_hugging_face_beside_litgpts_come_first(self, torch, tmp_path):
        """As litgpt download leaves them: they are the same model."""
        folder = self.make_litgpt_folder(torch, tmp_path / "lit")
        public.save_file(dict(hot_weights(LLAMA)), folder / "model.safetensors")
        assert open_model(folder).kind.startswith("Hugging Face folder")

    def test_what_litgpt_converts_opens_with_a_config(self, torch, tmp_path):
        folder = tmp_path / "converted"
        folder.mkdir()
        weights = {n: torch.tensor(np.array(a)) for n, a in hot_weights(LLAMA).items()}
        torch.save(weights, folder / "model.pth")
        (folder / "config.json").write_text(json.dumps(make_config(LLAMA)))
        found = open_model(folder)
        assert found.notes == ("the weights are read from model.pth, and no code in it is run",)
        for name, array in hot_weights(LLAMA).items():
            np.testing.assert_array_equal(found.params[name], array)

    @pytest.mark.parametrize(
        ("kind", "advice"),
        [
            ("lora", "merge it first: litgpt merge_lora {folder}"),
            ("adapter", "hermes reads no such adapters; train with LoRA or whole"),
        ],
    )
    def test_an_adapter_of_litgpt_is_refused_with_what_to_do(self, torch, tmp_path, kind, advice):
        name = f"lit_model.pth.{kind}"
        folder = self.make_litgpt_folder(torch, tmp_path / "lit", name)
        with pytest.raises(CheckpointError) as refused:
            open_model(folder)
        assert str(refused.value) == (
            f"{folder} has litgpt's {name} without its model; {advice.format(folder=folder)}"
        )

    def test_a_bfloat16_state_dict_with_a_config(self, torch, tmp_path):
        model = {n: torch.tensor(a).bfloat16() for n, a in hot_weights(LLAMA).items()}
        torch.save(model, tmp_path / "pytorch_model.bin")
        (tmp_path / "c.json").write_text(json.dumps(make_config(LLAMA)))
        done = convert(
            tmp_path / "pytorch_model.bin",
            tmp_path / "a",
            to="hf",
            config=tmp_path / "c.json",
        )
        assert done.dtype == "bfloat16"
        assert all(a.dtype == ml_dtypes.bfloat16 for a in map(done.source.params.get, model))

    def test_a_file_that_says_nothing_of_its_architecture_is_refused(self, torch, tmp_path):
        torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "ckpt.pt")
        with pytest.raises(CheckpointError, match="does not tell its architecture"):
            open_model(tmp_path / "ckpt.pt")


def test_a_file_that_is_a_link_out_of_the_folder_is_named(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    secret = tmp_path / "elsewhere.json"
    (tmp_path / "hf/generation_config.json").unlink(missing_ok=True)
    secret.write_text("{}")
    (tmp_path / "hf/generation_config.json").symlink_to(secret)
    (tmp_path / "hf/README.md").symlink_to("config.json")  # within it a link is a file
    assert open_model(tmp_path / "hf").notes == (
        f"{tmp_path / 'hf/generation_config.json'} is a link to {secret}, outside of the model",
    )


def test_links_that_form_a_loop_or_lead_nowhere_are_named_and_no_traceback(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="hf")
    (tmp_path / "hf/a.txt").symlink_to("b.txt")
    (tmp_path / "hf/b.txt").symlink_to("a.txt")
    (tmp_path / "hf/c.txt").symlink_to("../gone")
    loops, gone = (f"{tmp_path / 'hf'}/{name}.txt is a link to " for name in "bc")
    notes = open_model(tmp_path / "hf").notes
    assert [note.endswith(", nowhere") for note in notes] == [True] * 3
    assert notes[1].startswith(loops)
    assert notes[2] == f"{gone}{tmp_path / 'gone'}, nowhere"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match="loop"):
        convert(checkpoint, tmp_path / "loop", to="hf")


def test_the_links_of_the_hub_s_cache_are_not_worth_a_word(tmp_path, checkpoint):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0123", tmp_path / "models--a--b/blobs"
    snapshot.parent.mkdir(parents=True)
    convert(checkpoint, snapshot, to="hf")
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert open_model(snapshot).notes == ()
