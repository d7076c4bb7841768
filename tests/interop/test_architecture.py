"""What names an architecture, in every command and function that takes one."""

import json
from pathlib import Path

import pytest

import hermes
from hermes import mal
from hermes.errors import CheckpointError, HermesError, SpecError
from hermes.interop.architecture import find_architecture
from hermes_cli.main import run

TEXT = """model little {
    vocab_size: 270
    max_seq_len: 16
    hidden_size: 8
    num_layers: 1
    block: { attention: { num_heads: 2 } ffn: { hidden_dim: 8 activation: swiglu } norm: rmsnorm }
}
"""
EPOCH, CONFIG = "checkpoint_epoch_1.safetensors", "config.json"


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A MAL file, a run with a checkpoint after each epoch, and what it converts to."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "little.mal").write_text(TEXT, encoding="utf-8")
    (folder / "text.txt").write_text("one two three " * 40, encoding="utf-8")
    tokenizer = folder / "tokenizer.json"
    hermes.train_tokenizer(folder / "text.txt", vocab_size=270).save(tokenizer)
    for name, layers in (("run", 1), ("other", 2)):
        spec = mal.edit_all(mal.load(folder / "little.mal"), {"num_layers": str(layers)})
        hermes.train(
            data=folder / "text.txt",
            tokenizer=tokenizer,
            model=spec,
            output=folder / name,
            epochs=2,
            batch_size=4,
            save_every_epoch=True,
            backend="torch",
        )
    hermes.convert(folder / "run", folder / "hf", to="hf", backend="torch")
    return folder


NAMES = (
    "little.mal",
    "run",
    f"run/{CONFIG}",
    f"run/{EPOCH}",
    "hf",
    f"hf/{CONFIG}",
    "hf/model.safetensors",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_an_architecture_is_read(places, name):
    wanted = mal.loads(TEXT).identity
    assert hermes.load_spec(places / name).identity == wanted
    assert hermes.load_spec(str(places / name)).identity == wanted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "command",
    [
        ("info", "NAME"),
        ("info", "--model", "NAME"),
        ("mal", "show", "NAME"),
        ("mal", "diff", "NAME", "little.mal"),
        ("plan", "--model", "NAME", "--tokens-per-second", "1000"),
        ("recipe", "--model", "NAME", "--tokens", "1M"),
    ],
    ids=" ".join,
)
def test_every_command_takes_every_name(places, monkeypatch, capsys, command, name):
    monkeypatch.chdir(places)
    assert run([name if word == "NAME" else word for word in command]) == 0, capsys.readouterr().err


def test_a_name_inside_a_run_shows_its_checkpoint(places):
    steps = sorted((places / "run").glob("step-*"))
    assert find_architecture(places / "run" / EPOCH).folder == steps[0]
    assert find_architecture(places / "run" / CONFIG).folder == steps[-1]


def test_a_run_trains_by_the_name_of_a_folder(places, tmp_path):
    hermes.train(
        data=places / "text.txt",
        tokenizer=places / "tokenizer.json",
        model=str(places / "hf"),
        output=tmp_path / "run",
        max_steps=1,
        batch_size=2,
        backend="torch",
    )
    assert hermes.load_spec(tmp_path / "run").identity == mal.loads(TEXT).identity


def test_config_of_a_run_goes_with_its_weights(places):
    step = sorted((places / "run").glob("step-*"))[0]
    loaded = hermes.load(
        step / "model.safetensors", config=places / "run" / CONFIG, backend="torch"
    )
    assert loaded.spec.identity == mal.loads(TEXT).identity
    with pytest.raises(CheckpointError, match=r"other.config.json is of another run"):
        hermes.load(places / "run" / EPOCH, config=places / "other" / CONFIG, backend="torch")


def test_what_has_no_architecture_is_refused_by_name(places, tmp_path):
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((places / "hf" / "model.safetensors").read_bytes())
    with pytest.raises(HermesError, match=r"holds weights only, and no config.json lies beside it"):
        hermes.load_spec(bare)
    with pytest.raises(CheckpointError, match="has no checkpoint after epoch 3"):
        hermes.load_spec(places / "run" / "checkpoint_epoch_3.safetensors")
    with pytest.raises(HermesError, match="there is no file"):
        hermes.load_spec(tmp_path / "nowhere" / CONFIG)


def test_fields_to_pass_over_need_a_config(places, tmp_path):
    values = json.loads((places / "hf" / CONFIG).read_text(encoding="utf-8"))
    strange = tmp_path / CONFIG
    strange.write_text(json.dumps(values | {"novelty": 3}), encoding="utf-8")
    with pytest.raises(SpecError, match="novelty"):
        find_architecture(strange)
    assert find_architecture(strange, ["novelty"]).spec.identity == mal.loads(TEXT).identity
    with pytest.raises(HermesError, match=r"little.mal has no config.json"):
        find_architecture(places / "little.mal", ["novelty"])
