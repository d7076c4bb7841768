"""Names of files inside of files: what leads out of their folder is refused, and never opened."""

import json
import os
import shutil
from pathlib import Path

import pytest

from hermes.checkpoint import open_checkpoint
from hermes.data.prepared import PreparationOptions, open_prepared, prepare_tokens
from hermes.data.prepared.verifying import verify_prepared
from hermes.errors import HermesError
from hermes.interop.convert import convert
from hermes.interop.open_model import open_model
from tests.audited import list_opened, listening
from tests.checkpoint.support import resealed
from tests.finetuning.support import TEXT, small_checkpoint, small_tokenizer

# {0}: a name of a sound file in the folder above; {1}: its absolute name.
NAMES = (
    *("../{0}", "{1}", "./../{0}", "a/../../{0}", "here/../../{0}", "..//{0}", "/../{0}", "//{1}"),
    *("..\\{0}", "\\\\host\\share\\{0}", "C:{0}", "C:\\{0}", "file://{1}", "file:{1}", "~/{0}"),
    *("~root/{0}", "$HOME/{0}", "%2e%2e%2f{0}", "..%2f{0}", "../{0}\0", "\0", "../{0}\n", "..{0}"),
    *("link/{0}", "here/{0}", "../{0}.", "../{0} ", "/dev/zero", "/dev/stdin"),
    *("/proc/self/environ", "/etc/passwd", ".", "..", "", " ", "x" * 300, "\ud800", "../\u202e{0}"),
    *("-rf", "*", "[a-z]*"),
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A checkpoint, a folder in shards of each kind, and prepared tokens."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("sound")
    checkpoint = small_checkpoint(folder / "run")
    convert(checkpoint, folder / "hf", to="hf")
    params = {name: array for name, array in open_model(folder / "hf").params.items()}
    weights = folder / "hf" / "model.safetensors"
    shutil.copytree(folder / "hf", folder / "bins")
    (folder / "bins" / "model.safetensors").unlink()
    tensors = {name: torch.from_numpy(array.copy()) for name, array in params.items()}
    torch.save(tensors, folder / "bins" / "part.bin")
    (folder / "bins" / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(params, "part.bin")})
    )
    weights.rename(weights.with_name("part.safetensors"))
    (folder / "hf" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(params, "part.safetensors")})
    )
    (folder / "text.txt").write_text(TEXT * 90)
    options = PreparationOptions(shard_size=3000)
    prepare_tokens(folder / "text.txt", small_tokenizer(), folder / "tokens", options=options)
    return folder


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rename_in_manifest(folder, name):
    (checkpoint,) = folder.glob("step-*")
    known = json.loads((checkpoint / "manifest.json").read_text())["files"]
    known[name] = known.pop("model.safetensors")
    resealed(checkpoint, files=known)
    return [open_checkpoint], checkpoint


def rename_in_weight_map(folder, name):
    def change(index):
        key = max(index["weight_map"])
        index["weight_map"][key] = name

    change_json(next(folder.glob("*.index.json")), change)
    return [open_model], folder


def rename_in_prepared(folder, name):
    def change(manifest):
        manifest["shards"][0]["name"] = name

    change_json(folder / "manifest.json", change)
    return [open_prepared, verify_prepared], folder


# What gives a folder its other name, and its part that a name could lead to.
PLACES = {
    "manifest": ("run", rename_in_manifest, "model.safetensors"),
    "index of safetensors": ("hf", rename_in_weight_map, "part.safetensors"),
    "index of torch's files": ("bins", rename_in_weight_map, "part.bin"),
    "prepared tokens": ("tokens", rename_in_prepared, ""),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_name_in_a_file_leads_out_of_its_folder(place, sound, tmp_path):
    """Each name would find a sound file, of the right hash, where it was followed."""
    kind, rename, part = PLACES[place]
    refused = 0
    for number, pattern in enumerate(NAMES):
        outer = tmp_path / str(number)
        folder = shutil.copytree(sound / kind, outer / "inner")
        own = next(folder.glob("step-*"), folder)
        if place != "manifest":  # which refuses what it does not name
            (own / "here").mkdir()
            (own / "link").symlink_to(own.parent)
        # What is outside is what the name would have had inside.
        for file in own.iterdir():
            if file.is_file() and not file.is_symlink():
                shutil.copy(file, own.parent / file.name)
        target = part or min(own.glob("*.bin")).stem
        name = pattern.format(target, own.parent / target)
        reads, opened = rename(folder, name)
        for read in reads:
            with listening() as events, pytest.raises(HermesError) as said:
                read(opened)
            refused += 1
            assert "\n" not in str(said.value), name
            inside = os.path.realpath(own)
            for path in list_opened(events):
                real = os.path.realpath(path) if "\0" not in path else path
                assert not real.startswith(("/dev", "/proc", "/etc/passwd")), name
                is_ours = real.startswith(str(tmp_path)) and Path(real).suffix != ".mal"
                assert not is_ours or real.startswith(inside), f"{name!r} opened {path}"
    assert refused == len(NAMES) * (2 if place == "prepared tokens" else 1)
