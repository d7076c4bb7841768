"""`hermes convert` on the command line: what it prints, and its one line where it refuses."""

import json

import pytest

from hermes.checkpoint.adapters import ADAPTER, ADAPTER_CONFIG, build_adapter_files
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora
from hermes.storage.safetensors import TensorInfo, encode_tensors
from hermes_cli.main import run
from tests.interop.models import GPT2, LLAMA, bare, change


@pytest.fixture
def weights(tmp_path):
    return bare(tmp_path / "bare", GPT2)


def convert(*arguments):
    return run(["convert", *map(str, arguments)])


def test_it_prints_source_target_proof_and_readers(tmp_path, weights, capfd):
    config = ["--config", weights["config"], "--backend", "numpy"]
    assert convert(weights["source"], tmp_path / "a", "--to", "hermes", *config) == 0
    assert convert(tmp_path / "a", tmp_path / "hf", "--to", "hf", "--backend", "numpy") == 0
    size = sum(file.stat().st_size for file in (tmp_path / "hf").iterdir())
    out, err = capfd.readouterr()
    renamed = "not expressible: tensors have other names there; convert --to hf gives them"
    first, second = out.splitlines()[:9], out.splitlines()[9:]
    assert first[4:] == [
        f"transformers 4.57  {renamed}",
        f"transformers 5     {renamed}",
        f"mlx-lm             {renamed}",
        "hermes             weights exact; text: no tokenizer",
        "note       --to hf makes it a model that those tools know",
    ]
    assert second == [
        f"read       {tmp_path}/a: hermes checkpoint, 43,296 parameters",
        f"written    {tmp_path}/hf: GPT2LMHeadModel, float32, {size:,} bytes",
        "tokenizer  none beside it",
        "proof      logits differ by 0 of their root mean square (numpy)",
        "transformers 4.57  exact",
        "transformers 5     exact",
        "mlx-lm             exact",
        "hermes             weights exact; text: no tokenizer",
    ]
    assert err == ""


def test_json_has_the_same(tmp_path, weights, capfd):
    arguments = ["--to", "hf", "--dtype", "bfloat16", "--json", "--backend", "numpy"]
    arguments += ["--config", weights["config"]]
    assert convert(weights["source"], tmp_path / "hf", *arguments) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["architecture"], facts["dtype"]) == ("GPT2LMHeadModel", "bfloat16")
    assert 0 < facts["difference"] < 0.5
    assert facts["readers"]["mlx-lm"] == "exact"
    assert facts["tokenizer"] == []
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}
    (tmp_path / "hf/tokenizer.json").write_text(json.dumps(tokenizer))
    arguments = ["--to", "hermes", "--json", "--backend", "numpy"]
    (tmp_path / "hf/generation_config.json").write_text('{"temperature": 0.5}')
    assert convert(tmp_path / "hf", tmp_path / "back", *arguments) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["tokenizer"], facts["generation_config"]) == (["tokenizer.json"], True)


def test_a_mistake_is_one_line(tmp_path, weights, capfd):
    assert convert(tmp_path / "nothing", tmp_path / "a", "--to", "hf") == 1
    missing = f"{tmp_path}/nothing: no such file or folder; check the name"
    assert capfd.readouterr().err == f"Error: {missing}\n"
    assert convert(weights["source"], tmp_path / "a") == 2
    assert "missing option '--to'" in capfd.readouterr().err


def test_merge_says_what_a_conversion_has_to_say(tmp_path, capfd):
    spec = change(LLAMA, dropout=0.1, ffn={"dropout": 0.1})
    base, lora = bare(tmp_path / "bare", spec), Lora(rank=2, alpha=4.0)
    adapters = init_adapters(spec, lora, 0, {})
    kinds = {name: TensorInfo("F32", tensor.shape) for name, tensor in adapters.items()}
    config, (tensors, stored) = build_adapter_files(spec, lora, kinds, adapters)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / ADAPTER_CONFIG).write_bytes(config)
    (tmp_path / "adapter" / ADAPTER).write_bytes(b"".join(encode_tensors(tensors, stored)))
    arguments = ["--checkpoint", base["source"], "--config", base["config"], "--to", "hf",
                 "--adapter", tmp_path / "adapter", "--output", tmp_path / "out"]  # fmt: skip
    assert run(["merge", *map(str, arguments)]) == 0
    assert capfd.readouterr().err == (
        "note: some of the model's dropout is left out, as Hugging Face's class has no field for "
        "it\n"
    )
