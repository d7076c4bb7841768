"""A path that is something else than the command takes: one sentence says what it is."""

import json
from pathlib import Path

import pytest

from tests.cli.support import TRAIN, refuses

KINDS = {
    "run": "a run",
    "run/step-00000004": "a checkpoint of a run",
    "prepared": "a folder of prepared tokens",
    "hf": "a model of Hugging Face",
    "words": "the folder of a tokenizer",
    "empty": "an empty folder",
    "model.gguf": "a GGUF file",
    "tokenizer.json": "a tokenizer",
    "little.mal": "an architecture in MAL",
    "text.txt": "a file",
}
MODEL = ("hf", "run", "run/step-00000004")
# A command, what it takes, and what it says of the rest.
COMMANDS = {
    "convert @ out --to hf": (MODEL, "no model hermes reads|give a run, a checkpoint or the"),
    "eval -c @ --data text.txt --device cpu": (MODEL, "no model hermes reads|give a run, a"),
    "checkpoint list @": (("run",), "give a run|give the folder of a checkpoint or run"),
    "checkpoint verify @": (("run", "run/step-00000004"), "give the folder of a checkpoint or run"),
    "data verify @": (("prepared",), "name a folder that hermes prepare wrote"),
    "data show @": (("prepared",), "name a folder that hermes prepare wrote"),
    "plot @ --output plot.png": (("run",), "give a folder that hermes train wrote"),
}


@pytest.fixture
def everything(trained, call):
    assert (
        call("prepare", "-d", "text.txt", "--tokenizer", "tokenizer.json", "-o", "prepared")[0] == 0
    )
    for name in ("hf", "words", "empty"):
        Path(name).mkdir()
    Path("hf/config.json").write_text(json.dumps({"model_type": "llama"}))
    Path("words/tokenizer.json").write_bytes(Path("tokenizer.json").read_bytes())
    Path("model.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))


@pytest.mark.parametrize("line", COMMANDS)
def test_what_a_command_does_not_take_is_named_with_what_to_give(everything, call, line):
    takes, advice = COMMANDS[line]
    for path, kind in KINDS.items():
        if path in takes:
            continue
        code, out, err = call(*(path if word == "@" else word for word in line.split()))
        said = [one for one in err.splitlines() if one.startswith("Error: ")]
        assert (code, out, len(said)) == (1, "", 1), (path, err)
        assert said[0].startswith(f"Error: {path} is {kind}"), said
        assert any(one in said[0] for one in advice.split("|")), said


@pytest.mark.parametrize("path", ["run/step-00000004", "prepared", "hf"])
def test_a_run_is_not_resumed_in_a_folder_of_something_else(everything, call, path):
    """It was begun there: a checkpoint was no longer whole for the files that it got."""
    before = sorted(Path(path).iterdir())
    its = "give its run, run" if path.startswith("run") else "choose another directory"
    line = [path if word == "run" else word for word in TRAIN]
    refuses(call, 1, f"output {path!r} is {KINDS[path]}; {its}", *line, "--resume")
    assert sorted(Path(path).iterdir()) == before


@pytest.mark.parametrize("path", ["run", "run/step-00000004", "hf"])
def test_a_folder_with_a_model_is_no_text(everything, call, path):
    message = f"{path} is {KINDS[path]}, where text is needed; name the text itself"
    refuses(call, 1, message, "data", "check", path)
    refuses(call, 1, message, "prepare", path, "--tokenizer", "tokenizer.json", "-o", "new")


@pytest.mark.parametrize("path", ["prepared", "words", "empty"])
def test_a_folder_without_an_architecture_is_named(everything, call, path):
    message = f"{path} is {KINDS[path]} with no model.mal in it; name a checkpoint"
    refuses(call, 1, message, "info", path)
    gguf = "model.gguf is a GGUF file; name a .mal file, or a model's config.json"
    refuses(call, 1, gguf, "mal", "show", "model.gguf")


def test_a_folder_of_text_may_have_a_config_of_something_else(here, call):
    Path("texts").mkdir()
    Path("texts/config.json").write_text('[{"text": "some words"}]')
    code, _, err = call("data", "check", "texts")
    assert code == 0, err


@pytest.mark.parametrize("damage", [b"", b"{}", None], ids=["cut", "other", "gone"])
def test_a_checkpoint_without_its_manifest_is_damaged_and_nothing_else(trained, call, damage):
    manifest = Path("run/step-00000004/manifest.json")
    manifest.unlink() if damage is None else manifest.write_bytes(damage)
    code, _, err = call("checkpoint", "verify", "run/step-00000004")
    assert code == 1
    assert "manifest.json" in err
    assert "Hugging Face" not in err
